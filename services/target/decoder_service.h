// tutti.decoder.v1.DecoderService over an EngineLoop.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "services/target/engine_loop.h"
#include "shared/model/decoder_model.h"
#include "shared/wire/decoder.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"

namespace tutti::target {

class DecodeManyReactor;

// Answers UNAVAILABLE (reason STARTING) until SetReady. Thread-safe.
class DecoderServiceImpl final : public decoder::v1::DecoderService::CallbackService {
 public:
  // `loop` is borrowed; it must outlive the gRPC server. `is_draft`: sequences may have a
  // lookahead. Called once.
  void SetReady(EngineLoop* loop, const model::ModelInfo& model, const wire::DecoderInfo& info,
                bool is_draft = false);
  // New streams get UNAVAILABLE (reason DRAINING); running ones go on.
  void StartDraining();

  grpc::ServerBidiReactor<decoder::v1::DecodeRequest, decoder::v1::DecodeReply>* Decode(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<decoder::v1::DecodeManyRequest, decoder::v1::DecodeManyReply>* DecodeMany(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const decoder::v1::GetModelRequest* request,
                                     decoder::v1::GetModelResponse* response) override;

  int num_streams() const { return num_streams_; }

 private:
  friend class DecodeSession;
  friend class DecodeStreamReactor;
  friend class DecodeManyReactor;
  struct Ready {
    EngineLoop* loop;
    model::ModelInfo model;
    wire::DecoderInfo info;
    bool is_draft;
  };
  // Errors: UNAVAILABLE, reason STARTING or DRAINING.
  absl::StatusOr<const Ready*> GetReady(bool for_new_work) const;

  // Streams that stay open without sequences: told of a drain.
  void AddDrainable(const std::shared_ptr<DecodeManyReactor>& stream);

  mutable std::mutex mutex_;
  std::optional<Ready> ready_;  // never changes once set
  std::vector<std::weak_ptr<DecodeManyReactor>> drainable_;
  std::atomic<bool> draining_{false};
  std::atomic<int> num_streams_{0};
};

}  // namespace tutti::target
