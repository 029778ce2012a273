#include "services/gateway/generation_client.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/trace.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;

constexpr int64_t kMaxBackoffMs = 500;

void Prepare(const CallContext& call, int64_t deadline_ms, grpc::ClientContext* context) {
  if (!call.traceparent.empty()) context->AddMetadata(telemetry::kTraceparentKey, call.traceparent);
  if (deadline_ms > 0) rpc::SetDeadlineMs(context, deadline_ms);
}

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Drops min(*skip, size) entries at the front of a repeated field, which has `per` of them for
// each.
template <typename Field>
void DropFront(Field* field, int count) {
  field->DeleteSubrange(0, std::min(count, field->size()));
}

}  // namespace

bool IsConnectionFailure(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return false;
  if (!status.error_details().empty()) return false;  // the router's own words
  // gRPC's words for a connection that could not be made or was lost; a hop behind the router puts
  // its name in front. A phrase that is missing here costs a resend, nothing else.
  static constexpr std::string_view kPhrases[] = {"failed to connect",
                                                  "Socket closed",
                                                  "Connection reset",
                                                  "Connection refused",
                                                  "Stream removed",
                                                  "Broken pipe",
                                                  "GOAWAY",
                                                  "keepalive",
                                                  "Failed to pick",
                                                  "Endpoint closing",
                                                  "Transport closed",
                                                  "Cancelling all calls",
                                                  "recvmsg",
                                                  "sendmsg",
                                                  "connections to all backends"};
  const std::string& message = status.error_message();
  return std::any_of(std::begin(kPhrases), std::end(kPhrases),
                     [&](std::string_view p) { return message.starts_with(p); });
}

bool IsDraining(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE &&
         ReasonOf(rpc::FromGrpc(status)) == "DRAINING";
}

absl::Status FromRouter(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (IsConnectionFailure(status)) {
    return absl::UnavailableError("the router cannot be reached just now; try again");
  }
  const absl::Status out = rpc::FromGrpc(status);
  std::string message(out.message());
  if (message.find("unix:") == std::string::npos) return out;
  // "unix:/some/dir/target-1.sock: ..." of an inner hop.
  for (size_t at = 0; (at = message.find("unix:", at)) != std::string::npos;) {
    size_t end = message.find_first_of(" \t\n\"'),;}", at);
    end = std::min(end, message.size());
    while (end > at + 5 && message[end - 1] == ':') --end;
    message.replace(at, end - at, "a local socket");
    at += 14;
  }
  absl::Status clean(out.code(), message);
  out.ForEachPayload([&](auto url, const absl::Cord& payload) { clean.SetPayload(url, payload); });
  return clean;
}

Replay::Choice& Replay::At(uint32_t index) {
  if (index >= choices_.size()) choices_.resize(std::min<size_t>(index, 4096) + 1);
  return choices_[std::min<size_t>(index, choices_.size() - 1)];
}

void Replay::Count(const GenerateResponse& message) {
  if (message.has_started()) started_ = true;
  if (message.has_finished()) At(message.finished().index()).finished = true;
  if (!message.has_delta()) return;
  Choice& c = At(message.delta().index());
  c.tokens += static_cast<uint64_t>(message.delta().tokens_size());
  c.prompt_tokens += static_cast<uint64_t>(message.delta().prompt_tokens_size());
  c.text += message.delta().text().size();
}

void Replay::Restart() {
  skip_started_ = started_;
  for (Choice& c : choices_) {
    c.skip_tokens = c.tokens;
    c.skip_text = c.text;
    c.skip_prompt_tokens = c.prompt_tokens;
  }
}

bool Replay::Trim(GenerateResponse* message) {
  if (message->has_started()) return !std::exchange(skip_started_, false);
  if (message->has_finished()) return !At(message->finished().index()).finished;
  if (!message->has_delta()) return true;
  auto* d = message->mutable_delta();
  Choice& c = At(d->index());
  if (const int n = static_cast<int>(
          std::min<uint64_t>(c.skip_tokens, static_cast<uint64_t>(d->tokens_size())));
      n > 0) {
    int alternatives = 0;
    for (int i = 0; i < n; ++i) alternatives += d->tokens(i).top_size();
    DropFront(d->mutable_tokens(), n);
    DropFront(d->mutable_token_bytes(), n);
    DropFront(d->mutable_top_bytes(), alternatives);
    d->set_offset(d->offset() + static_cast<uint32_t>(n));
    c.skip_tokens -= static_cast<uint64_t>(n);
  }
  if (const int n = static_cast<int>(
          std::min<uint64_t>(c.skip_prompt_tokens, static_cast<uint64_t>(d->prompt_tokens_size())));
      n > 0) {
    int alternatives = 0;
    for (int i = 0; i < n; ++i) alternatives += d->prompt_tokens(i).top_size();
    DropFront(d->mutable_prompt_tokens(), n);
    DropFront(d->mutable_prompt_token_bytes(), n);
    DropFront(d->mutable_prompt_top_bytes(), alternatives);
    c.skip_prompt_tokens -= static_cast<uint64_t>(n);
  }
  if (const auto n = std::min<uint64_t>(c.skip_text, d->text().size()); n > 0) {
    d->mutable_text()->erase(0, n);
    c.skip_text -= n;
  }
  return d->tokens_size() > 0 || d->prompt_tokens_size() > 0 || !d->text().empty();
}

