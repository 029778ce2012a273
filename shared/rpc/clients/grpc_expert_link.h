// A shard by ExpertService.Exchange.
#pragma once

#include <grpcpp/completion_queue.h>
#include <grpcpp/support/async_stream.h>

#include <array>
#include <deque>
#include <memory>

#include "shared/rpc/clients/expert_link.h"
#include "tutti/expert/v1/expert.grpc.pb.h"

namespace tutti::rpc {

// One stream on a completion queue that its owner polls; done once its last operation came back.
class GrpcExpertLink final : public ExpertLink {
 public:
  GrpcExpertLink(exchange::ShardId id, std::string address, const wire::ExpertShape& shape,
                 ExpertLinkEvents* events, const std::shared_ptr<grpc::Channel>& channel,
                 grpc::CompletionQueue* queue);

  void Send(const moe::ExpertBatch& batch, const exchange::DispatchRows& rows, uint64_t dispatch_id,
            uint32_t budget_us) override;
  void Cancel() override { context_.TryCancel(); }
  bool done() const override { return operations_ == 0; }
  const char* name() const override { return "grpc"; }
  bool uses_queue() const override { return true; }

  // What the queue gave for one of its operations; returns its link.
  static GrpcExpertLink* OnTag(void* tag, bool ok);

 private:
  enum Op { kStarted, kRead, kWritten, kFinished };
  struct Tag {
    GrpcExpertLink* link;
    Op op;
  };
  void OnEvent(Op op, bool ok);
  void OnMessage();
  void Read();
  void Write();

  std::unique_ptr<expert::v1::ExpertService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<expert::v1::DispatchRequest, expert::v1::CombineReply>>
      stream_;
  std::array<Tag, 4> tags_ = {Tag{this, kStarted}, Tag{this, kRead}, Tag{this, kWritten},
                              Tag{this, kFinished}};
  int operations_ = 0;
  bool writing_ = false;
  std::deque<expert::v1::DispatchRequest> requests_;
  expert::v1::DispatchRequest request_;
  expert::v1::CombineReply reply_;
  grpc::Status end_;
};

}  // namespace tutti::rpc
