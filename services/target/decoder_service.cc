#include "services/target/decoder_service.h"

#include <utility>

#include "services/target/decode_many_stream.h"
#include "services/target/decode_stream.h"
#include "shared/rpc/status.h"

namespace tutti::target {

void DecoderServiceImpl::SetReady(EngineLoop* loop, const model::ModelInfo& model,
                                  const wire::DecoderInfo& info, bool is_draft) {
  std::lock_guard lock(mutex_);
  ready_.emplace(Ready{loop, model, info, is_draft});
}

absl::StatusOr<const DecoderServiceImpl::Ready*> DecoderServiceImpl::GetReady(
    bool for_new_work) const {
  if (for_new_work && draining_) {
    return WithReason(absl::UnavailableError("draining"), "DRAINING");
  }
  std::lock_guard lock(mutex_);
  if (!ready_.has_value()) {
    return WithRetryAfterMs(
        WithReason(absl::UnavailableError("the model is being loaded"), "STARTING"), 200);
  }
  return &*ready_;
}

grpc::ServerBidiReactor<decoder::v1::DecodeRequest, decoder::v1::DecodeReply>*
DecoderServiceImpl::Decode(grpc::CallbackServerContext* context) {
  return DecodeStreamReactor::Start(this, context);
}

grpc::ServerBidiReactor<decoder::v1::DecodeManyRequest, decoder::v1::DecodeManyReply>*
DecoderServiceImpl::DecodeMany(grpc::CallbackServerContext* context) {
  return DecodeManyReactor::Start(this, context);
}

void DecoderServiceImpl::AddDrainable(const std::shared_ptr<DecodeManyReactor>& stream) {
  {
    std::lock_guard lock(mutex_);
    std::erase_if(drainable_, [](const auto& s) { return s.expired(); });
    drainable_.push_back(stream);
  }
  if (draining_) stream->OnDrain();
}

void DecoderServiceImpl::StartDraining() {
  draining_ = true;
  std::vector<std::weak_ptr<DecodeManyReactor>> streams;
  {
    std::lock_guard lock(mutex_);
    streams.swap(drainable_);
  }
  for (const auto& weak : streams) {
    if (const auto stream = weak.lock()) stream->OnDrain();
  }
}

grpc::ServerUnaryReactor* DecoderServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                       const decoder::v1::GetModelRequest*,
                                                       decoder::v1::GetModelResponse* response) {
  auto* reactor = context->DefaultReactor();
  const auto ready = GetReady(/*for_new_work=*/false);
  if (ready.ok()) wire::DecoderInfoToProto((*ready)->info, response);
  reactor->Finish(rpc::ToGrpc(ready.status()));
  return reactor;
}

}  // namespace tutti::target
