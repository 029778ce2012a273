#include "services/gateway/generation_exchange.h"

#include <chrono>
#include <random>
#include <utility>

#include "services/gateway/api_error.h"
#include "shared/base/hash.h"
#include "shared/sampling/ranges.h"
#include "shared/telemetry/log.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateResponse;

// Of a stream, waiting for its client: with more, the router's streams are not read.
constexpr size_t kUnsentBytes = 256 << 10;
// An event stream's comment: clients skip it.
constexpr char kComment[] = ": \n\n";
// The router may be slow to take a request: its headers go after so long in any case.
constexpr int64_t kHeadersAtLatestMs = 1000;

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Below 2^53, so that a client whose numbers are doubles can send it back.
uint64_t DrawSeed() {
  thread_local std::mt19937_64 random{std::random_device{}() ^
                                      (static_cast<uint64_t>(std::random_device{}()) << 32)};
  return random() >> 11;
}

// The seed of prompt number `index` of a request with this Idempotency-Key: a function of the key,
// the sender's credentials and the number alone, so that the request gives the same answer
// whenever, and to whichever gateway, it is sent again.
uint64_t SeedOfKey(std::string_view key, std::string_view credentials, size_t index) {
  return Hash64(key, Hash64(credentials) + index) & sampling::kDrawnSeedMask;
}

std::string Ms(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", seconds * 1000);
  return text;
}

}  // namespace

GenerationExchange::GenerationExchange(Gateway* gateway, std::shared_ptr<http::Exchange> exchange,
                                       Gateway::Call call, ApiRequest request, bool chat)
    : gateway_(gateway),
      exchange_(std::move(exchange)),
      call_(std::move(call)),
      request_(std::move(request)),
      alive_(gateway->alive_),
      builder_(request_,
               ResponseHead{(chat ? "chatcmpl-" : "cmpl-") + call_.request_id, UnixSeconds()}) {}

void GenerationExchange::Start() {
  const std::string client = gateway_->policy_.ClientOf(exchange_->request(), request_.user);
  const http::Headers& headers = exchange_->request().headers;
  const std::string_view key = headers.Get("Idempotency-Key");
  for (size_t i = 0; i < request_.calls.size(); ++i) {
    auto& c = request_.calls[i];
    c.set_client(client);
    // A name for logs alone: clients may use it again. The router makes the request's own id.
    c.set_label(request_.calls.size() == 1 ? call_.request_id
                                           : call_.request_id + "-" + std::to_string(i));
    // A request that is sent again must be the same request.
    if (!c.sampling().has_seed())
      c.mutable_sampling()->set_seed(key.empty() ? DrawSeed()
                                                 : SeedOfKey(key, headers.Get("Authorization"), i));
  }
  const auto self = shared_from_this();
  exchange_->OnGone([weak = weak_from_this()] {
    if (const auto g = weak.lock(); g != nullptr) g->OnClientGone();
  });
  CallContext context = call_.context;
  context.resend_ms = gateway_->options_.resend_ms;
  context.alive = gateway_->alive_;
  context.after = [loop = gateway_->loop_](int64_t ms, std::function<void()> f) {
    loop->After(ms, std::move(f));
  };
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    streams_ = GenerationStreams::Start(
        gateway_->stub_.get(), &gateway_->queue_, {self, &request_.calls}, context,
        {.message = [self](size_t prompt,
                           const GenerateResponse& m) { self->OnMessage(prompt, m); },
         .done = [self](const absl::Status& status) { self->OnDone(status); }});
  }
  if (request_.stream) {
    gateway_->loop_->After(kHeadersAtLatestMs, [weak = weak_from_this()] {
      const auto g = weak.lock();
      if (g == nullptr) return;
      std::lock_guard lock(g->mutex_);
      g->StartStreamLocked();
    });
  }
}

void GenerationExchange::OnMessage(size_t prompt, const GenerateResponse& message) {
  std::lock_guard lock(mutex_);
  if (ended_) return;
  std::string events;
  builder_.Add(prompt, message, &events);
  if (message.has_started()) {
    // From now on what takes time is waiting for a place, or the prompt. Errors that come at once
    // still have a status of their own.
    if (request_.stream && !streaming_) {
      gateway_->loop_->After(gateway_->options_.headers_ms, [weak = weak_from_this()] {
        const auto g = weak.lock();
        if (g == nullptr) return;
        std::lock_guard lock(g->mutex_);
        g->StartStreamLocked();
      });
    }
  } else if (first_token_s_ < 0) {
    first_token_s_ = gateway_->SecondsSince(*exchange_);
  }
  if (!request_.stream) return;
  if (!events.empty() || first_token_s_ >= 0) StartStreamLocked();
  SendLocked(events);
  if (!paused_ && exchange_->unsent() > kUnsentBytes) {
    paused_ = true;
    streams_->Pause();
    exchange_->OnDrained([weak = weak_from_this()] {
      const auto g = weak.lock();
      if (g == nullptr) return;
      std::shared_ptr<GenerationStreams> streams;
      {
        std::lock_guard lock(g->mutex_);
        g->paused_ = false;
        streams = g->streams_;
      }
      if (streams != nullptr) streams->Resume();
    });
  }
}

