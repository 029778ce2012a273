// One sequence between its messages and the engine, whatever carries the messages: a stream of its
// own (decode_stream.h) or one that it shares (decode_many_stream.h).
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "services/target/decoder_service.h"

namespace tutti::target {

// What the engine produces gathers in `pending_`, which is bounded by the sequence, until the
// carrier takes it. Whatever ends the session cancels the sequence at once.
//
// The carrier's mutex guards everything; methods named ...Locked want it held, the others take it.
class DecodeSession : public OutputSink {
 public:
  // The engine's thread.
  void OnOutput(engine::SequenceOutput output) override;
  void Flush() override;
  void OnRefused(absl::Status status) override;

 protected:
  // `mutex` is the carrier's and outlives the session.
  DecodeSession(DecoderServiceImpl* service, std::mutex* mutex);
  ~DecodeSession() override;

  // There may be something new to send: pending_, or the end.
  virtual void PumpLocked() = 0;

  // One message of the client's; `left_us` is what its deadline leaves (INT64_MAX: none), `self`
  // keeps the session for the engine. An error ends the session: the caller hands it to FailLocked.
  absl::Status Take(const decoder::v1::DecodeRequest& request, int64_t left_us,
                    std::shared_ptr<OutputSink> self);
  // Ends the session: with an error of ours, or because nobody listens any more.
  void FailLocked(absl::Status status);
  void CancelLocked(absl::Status status);
  bool opened() const { return opened_; }

  std::mutex& mutex_;
  decoder::v1::DecodeReply pending_, last_reply_;
  bool has_pending_ = false;
  bool has_last_ = false;               // last_reply_ goes out with the status
  std::optional<absl::Status> status_;  // set: the session ends once all is sent

 private:
  absl::Status TakeHintLocked(const decoder::v1::DecodeRequest& request);
  absl::Status Open(const decoder::v1::Open& open, int64_t left_us,
                    std::shared_ptr<OutputSink> self);
  void EndSequenceLocked();
  void EndLocked(absl::Status status);
  void LogEnd(const absl::Status& status);

  DecoderServiceImpl* const service_;
  EngineLoop* loop_ = nullptr;
  std::optional<engine::SequenceId> sequence_;  // while the engine may have it
  bool opened_ = false;
  bool logprobs_ = false, prompt_logprobs_ = false;
  std::string request_id_, traceparent_;
  int32_t num_prompt_ = 0, num_output_ = 0;
  engine::Usage usage_;
};

}  // namespace tutti::target
