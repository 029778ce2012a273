#include "shared/rpc/clients/grpc_expert_link.h"

#include <grpcpp/channel.h>

#include "shared/rpc/status.h"

namespace tutti::rpc {

GrpcExpertLink::GrpcExpertLink(exchange::ShardId id, std::string address,
                               const wire::ExpertShape& shape, ExpertLinkEvents* events,
                               const std::shared_ptr<grpc::Channel>& channel,
                               grpc::CompletionQueue* queue)
    : ExpertLink(id, std::move(address), shape, events),
      stub_(expert::v1::ExpertService::NewStub(channel)) {
  context_.set_wait_for_ready(true);  // a shard that is not there yet may come
  stream_ = stub_->PrepareAsyncExchange(&context_, queue);
  ++operations_;
  stream_->StartCall(&tags_[kStarted]);
}

void GrpcExpertLink::Send(const moe::ExpertBatch& batch, const exchange::DispatchRows& rows,
                          uint64_t dispatch_id, uint32_t budget_us) {
  wire::DispatchToProto(batch, rows, dispatch_id, budget_us, shape_, &requests_.emplace_back());
  Write();
}

GrpcExpertLink* GrpcExpertLink::OnTag(void* tag, bool ok) {
  const auto* const t = static_cast<Tag*>(tag);
  t->link->OnEvent(t->op, ok);
  return t->link;
}

void GrpcExpertLink::OnEvent(Op op, bool ok) {
  --operations_;
  if (op == kWritten) {
    writing_ = false;
    if (ok) Write();  // a failed write also ends the read
  } else if (op == kFinished) {
    events_->OnDown(this, FromGrpc(end_));
  } else if (!ok) {
    up_ = false;
    requests_.clear();
    ++operations_;
    stream_->Finish(&end_, &tags_[kFinished]);
  } else if (op == kStarted) {
    up_ = true;
    Read();
    events_->OnUp(this);
  } else {
    OnMessage();
    Read();
  }
}

void GrpcExpertLink::OnMessage() {
  ExpertReply reply{
      .dispatch_id = reply_.dispatch_id(), .status = StatusFromProto(reply_.status()), .rows = {}};
  if (reply.status.ok()) {
    reply.status = wire::CheckReply(reply_);
    reply.rows = reply_.rows();
    reply.run_us = reply_.run_us();
    reply.process = reply_.process();
  }
  events_->OnReply(this, reply);
}

void GrpcExpertLink::Read() {
  ++operations_;
  stream_->Read(&reply_, &tags_[kRead]);
}

void GrpcExpertLink::Write() {
  if (writing_ || requests_.empty()) return;
  writing_ = true;
  request_ = std::move(requests_.front());
  requests_.pop_front();
  ++operations_;
  stream_->Write(request_, &tags_[kWritten]);
}

}  // namespace tutti::rpc