RouterQueue::RouterQueue(int threads) {
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] {
      void* tag = nullptr;
      bool ok = false;
      while (queue_.Next(&tag, &ok)) static_cast<Event*>(tag)->OnEvent(ok);
    });
  }
}

RouterQueue::~RouterQueue() {
  queue_.Shutdown();
  for (std::thread& t : threads_) t.join();
}

// One attempt at one call. One operation is under way at a time: start, reads, finish. Keeps itself
// alive until the finish.
class GenerationStreams::Stream final : public RouterQueue::Event {
 public:
  Stream(std::shared_ptr<GenerationStreams> parent, size_t call)
      : parent_(std::move(parent)), call_(call) {}

  void Run(const GenerateRequest& request, int64_t deadline_ms, std::shared_ptr<Stream> self) {
    self_ = std::move(self);
    Prepare(parent_->context_, deadline_ms, &context_);
    reader_ = parent_->stub_->PrepareAsyncGenerate(&context_, request, parent_->queue_->get());
    reader_->StartCall(tag());
  }
  void Read() {
    op_ = Op::kRead;
    reader_->Read(&message_, tag());
  }
  void Cancel() { context_.TryCancel(); }

  void OnEvent(bool ok) override {
    if (op_ == Op::kFinish) {
      const auto self = std::move(self_);
      const auto parent = parent_;
      return parent->OnEnd(call_, status_);
    }
    if (!ok) {
      op_ = Op::kFinish;
      return reader_->Finish(&status_, tag());
    }
    if (op_ == Op::kRead) {
      parent_->OnMessage(call_, &message_);
      std::lock_guard lock(parent_->mutex_);
      if (parent_->paused_ && !parent_->cancelled_) {
        parent_->waiting_[call_] = true;
        return;
      }
    }
    Read();
  }

 private:
  enum class Op { kStart, kRead, kFinish };
  void* tag() { return static_cast<RouterQueue::Event*>(this); }

  const std::shared_ptr<GenerationStreams> parent_;
  const size_t call_;
  std::shared_ptr<Stream> self_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReaderInterface<GenerateResponse>> reader_;
  Op op_ = Op::kStart;
  GenerateResponse message_;
  grpc::Status status_;
};

GenerationStreams::GenerationStreams(RouterStub* stub, RouterQueue* queue,
                                     std::shared_ptr<const std::vector<GenerateRequest>> requests,
                                     const CallContext& context, Callbacks callbacks)
    : stub_(stub),
      queue_(queue),
      requests_(std::move(requests)),
      context_(context),
      begin_ms_(NowMs()),
      callbacks_(std::move(callbacks)),
      replays_(requests_->size()),
      streams_(requests_->size()),
      waiting_(requests_->size()),
      live_(requests_->size()) {}

std::shared_ptr<GenerationStreams> GenerationStreams::Start(
    RouterStub* stub, RouterQueue* queue,
    std::shared_ptr<const std::vector<GenerateRequest>> requests, const CallContext& context,
    Callbacks callbacks) {
  std::shared_ptr<GenerationStreams> s(
      new GenerationStreams(stub, queue, std::move(requests), context, std::move(callbacks)));
  for (size_t i = 0; i < s->requests_->size(); ++i) s->Begin(i);
  return s;
}

void GenerationStreams::Begin(size_t call) {
  int64_t deadline_ms = context_.deadline_ms;
  if (deadline_ms > 0) deadline_ms = std::max<int64_t>(deadline_ms - (NowMs() - begin_ms_), 1);
  auto stream = std::make_shared<Stream>(shared_from_this(), call);
  bool cancelled;
  int attempt;
  {
    std::lock_guard lock(mutex_);
    streams_[call] = stream;
    cancelled = cancelled_;
    attempt = resends_;
  }
  const GenerateRequest* request = &(*requests_)[call];
  GenerateRequest again;
  if (attempt > 0 && !request->request_id().empty()) {
    // A router that lost only the connection still has the id.
    again = *request;
    again.set_request_id(request->request_id().substr(0, 112) + "~" + std::to_string(attempt));
    request = &again;
  }
  stream->Run(*request, deadline_ms, stream);
  if (cancelled) stream->Cancel();
}

