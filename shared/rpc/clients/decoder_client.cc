#include "shared/rpc/clients/decoder_client.h"

#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "shared/rpc/status.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"

namespace tutti::rpc {
namespace {

using decoder::v1::DecodeManyReply;
using decoder::v1::DecodeManyRequest;
using decoder::v1::DecodeReply;
using decoder::v1::DecoderService;

// One sequence of a ManyStream: what the peer says of it, checked, for its listener.
class Sequence {
 public:
  Sequence(const std::string& name, int vocab_size, std::shared_ptr<DecodeListener> listener)
      : name_(name), vocab_size_(vocab_size), listener_(std::move(listener)) {}

  // A reply of the peer. An error: the peer talks nonsense, the sequence is to be given up.
  absl::Status Take(const DecodeReply& reply) {
    std::lock_guard lock(mutex_);
    if (listener_ == nullptr || finished_) return absl::OkStatus();
    switch (reply.message_case()) {
      case DecodeReply::kTokens: {
        TUTTI_ASSIGN_OR_RETURN(auto tokens, wire::TokensFromProto(reply.tokens(), vocab_size_));
        listener_->OnTokens(std::move(tokens));
        return absl::OkStatus();
      }
      case DecodeReply::kFinished: {
        TUTTI_ASSIGN_OR_RETURN(auto finished,
                               wire::FinishedFromProto(reply.finished(), vocab_size_));
        finished_ = true;
        listener_->OnFinished(std::move(finished));
        return absl::OkStatus();
      }
      default:
        return absl::OkStatus();  // of a newer protocol
    }
  }

  // The end, once; later calls do nothing.
  void Close(absl::Status status) {
    std::lock_guard lock(mutex_);
    if (listener_ == nullptr) return;
    if (finished_) {
      status = absl::OkStatus();  // everything is here; how the stream ended does not matter
    } else if (status.ok()) {
      status = absl::UnavailableError("the stream ended before the sequence did");
    }
    std::exchange(listener_, nullptr)->OnClosed(Annotate(status, name_));
  }

 private:
  const std::string name_;
  const int vocab_size_;
  std::mutex mutex_;  // held over calls to the listener, so that they come one at a time
  std::shared_ptr<DecodeListener> listener_;  // until OnClosed
  bool finished_ = false;
};

// What may wait to be written to a decoder, in bytes. One that reads takes a message in
// microseconds; one that does not is as good as gone.
constexpr size_t kMaxQueuedBytes = size_t{64} << 20;

// One DecodeMany stream. Keeps itself alive until OnDone. The mutex is never held over a call to a
// listener, and listeners' locks may be held over calls from outside.
class ManyStream final : public grpc::ClientBidiReactor<DecodeManyRequest, DecodeManyReply> {
 public:
  // With its first sequence, number 1, which therefore hears of the stream's end however soon.
  static std::shared_ptr<ManyStream> Start(const std::shared_ptr<grpc::Channel>& channel,
                                           const wire::DecodeOpen& open, int64_t deadline_us,
                                           std::shared_ptr<Sequence> first) {
    auto stream = std::make_shared<ManyStream>(channel);
    stream->self_ = stream;
    stream->stub_->async()->DecodeMany(&stream->context_, stream.get());
    stream->AddHold();  // for writes from outside; released when reading ends
    stream->Open(open, deadline_us, std::move(first));
    stream->StartRead(&stream->reply_);
    stream->StartCall();
    return stream;
  }
  explicit ManyStream(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(DecoderService::NewStub(channel)) {}

  // The sequence's number; 0 when the stream has ended.
  uint64_t Open(const wire::DecodeOpen& open, int64_t deadline_us, std::shared_ptr<Sequence> s) {
    DecodeManyRequest request;
    wire::DecodeOpenToProto(open, request.mutable_request()->mutable_open());
    if (deadline_us > 0) request.set_timeout_us(deadline_us);
    std::lock_guard lock(mutex_);
    if (ended_) return 0;
    request.set_sequence(++last_number_);
    live_.emplace(last_number_, std::move(s));
    WriteLocked(std::move(request), nullptr);
    return last_number_;
  }

  void Write(uint64_t number, DecodeManyRequest request) {
    std::lock_guard lock(mutex_);
    if (!live_.contains(number)) return;
    request.set_sequence(number);
    WriteLocked(std::move(request), nullptr);
  }

  // The listener hears of it once the message is on its way, even if the peer never answers.
  void Cancel(uint64_t number) {
    std::lock_guard lock(mutex_);
    const auto it = live_.find(number);
    if (it == live_.end()) return;
    auto sequence = std::move(it->second);
    live_.erase(it);
    WriteLocked(CloseOf(number), std::move(sequence));
  }

  // Nothing more will be opened: the stream ends with its last sequence.
  void NoMore() {
    std::lock_guard lock(mutex_);
    no_more_ = true;
    MaybeEndLocked();
  }

  void OnWriteDone(bool ok) override {
    std::shared_ptr<Sequence> cancelled;
    {
      std::lock_guard lock(mutex_);
      cancelled = std::move(queue_.front().cancelled);
      queued_bytes_ -= queue_.front().bytes;
      queue_.pop_front();
      if (ok && !queue_.empty() && !ended_) StartWrite(&queue_.front().request);
      writing_ = ok && !queue_.empty() && !ended_;
      MaybeEndLocked();
    }
    if (cancelled != nullptr) cancelled->Close(absl::CancelledError("cancelled"));
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        std::lock_guard lock(mutex_);
        ended_ = true;
      }
      RemoveHold();
      return;
    }
    for (const auto& part : reply_.parts()) TakePart(part);
    StartRead(&reply_);
  }

