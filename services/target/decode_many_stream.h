// One DecodeMany stream: many sessions on one gRPC reactor.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "services/target/decode_session.h"

namespace tutti::target {

// Life: as DecodeStreamReactor; its sessions hold it, too. At most one write is under way, with
// what all sessions had to say when it began; so a flush after a step is one message, and a slow
// reader gets fewer, larger ones.
class DecodeManyReactor final
    : public grpc::ServerBidiReactor<decoder::v1::DecodeManyRequest, decoder::v1::DecodeManyReply> {
 public:
  static DecodeManyReactor* Start(DecoderServiceImpl* service,
                                  grpc::CallbackServerContext* context);
  ~DecodeManyReactor() override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  // Ends the stream once its sessions have ended.
  void OnDrain();

 private:
  class Session;
  explicit DecodeManyReactor(DecoderServiceImpl* service) : service_(service) {}

  void TakeRequest();
  void CancelLocked();
  void PumpLocked();
  // Moves what the session has to say into `reply`. True when that was its end.
  static bool Gather(Session* session, decoder::v1::DecodeManyReply* reply);

  DecoderServiceImpl* const service_;
  std::shared_ptr<DecodeManyReactor> self_;
  decoder::v1::DecodeManyRequest request_;

  std::mutex mutex_;  // guards all below, and the sessions
  std::unordered_map<uint64_t, std::shared_ptr<Session>> sessions_;
  std::vector<uint64_t> spoken_;  // sessions that may have something to say
  bool writing_ = false, finish_started_ = false;
  bool last_ = false;  // nothing more will be opened
  bool cancelled_ = false;
  decoder::v1::DecodeManyReply reply_;
};

}  // namespace tutti::target