void GenerationStreams::OnMessage(size_t call, GenerateResponse* message) {
  std::lock_guard delivery(delivery_);
  {
    std::lock_guard lock(mutex_);
    if (over_ || cancelled_) return;
  }
  if (!replays_[call].Trim(message)) return;
  replays_[call].Count(*message);
  callbacks_.message(call, *message);
}

void GenerationStreams::OnEnd(size_t call, const grpc::Status& status) {
  int64_t again_ms = -1;
  bool last = false;
  {
    std::lock_guard lock(mutex_);
    streams_[call] = nullptr;
    waiting_[call] = false;
    const bool lost = IsConnectionFailure(status) || IsDraining(status);
    if (!cancelled_ && context_.resend_ms > 0 && (*requests_)[call].sampling().has_seed() &&
        (lost ||
         (first_failure_ms_ >= 0 && status.error_code() == grpc::StatusCode::UNAVAILABLE))) {
      if (first_failure_ms_ < 0) first_failure_ms_ = NowMs();
      if (NowMs() - first_failure_ms_ < context_.resend_ms) {
        again_ms = backoff_ms_;
        backoff_ms_ = std::min(backoff_ms_ * 2, kMaxBackoffMs);
        ++resends_;
      }
    }
    if (again_ms < 0) last = --live_ == 0;
  }
  if (again_ms >= 0) {
    {
      std::lock_guard delivery(delivery_);
      replays_[call].Restart();
    }
    context_.after(again_ms, [self = shared_from_this(), call] { self->Begin(call); });
    return;
  }
  if (!status.ok()) {
    End(FromRouter(status));
    Cancel();
  } else if (last) {
    End(absl::OkStatus());
  }
}

void GenerationStreams::End(const absl::Status& status) {
  std::lock_guard delivery(delivery_);
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(over_, true)) return;
  }
  callbacks_.done(status);
  callbacks_ = {};  // what they held is free
}

void GenerationStreams::Pause() {
  std::lock_guard lock(mutex_);
  paused_ = true;
}

void GenerationStreams::Resume() {
  std::vector<std::shared_ptr<Stream>> ready;
  {
    std::lock_guard lock(mutex_);
    paused_ = false;
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (!waiting_[i]) continue;
      waiting_[i] = false;
      ready.push_back(streams_[i]);
    }
  }
  for (const auto& s : ready) s->Read();
}

void GenerationStreams::Cancel() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(cancelled_, true)) return;
    streams = streams_;
  }
  for (const auto& s : streams) {
    if (s != nullptr) s->Cancel();
  }
  Resume();  // a stream that nobody reads does not end
}

template <typename Request, typename Response>
void CallRouter(RouterStub* stub, RouterQueue* queue,
                std::unique_ptr<grpc::ClientAsyncResponseReaderInterface<Response>> (
                    RouterStub::*method)(grpc::ClientContext*, const Request&,
                                         grpc::CompletionQueue*),
                const Request& request, const CallContext& context,
                std::function<void(absl::StatusOr<Response>)> done) {
  struct Call final : RouterQueue::Event {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientAsyncResponseReaderInterface<Response>> reader;
    Response response;
    grpc::Status status;
    std::function<void(absl::StatusOr<Response>)> done;
    void OnEvent(bool) override {
      const std::unique_ptr<Call> self(this);
      if (status.ok()) {
        done(std::move(response));
      } else {
        done(FromRouter(status));
      }
    }
  };
  auto call = std::make_unique<Call>();
  call->done = std::move(done);
  Prepare(context, context.deadline_ms, &call->context);
  call->reader = (stub->*method)(&call->context, request, queue->get());
  call->reader->StartCall();
  Call* const raw = call.release();  // deletes itself
  raw->reader->Finish(&raw->response, &raw->status, static_cast<RouterQueue::Event*>(raw));
}

#define TUTTI_INSTANTIATE(name)                                                                   \
  template void CallRouter(                                                                       \
      RouterStub*, RouterQueue*,                                                                  \
      std::unique_ptr<grpc::ClientAsyncResponseReaderInterface<generation::v1::name##Response>> ( \
          RouterStub::*)(grpc::ClientContext*, const generation::v1::name##Request&,              \
                         grpc::CompletionQueue*),                                                 \
      const generation::v1::name##Request&, const CallContext&,                                   \
      std::function<void(absl::StatusOr<generation::v1::name##Response>)>)
TUTTI_INSTANTIATE(ListModels);
TUTTI_INSTANTIATE(Tokenize);
TUTTI_INSTANTIATE(Detokenize);
#undef TUTTI_INSTANTIATE

}  // namespace tutti::gateway