void GenerationExchange::StartStreamLocked() {
  if (ended_ || std::exchange(streaming_, true)) return;
  http::Response head = gateway_->NewResponse(*exchange_, call_, "text/event-stream");
  head.headers.Add("Cache-Control", "no-cache");
  head.headers.Add("X-Accel-Buffering", "no");  // nginx: pass each event on at once
  exchange_->StartStream(std::move(head), kComment);
}

void GenerationExchange::SendLocked(std::string_view events) {
  if (!events.empty()) exchange_->Write(events);
}

void GenerationExchange::OnDone(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (ended_) return;
  absl::Status failed = status;
  if (failed.ok() && !builder_.complete())
    failed = absl::InternalError("the router ended the stream without finishing it");
  if (!failed.ok()) {
    if (!streaming_) {
      gateway_->Fail(*exchange_, call_, failed);
      ended_ = true;
      streams_ = nullptr;
      return gateway_->Ended(this);
    }
    const ApiError error = ErrorFromStatus(failed);
    SendLocked("data: " + ErrorJson(error) + "\n\n");
    EndLocked(error.http_status, error.message);
    return exchange_->Finish();
  }
  if (request_.stream) {
    StartStreamLocked();
    SendLocked(builder_.LastEvents());
    EndLocked(200, "");  // counted before the client can know
    exchange_->Finish();
  } else {
    http::Response response = gateway_->NewResponse(*exchange_, call_, "application/json");
    response.body = builder_.Whole();
    EndLocked(200, "");
    exchange_->Respond(std::move(response));
  }
}

void GenerationExchange::OnClientGone() {
  std::shared_ptr<GenerationStreams> streams;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    gateway_->counters_.ClientGone();
    streams = streams_;
    EndLocked(499, "the client has gone");
  }
  if (streams != nullptr) streams->Cancel();
}

void GenerationExchange::Stop() {
  std::shared_ptr<GenerationStreams> streams;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    streams = streams_;
    const absl::Status status = absl::UnavailableError("the gateway is stopping");
    if (streaming_) {
      SendLocked("data: " + ErrorJson(ErrorFromStatus(status)) + "\n\n");
      exchange_->Finish();
      EndLocked(503, std::string(status.message()));
    } else {
      gateway_->Fail(*exchange_, call_, status);
      ended_ = true;
      streams_ = nullptr;
      gateway_->Ended(this);
    }
  }
  if (streams != nullptr) streams->Cancel();
}

void GenerationExchange::EndLocked(int status, const std::string& error) {
  ended_ = true;
  const double seconds = gateway_->SecondsSince(*exchange_);
  const TokenUsage& usage = builder_.usage();
  GatewayMetrics& counters = gateway_->counters_;
  counters.Tokens(usage.prompt_tokens, usage.completion_tokens);
  if (first_token_s_ >= 0) counters.FirstToken(first_token_s_);
  const int resends = streams_ == nullptr ? 0 : streams_->resends();
  if (resends > 0) counters.Resent(resends);
  counters.RequestDone(call_.route->label, status, seconds);
  telemetry::Log(status >= 500 ? telemetry::Level::kWarning : telemetry::Level::kInfo,
                 "gateway/answered",
                 {{"request_id", call_.request_id},
                  {"route", call_.route->label},
                  {"status", std::to_string(status)},
                  {"stream", request_.stream ? "true" : "false"},
                  {"prompt_tokens", std::to_string(usage.prompt_tokens)},
                  {"output_tokens", std::to_string(usage.completion_tokens)},
                  {"first_token_ms", Ms(first_token_s_)},
                  {"ms", Ms(seconds)},
                  {"resends", std::to_string(resends)},
                  {"user", request_.user},
                  {"error", error}});
  streams_ = nullptr;  // they hold this exchange's calls
  gateway_->Ended(this);
}

}  // namespace tutti::gateway
