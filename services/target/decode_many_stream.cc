#include "services/target/decode_many_stream.h"

#include <limits>
#include <utility>

#include "shared/rpc/status.h"

namespace tutti::target {

using decoder::v1::DecodeManyReply;
using decoder::v1::DecodeRequest;

class DecodeManyReactor::Session final : public DecodeSession {
 public:
  Session(uint64_t number, std::shared_ptr<DecodeManyReactor> stream)
      : DecodeSession(stream->service_, &stream->mutex_),
        number_(number),
        stream_(std::move(stream)) {}

  void OnOutput(engine::SequenceOutput output) override {
    DecodeSession::OnOutput(std::move(output));
    std::lock_guard lock(mutex_);
    NoteLocked();
  }

 private:
  friend class DecodeManyReactor;
  void PumpLocked() override {
    NoteLocked();
    stream_->PumpLocked();
  }
  void NoteLocked() {
    if (noted_ || (!has_pending_ && !status_.has_value())) return;
    noted_ = true;
    stream_->spoken_.push_back(number_);
  }

  const uint64_t number_;
  const std::shared_ptr<DecodeManyReactor> stream_;
  bool noted_ = false;  // in spoken_
};

DecodeManyReactor* DecodeManyReactor::Start(DecoderServiceImpl* service,
                                            grpc::CallbackServerContext*) {
  auto self = std::shared_ptr<DecodeManyReactor>(new DecodeManyReactor(service));
  self->self_ = self;
  ++service->num_streams_;
  self->StartRead(&self->request_);
  service->AddDrainable(self);
  return self.get();
}

DecodeManyReactor::~DecodeManyReactor() = default;

void DecodeManyReactor::TakeRequest() {
  const DecodeRequest& request = request_.request();
  std::shared_ptr<Session> session;
  {
    std::lock_guard lock(mutex_);
    if (cancelled_) return;
    auto& place = sessions_[request_.sequence()];
    // What comes for a sequence that ended crossed its end on the way.
    if (place == nullptr && request.message_case() != DecodeRequest::kOpen) {
      sessions_.erase(request_.sequence());
      return;
    }
    if (place == nullptr) place = std::make_shared<Session>(request_.sequence(), self_);
    session = place;
  }
  const int64_t left_us =
      request_.timeout_us() > 0 ? request_.timeout_us() : std::numeric_limits<int64_t>::max();
  if (absl::Status status = session->Take(request, left_us, session); !status.ok()) {
    std::lock_guard lock(mutex_);
    session->FailLocked(std::move(status));
  }
}

void DecodeManyReactor::OnReadDone(bool ok) {
  if (!ok) {
    // The client opens nothing more; it may still listen.
    std::lock_guard lock(mutex_);
    last_ = true;
    PumpLocked();
    return;
  }
  TakeRequest();
  request_.Clear();
  StartRead(&request_);
}

void DecodeManyReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) CancelLocked();
  PumpLocked();
}

void DecodeManyReactor::OnCancel() {
  std::lock_guard lock(mutex_);
  CancelLocked();
  PumpLocked();
}

void DecodeManyReactor::CancelLocked() {
  if (std::exchange(cancelled_, true)) return;
  for (auto& [number, session] : std::exchange(sessions_, {})) {
    session->CancelLocked(absl::CancelledError("the client is gone"));
  }
}

void DecodeManyReactor::OnDrain() {
  std::lock_guard lock(mutex_);
  last_ = true;
  PumpLocked();
}

void DecodeManyReactor::OnDone() {
  --service_->num_streams_;
  self_.reset();
}

bool DecodeManyReactor::Gather(Session* session, DecodeManyReply* reply) {
  session->noted_ = false;
  if (session->has_pending_) {
    auto* part = reply->add_parts();
    part->set_sequence(session->number_);
    part->mutable_reply()->Swap(&session->pending_);
    session->pending_.Clear();
    session->has_pending_ = false;
  }
  if (!session->status_.has_value()) return false;
  auto* part = reply->add_parts();
  part->set_sequence(session->number_);
  if (session->has_last_ && session->status_->ok()) {
    part->mutable_reply()->Swap(&session->last_reply_);
  }
  rpc::StatusToProto(*session->status_, part->mutable_status());
  return true;
}

void DecodeManyReactor::PumpLocked() {
  if (writing_ || finish_started_) return;
  if (cancelled_) {
    finish_started_ = true;
    return Finish(rpc::ToGrpc(absl::CancelledError("the client is gone")));
  }
  if (!spoken_.empty()) {
    reply_.Clear();
    for (const uint64_t number : std::exchange(spoken_, {})) {
      const auto it = sessions_.find(number);
      if (it != sessions_.end() && Gather(it->second.get(), &reply_)) sessions_.erase(it);
    }
    if (reply_.parts_size() > 0) {
      writing_ = true;
      return StartWrite(&reply_);
    }
  }
  if (last_ && sessions_.empty()) {
    finish_started_ = true;
    Finish(grpc::Status::OK);
  }
}

}  // namespace tutti::target