  void OnDone(const grpc::Status& status) override {
    std::unordered_map<uint64_t, std::shared_ptr<Sequence>> live;
    std::deque<Queued> queue;
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
      live.swap(live_);
      queue.swap(queue_);
    }
    for (const Queued& queued : queue) {
      if (queued.cancelled != nullptr) queued.cancelled->Close(absl::CancelledError("cancelled"));
    }
    for (const auto& [number, sequence] : live) sequence->Close(FromGrpc(status));
    self_.reset();  // may delete this
  }

 private:
  struct Queued {
    DecodeManyRequest request;
    std::shared_ptr<Sequence> cancelled;  // to be closed when this is written
    size_t bytes = 0;
  };

  static DecodeManyRequest CloseOf(uint64_t number) {
    DecodeManyRequest request;
    request.set_sequence(number);
    request.mutable_request()->mutable_close();
    return request;
  }

  void WriteLocked(DecodeManyRequest request, std::shared_ptr<Sequence> cancelled) {
    const size_t bytes = request.ByteSizeLong();
    if (writing_ && queued_bytes_ + bytes > kMaxQueuedBytes && !std::exchange(given_up_, true)) {
      context_.TryCancel();  // its sequences end and go elsewhere
    }
    if (given_up_ && cancelled == nullptr) return;
    queued_bytes_ += bytes;
    queue_.push_back({std::move(request), std::move(cancelled), bytes});
    if (writing_ || ended_) return;
    writing_ = true;
    StartWrite(&queue_.front().request);
  }

  void MaybeEndLocked() {
    if (!no_more_ || writing_ || ended_ || !live_.empty() || std::exchange(writes_done_, true))
      return;
    StartWritesDone();
  }

  void TakePart(const DecodeManyReply::Part& part) {
    std::shared_ptr<Sequence> sequence;
    {
      std::lock_guard lock(mutex_);
      const auto it = live_.find(part.sequence());
      if (it == live_.end()) return;  // cancelled, or given up
      sequence = it->second;
    }
    absl::Status fault;
    if (part.has_reply()) fault = sequence->Take(part.reply());
    if (fault.ok() && !part.has_status()) return;
    {
      std::lock_guard lock(mutex_);
      live_.erase(part.sequence());
      if (!part.has_status()) WriteLocked(CloseOf(part.sequence()), nullptr);
      MaybeEndLocked();
    }
    sequence->Close(fault.ok() ? StatusFromProto(part.status())
                               : absl::DataLossError(std::string(fault.message())));
  }

  std::unique_ptr<DecoderService::Stub> stub_;
  grpc::ClientContext context_;
  DecodeManyReply reply_;
  std::shared_ptr<ManyStream> self_;

  std::mutex mutex_;  // guards all below
  std::unordered_map<uint64_t, std::shared_ptr<Sequence>> live_;
  std::deque<Queued> queue_;  // the first is being written while writing_
  size_t queued_bytes_ = 0;
  uint64_t last_number_ = 0;
  bool given_up_ = false;  // the peer does not read
  bool writing_ = false, ended_ = false, no_more_ = false, writes_done_ = false;
};

class StreamImpl final : public DecodeStream {
 public:
  StreamImpl(std::shared_ptr<ManyStream> many, uint64_t number)
      : many_(std::move(many)), number_(number) {}

  void Hint(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) override {
    DecodeManyRequest request;
    auto* hint = request.mutable_request()->mutable_hint();
    hint->set_epoch(epoch);
    hint->set_position(position);
    hint->mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
    many_->Write(number_, std::move(request));
  }
  void Confirm(uint64_t epoch, uint32_t position, std::vector<int32_t> token_ids) override {
    DecodeManyRequest request;
    auto* confirm = request.mutable_request()->mutable_confirm();
    confirm->set_epoch(epoch);
    confirm->set_position(position);
    confirm->mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
    many_->Write(number_, std::move(request));
  }
  void Cancel() override { many_->Cancel(number_); }

 private:
  const std::shared_ptr<ManyStream> many_;
  const uint64_t number_;
};

class ClientImpl final : public DecoderClient {
 public:
  ClientImpl(std::string name, std::shared_ptr<grpc::Channel> channel)
      : name_(std::move(name)),
        channel_(std::move(channel)),
        stub_(DecoderService::NewStub(channel_)) {}
  ~ClientImpl() override {
    if (many_ != nullptr) many_->NoMore();
  }

  std::shared_ptr<DecodeStream> Open(const wire::DecodeOpen& open, int vocab_size,
                                     int64_t deadline_us,
                                     std::shared_ptr<DecodeListener> listener) override {
    auto sequence = std::make_shared<Sequence>(name_, vocab_size, std::move(listener));
    std::lock_guard lock(mutex_);
    uint64_t number = many_ == nullptr ? 0 : many_->Open(open, deadline_us, sequence);
    if (number == 0) {  // the first one, or the decoder ended the stream before
      many_ = ManyStream::Start(channel_, open, deadline_us, std::move(sequence));
      number = 1;
    }
    return std::make_shared<StreamImpl>(many_, number);
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
  std::mutex mutex_;  // guards many_
  std::shared_ptr<ManyStream> many_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderClient>> DecoderClient::Create(
    const std::string& address, std::string name, const ChannelOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(auto channel, OpenChannel(address, options));
  return std::unique_ptr<DecoderClient>(
      std::make_unique<ClientImpl>(std::move(name), std::move(channel)));
}

}  // namespace tutti::rpc
