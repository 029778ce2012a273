// One Decode stream: a gRPC reactor on one side, a sink of the engine's on the other.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "services/target/decoder_service.h"

namespace tutti::target {

// Life: made by Decode, kept alive by itself until gRPC's OnDone and by the engine while it has the
// sequence. Whatever ends the stream cancels the sequence at once.
//
// Writing: at most one write is under way; what the engine produces meanwhile gathers in
// `pending_`, which is bounded by the sequence. The engine's thread starts writes itself, so a
// token takes no extra hop between threads.
class DecodeStreamReactor final
    : public grpc::ServerBidiReactor<decoder::v1::DecodeRequest, decoder::v1::DecodeReply>,
      public OutputSink {
 public:
  static DecodeStreamReactor* Start(DecoderServiceImpl* service,
                                    grpc::CallbackServerContext* context);
  ~DecodeStreamReactor() override;

  // gRPC.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // The engine's thread.
  void OnOutput(engine::SequenceOutput output, bool hold) override;
  void Flush() override;
  void OnRefused(absl::Status status) override;

 private:
  DecodeStreamReactor(DecoderServiceImpl* service, grpc::CallbackServerContext* context)
      : service_(service), context_(context) {}

  absl::Status TakeMessage();
  absl::Status Open();
  void EndSequenceLocked();
  void EndLocked(absl::Status status);
  void PumpLocked();
  void LogEnd(const absl::Status& status);

  DecoderServiceImpl* const service_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<DecodeStreamReactor> self_;
  decoder::v1::DecodeRequest request_;

  std::mutex mutex_;  // guards all below
  EngineLoop* loop_ = nullptr;
  std::optional<engine::SequenceId> sequence_;  // while the engine may have it
  bool opened_ = false, cancelled_ = false;
  bool logprobs_ = false, prompt_logprobs_ = false;
  std::string request_id_, traceparent_;
  int32_t num_prompt_ = 0, num_output_ = 0;
  engine::Usage usage_;

  bool writing_ = false, has_pending_ = false;
  bool holding_ = false;  // what is pending waits for the next output
  decoder::v1::DecodeReply pending_, writing_reply_, last_reply_;
  bool has_last_ = false;               // last_reply_ goes out with the status
  std::optional<absl::Status> status_;  // set: the stream ends once all is written
  bool finish_started_ = false;
};

}  // namespace tutti::target
