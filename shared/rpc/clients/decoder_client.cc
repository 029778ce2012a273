#include "shared/rpc/clients/decoder_client.h"

#include <deque>
#include <mutex>

#include "shared/rpc/status.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"

namespace tutti::rpc {
namespace {

using decoder::v1::DecodeReply;
using decoder::v1::DecodeRequest;
using decoder::v1::DecoderService;

// Keeps itself alive from Start until OnDone. The mutex guards what the application's threads
// touch: the queue of writes and whether more may be started. gRPC calls OnReadDone one at a time,
// and OnDone after everything else, so reply_, finished_ and fault_ need none.
class StreamImpl final : public DecodeStream,
                         public grpc::ClientBidiReactor<DecodeRequest, DecodeReply> {
 public:
  StreamImpl(std::string name, int vocab_size, std::shared_ptr<DecodeListener> listener,
             std::shared_ptr<grpc::Channel> channel)
      : name_(std::move(name)),
        vocab_size_(vocab_size),
        listener_(std::move(listener)),
        stub_(DecoderService::NewStub(channel)) {}

  void Start(const wire::DecodeOpen& open, int64_t deadline_us, std::shared_ptr<StreamImpl> self) {
    self_ = std::move(self);
    if (deadline_us > 0) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::microseconds(deadline_us));
    }
    wire::DecodeOpenToProto(open, request_.mutable_open());
    stub_->async()->Decode(&context_, this);
    AddHold();  // for writes from outside; released when reading ends
    writing_ = true;
    StartWrite(&request_);
    StartRead(&reply_);
    StartCall();
  }

  void Hint(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) override {
    DecodeRequest request;
    auto* hint = request.mutable_hint();
    hint->set_epoch(epoch);
    hint->set_position(position);
    hint->mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
    Write(std::move(request));
  }
  void Confirm(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) override {
    DecodeRequest request;
    auto* confirm = request.mutable_confirm();
    confirm->set_epoch(epoch);
    confirm->set_position(position);
    confirm->mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
    Write(std::move(request));
  }
  void Cancel() override { context_.TryCancel(); }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (ok && !queue_.empty() && !reading_ended_) StartNextLocked();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        std::lock_guard lock(mutex_);
        reading_ended_ = true;
      }
      RemoveHold();
      return;
    }
    if (absl::Status status = Take(); !status.ok() && fault_.ok()) {
      fault_ = absl::DataLossError(std::string(status.message()));
      context_.TryCancel();
    }
    StartRead(&reply_);
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status out = FromGrpc(status);
    if (!fault_.ok()) {
      out = fault_;
    } else if (out.ok() && !finished_) {
      out = absl::UnavailableError("the stream ended before the sequence did");
    } else if (finished_) {
      out = absl::OkStatus();  // everything is here; how the connection ended does not matter
    }
    listener_->OnClosed(Annotate(out, name_));
    listener_.reset();
    self_.reset();  // may delete this
  }

 private:
  void Write(DecodeRequest request) {
    std::lock_guard lock(mutex_);
    if (reading_ended_) return;
    queue_.push_back(std::move(request));
    if (!writing_) StartNextLocked();
  }
  void StartNextLocked() {
    request_ = std::move(queue_.front());
    queue_.pop_front();
    writing_ = true;
    StartWrite(&request_);
  }

  absl::Status Take() {
    if (finished_ || !fault_.ok()) return absl::OkStatus();
    switch (reply_.message_case()) {
      case DecodeReply::kTokens: {
        TUTTI_ASSIGN_OR_RETURN(auto tokens, wire::TokensFromProto(reply_.tokens(), vocab_size_));
        listener_->OnTokens(std::move(tokens));
        return absl::OkStatus();
      }
      case DecodeReply::kFinished: {
        TUTTI_ASSIGN_OR_RETURN(auto finished,
                               wire::FinishedFromProto(reply_.finished(), vocab_size_));
        finished_ = true;
        listener_->OnFinished(std::move(finished));
        return absl::OkStatus();
      }
      default:
        return absl::OkStatus();  // of a newer protocol
    }
  }

  const std::string name_;
  const int vocab_size_;
  std::shared_ptr<DecodeListener> listener_;
  std::unique_ptr<DecoderService::Stub> stub_;
  grpc::ClientContext context_;
  DecodeReply reply_;
  bool finished_ = false;
  absl::Status fault_;
  std::shared_ptr<StreamImpl> self_;

  std::mutex mutex_;
  DecodeRequest request_;
  std::deque<DecodeRequest> queue_;
  bool writing_ = false, reading_ended_ = false;
};

class ClientImpl final : public DecoderClient {
 public:
  ClientImpl(std::string name, std::shared_ptr<grpc::Channel> channel)
      : name_(std::move(name)),
        channel_(std::move(channel)),
        stub_(DecoderService::NewStub(channel_)) {}

  std::shared_ptr<DecodeStream> Open(const wire::DecodeOpen& open, int vocab_size,
                                     int64_t deadline_us,
                                     std::shared_ptr<DecodeListener> listener) override {
    auto stream = std::make_shared<StreamImpl>(name_, vocab_size, std::move(listener), channel_);
    stream->Start(open, deadline_us, stream);
    return stream;
  }

  void GetModel(int64_t deadline_us,
                std::function<void(absl::StatusOr<wire::DecoderInfo>)> done) override {
    struct Call {
      grpc::ClientContext context;
      decoder::v1::GetModelRequest request;
      decoder::v1::GetModelResponse response;
    };
    auto call = std::make_shared<Call>();
    call->context.set_deadline(std::chrono::system_clock::now() +
                               std::chrono::microseconds(deadline_us));
    stub_->async()->GetModel(&call->context, &call->request, &call->response,
                             [call, name = name_, done = std::move(done)](grpc::Status status) {
                               if (!status.ok()) return done(Annotate(FromGrpc(status), name));
                               auto info = wire::DecoderInfoFromProto(call->response);
                               if (info.ok()) return done(*std::move(info));
                               done(Annotate(info.status(), name));
                             });
  }

 private:
  const std::string name_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<DecoderService::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderClient>> DecoderClient::Create(
    const std::string& address, std::string name, const ChannelOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(auto channel, OpenChannel(address, options));
  return std::unique_ptr<DecoderClient>(
      std::make_unique<ClientImpl>(std::move(name), std::move(channel)));
}

}  // namespace tutti::rpc
