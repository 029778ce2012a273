// One Decode stream: a gRPC reactor on one side, a session of its own on the other.
#pragma once

#include <memory>
#include <mutex>

#include "services/target/decode_session.h"

namespace tutti::target {

// Before the session, which borrows it.
struct CarrierMutex {
  std::mutex carrier_mutex;
};

// Life: made by Decode, kept alive by itself until gRPC's OnDone and by the engine while it has the
// sequence. At most one write is under way; the engine's thread starts writes itself, so a token
// takes no extra hop between threads.
class DecodeStreamReactor final
    : public grpc::ServerBidiReactor<decoder::v1::DecodeRequest, decoder::v1::DecodeReply>,
      private CarrierMutex,
      public DecodeSession {
 public:
  static DecodeStreamReactor* Start(DecoderServiceImpl* service,
                                    grpc::CallbackServerContext* context);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  DecodeStreamReactor(DecoderServiceImpl* service, grpc::CallbackServerContext* context)
      : DecodeSession(service, &carrier_mutex), service_(service), context_(context) {}

  void PumpLocked() override;

  DecoderServiceImpl* const service_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<DecodeStreamReactor> self_;
  decoder::v1::DecodeRequest request_;

  // Guarded by the mutex.
  bool writing_ = false, finish_started_ = false;
  decoder::v1::DecodeReply writing_reply_;
};

}  // namespace tutti::target
