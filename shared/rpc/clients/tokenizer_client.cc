#include "shared/rpc/clients/tokenizer_client.h"

#include "shared/rpc/status.h"
#include "tutti/tokenizer/v1/tokenizer.grpc.pb.h"

namespace tutti::rpc {
namespace {

using tokenizer::v1::TokenizerService;

template <typename Request, typename Response>
struct Call {
  explicit Call(int64_t deadline_us) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::microseconds(deadline_us));
  }
  grpc::ClientContext context;
  Request request;
  Response response;
};

// Reads the whole stream; deletes itself at its end.
class VocabularyCall final : public grpc::ClientReadReactor<tokenizer::v1::GetVocabularyResponse> {
 public:
  VocabularyCall(std::string name, int64_t deadline_us,
                 std::function<void(absl::StatusOr<wire::Vocabulary>)> done)
      : name_(std::move(name)), done_(std::move(done)) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::microseconds(deadline_us));
  }
  void Start(TokenizerService::Stub* stub) {
    stub->async()->GetVocabulary(&context_, &request_, this);
    StartRead(&piece_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (fault_.ok()) {
      fault_ = reader_.Add(piece_);
      if (!fault_.ok()) context_.TryCancel();
    }
    StartRead(&piece_);
  }
  void OnDone(const grpc::Status& status) override {
    if (!fault_.ok()) {
      done_(Annotate(fault_, name_));
    } else if (!status.ok()) {
      done_(Annotate(FromGrpc(status), name_));
    } else {
      done_(std::move(reader_).Finish());
    }
    delete this;
  }

 private:
  const std::string name_;
  std::function<void(absl::StatusOr<wire::Vocabulary>)> done_;
  grpc::ClientContext context_;
  tokenizer::v1::GetVocabularyRequest request_;
  tokenizer::v1::GetVocabularyResponse piece_;
  wire::VocabularyReader reader_;
  absl::Status fault_;
};

class ClientImpl final : public TokenizerClient {
 public:
  ClientImpl(std::string name, std::shared_ptr<grpc::Channel> channel)
      : name_(std::move(name)), stub_(TokenizerService::NewStub(std::move(channel))) {}

  void Encode(const wire::EncodeInput& input, int64_t deadline_us,
              std::function<void(absl::StatusOr<wire::EncodeResult>)> done) override {
    auto call = std::make_shared<Call<tokenizer::v1::EncodeRequest, tokenizer::v1::EncodeResponse>>(
        deadline_us);
    wire::EncodeInputToProto(input, &call->request);
    stub_->async()->Encode(&call->context, &call->request, &call->response,
                           [call, name = name_, done = std::move(done)](grpc::Status status) {
                             if (!status.ok()) return done(Annotate(FromGrpc(status), name));
                             done(wire::EncodeResultFromProto(call->response));
                           });
  }

  void Decode(const std::vector<int32_t>& ids, bool skip_special, int64_t deadline_us,
              std::function<void(absl::StatusOr<std::string>)> done) override {
    auto call = std::make_shared<Call<tokenizer::v1::DecodeRequest, tokenizer::v1::DecodeResponse>>(
        deadline_us);
    call->request.mutable_ids()->Assign(ids.begin(), ids.end());
    call->request.set_skip_special(skip_special);
    stub_->async()->Decode(&call->context, &call->request, &call->response,
                           [call, name = name_, done = std::move(done)](grpc::Status status) {
                             if (!status.ok()) return done(Annotate(FromGrpc(status), name));
                             done(std::move(*call->response.mutable_text()));
                           });
  }

  void GetVocabulary(int64_t deadline_us,
                     std::function<void(absl::StatusOr<wire::Vocabulary>)> done) override {
    (new VocabularyCall(name_, deadline_us, std::move(done)))->Start(stub_.get());
  }

 private:
  const std::string name_;
  std::unique_ptr<TokenizerService::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerClient>> TokenizerClient::Create(
    const std::string& address, std::string name, const ChannelOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(auto channel, OpenChannel(address, options));
  return std::unique_ptr<TokenizerClient>(
      std::make_unique<ClientImpl>(std::move(name), std::move(channel)));
}

}  // namespace tutti::rpc
