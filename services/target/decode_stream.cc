#include "services/target/decode_stream.h"

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"

namespace tutti::target {

DecodeStreamReactor* DecodeStreamReactor::Start(DecoderServiceImpl* service,
                                                grpc::CallbackServerContext* context) {
  auto self = std::shared_ptr<DecodeStreamReactor>(new DecodeStreamReactor(service, context));
  self->self_ = self;
  ++service->num_streams_;
  self->StartRead(&self->request_);
  return self.get();
}

void DecodeStreamReactor::OnReadDone(bool ok) {
  if (!ok) {
    // The client has nothing more to say; it may still listen.
    std::lock_guard lock(mutex_);
    if (!opened()) FailLocked(absl::InvalidArgumentError("open: the stream ended before it"));
    return;
  }
  if (absl::Status status = Take(request_, rpc::RemainingUs(context_->deadline()), self_);
      !status.ok()) {
    std::lock_guard lock(mutex_);
    FailLocked(std::move(status));
    return;
  }
  request_.Clear();
  StartRead(&request_);
}

void DecodeStreamReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) return CancelLocked(absl::CancelledError("the client is gone"));
  PumpLocked();
}

void DecodeStreamReactor::OnCancel() {
  std::lock_guard lock(mutex_);
  CancelLocked(absl::CancelledError("cancelled by the client, or its deadline has passed"));
}

void DecodeStreamReactor::OnDone() {
  --service_->num_streams_;
  self_.reset();  // the engine may hold the last reference, for an instant
}

void DecodeStreamReactor::PumpLocked() {
  if (writing_ || finish_started_) return;
  if (has_pending_) {
    writing_reply_.Swap(&pending_);
    // Clear keeps the memory of the tokens for the next message.
    if (pending_.has_tokens()) pending_.mutable_tokens()->Clear();
    has_pending_ = false;
    writing_ = true;
    // Not with a buffer hint, even if the end follows: gRPC 1.51 may then hold a stream's first
    // write back until something else flushes the connection.
    StartWrite(&writing_reply_);
    return;
  }
  if (!status_.has_value()) return;
  finish_started_ = true;
  if (has_last_ && status_->ok()) {
    StartWriteAndFinish(&last_reply_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    Finish(rpc::ToGrpc(*status_));
  }
}

}  // namespace tutti::target
