#include "services/gateway/gateway.h"

#include <chrono>
#include <random>
#include <utility>

#include "services/gateway/api_error.h"
#include "services/gateway/generation_client.h"
#include "services/gateway/http_server.h"
#include "services/gateway/openai_request.h"
#include "services/gateway/openai_response.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"
#include "shared/telemetry/trace.h"

namespace tutti::gateway {
namespace {

using Clock = std::chrono::steady_clock;
using Stub = generation::v1::GenerationService::StubInterface;
using httplib::Request;
using httplib::Response;

// How often a waiting request looks whether its client is still there.
constexpr int kPollMs = 100;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string RandomId() {
  thread_local std::mt19937_64 random{std::random_device{}() ^
                                      (static_cast<uint64_t>(std::random_device{}()) << 32)};
  const uint64_t a = random(), b = random();
  return Hex64(a) + Hex64(b);
}

// Equal in a time that does not tell how much of it is.
bool SameSecret(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ (b.empty() ? '\xff' : b[i % b.size()]));
  }
  return difference == 0;
}

// Whether kPollMs have passed since *last; then that is now.
bool TimeToLook(Clock::time_point* last) {
  const auto now = Clock::now();
  if (now - *last < std::chrono::milliseconds(kPollMs)) return false;
  *last = now;
  return true;
}

std::string Ms(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", seconds * 1000);
  return text;
}

}  // namespace

struct Gateway::Exchange {
  const char* route = "";
  std::string request_id;
  CallContext call;
  Clock::time_point start;
  absl::Status bad;  // what is wrong with the request's headers
};

struct Gateway::Generation {
  Exchange exchange;
  ApiRequest request;
  std::unique_ptr<ResponseBuilder> builder;
  std::unique_ptr<GenerationStreams> streams;
  std::string events;  // to be sent
  double first_token_s = -1;
  int status = 200;
  std::string error;         // for the log
  Clock::time_point looked;  // when the client was last seen to be there
  bool ended = false;
};

Gateway::Gateway(GatewayOptions options, std::unique_ptr<Stub> stub, telemetry::Metrics* metrics)
    : options_(std::move(options)), stub_(std::move(stub)), metrics_(metrics), counters_(metrics) {}

Gateway::~Gateway() = default;

bool Gateway::ShouldStop() const { return cancel_all_ || HttpServer::ClientGone(); }

Gateway::Exchange Gateway::Begin(const char* route, const Request& request, Response& response) {
  Exchange e;
  e.route = route;
  e.start = Clock::now();
  e.request_id = request.get_header_value("X-Request-Id");
  if (e.request_id.empty()) {
    e.request_id = "req-" + RandomId();
  } else if (!IsRequestId(e.request_id)) {
    e.bad = BadParam("X-Request-Id", "must be 1 to 96 bytes of printable ASCII without spaces");
    e.request_id = "req-" + RandomId();
  }
  const auto trace = telemetry::ContinueTrace(request.get_header_value(telemetry::kTraceparentKey));
  e.call.traceparent = telemetry::MakeTraceparent(trace);
  e.call.deadline_ms = options_.call_timeout_ms;
  response.set_header("X-Request-Id", e.request_id);
  return e;
}

void Gateway::Fail(Exchange& e, Response& response, const absl::Status& status) {
  ApiError error = ErrorFromStatus(status);
  if (absl::IsNotFound(status) && error.code.empty()) {
    error.code = "model_not_found";
    error.param = "model";
  }
  response.status = error.http_status;
  if (error.retry_after_s > 0)
    response.set_header("Retry-After", std::to_string(error.retry_after_s));
  response.set_content(ErrorJson(error), "application/json");
  const double seconds = SecondsSince(e.start);
  counters_.RequestDone(e.route, error.http_status, seconds);
  const auto level =
      error.http_status >= 500 ? telemetry::Level::kWarning : telemetry::Level::kInfo;
  telemetry::Log(level, "gateway/refused",
                 {{"request_id", e.request_id},
                  {"route", e.route},
                  {"status", std::to_string(error.http_status)},
                  {"error", error.message},
                  {"ms", Ms(seconds)}});
}

void Gateway::Succeed(Exchange& e, Response& response, std::string json) {
  response.set_content(std::move(json), "application/json");
  counters_.RequestDone(e.route, 200, SecondsSince(e.start));
}

absl::Status Gateway::CheckKey(const Request& request) const {
  if (options_.api_keys.empty()) return absl::OkStatus();
  const std::string header = request.get_header_value("Authorization");
  if (header.size() > 7 && (header.starts_with("Bearer ") || header.starts_with("bearer "))) {
    bool known = false;
    for (const std::string& key : options_.api_keys)
      known |= SameSecret(std::string_view(header).substr(7), key);
    if (known) return absl::OkStatus();
  }
  return absl::UnauthenticatedError("no valid API key: send 'Authorization: Bearer <key>'");
}

absl::Status Gateway::CheckPost(const Request& request) const {
  TUTTI_RETURN_IF_ERROR(CheckKey(request));
  // A page of another site can send any other type without asking first.
  const std::string type = request.get_header_value("Content-Type");
  if (!type.starts_with("application/json")) {
    return BadParam("Content-Type", "must be application/json, not '" + Printable(type) +
                                        "' (curl: -H 'Content-Type: application/json')");
  }
  return absl::OkStatus();
}

// For fairness. A key is a better name than what the request calls itself, which costs nothing to
// change. The key itself goes no further.
std::string Gateway::ClientOf(const Request& request, const std::string& user) const {
  if (!options_.api_keys.empty())
    return "key:" + Hex64(Hash64(request.get_header_value("Authorization")));
  return user.empty() ? "address:" + request.remote_addr : "user:" + user;
}

void Gateway::Generate(bool chat, const Request& request, Response& response) {
  auto g = std::make_shared<Generation>();
  g->exchange = Begin(chat ? "/v1/chat/completions" : "/v1/completions", request, response);
  Exchange& e = g->exchange;
  e.call.deadline_ms = options_.request_timeout_ms;
  if (!e.bad.ok()) return Fail(e, response, e.bad);
  if (const absl::Status status = CheckPost(request); !status.ok())
    return Fail(e, response, status);
  absl::StatusOr<ApiRequest> parsed =
      chat ? ParseChatRequest(request.body) : ParseCompletionRequest(request.body);
  if (!parsed.ok()) return Fail(e, response, parsed.status());
  g->request = *std::move(parsed);
  const std::string client = ClientOf(request, g->request.user);
  for (size_t i = 0; i < g->request.calls.size(); ++i) {
    g->request.calls[i].set_client(client);
    g->request.calls[i].set_request_id(
        g->request.calls.size() == 1 ? e.request_id : e.request_id + "-" + std::to_string(i));
  }
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  g->builder = std::make_unique<ResponseBuilder>(
      g->request, ResponseHead{(chat ? "chatcmpl-" : "cmpl-") + e.request_id,
                               std::chrono::duration_cast<std::chrono::seconds>(now).count()});
  counters_.running().Increment();
  g->streams = std::make_unique<GenerationStreams>(stub_.get(), g->request.calls, e.call);

  // To the end, or, of a stream, to the first thing that can be sent: until then an error still has
  // a status of its own.
  g->looked = e.start;
  for (;;) {
    const auto event = g->streams->Next(kPollMs);
    absl::Status failed;
    if (event == GenerationStreams::Event::kMessage) {
      g->builder->Add(g->streams->prompt(), g->streams->message(), &g->events);
      if (g->first_token_s < 0 && !g->streams->message().has_started())
        g->first_token_s = SecondsSince(e.start);
      if (g->request.stream && (!g->events.empty() || g->first_token_s >= 0)) break;
    } else if (event == GenerationStreams::Event::kFailed) {
      failed = g->streams->status();
    } else if (event == GenerationStreams::Event::kDone) {
      if (g->builder->complete()) break;
      failed = absl::InternalError("the router ended the stream without finishing it");
    }
    // Also while tokens come.
    if (failed.ok() && TimeToLook(&g->looked) && ShouldStop()) {
      failed = absl::CancelledError("the client has gone");
      counters_.ClientGone();
    }
    if (!failed.ok()) {
      g->streams.reset();
      counters_.running().Decrement();
      return Fail(e, response, failed);
    }
  }
  if (g->request.stream) return StreamAnswer(std::move(g), response);
  response.set_content(g->builder->Whole(), "application/json");
  EndGeneration(*g);
}

void Gateway::StreamAnswer(std::shared_ptr<Generation> g, Response& response) {
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // nginx: pass each event on at once
  response.set_chunked_content_provider(
      "text/event-stream",
      [this, g](size_t, httplib::DataSink& sink) {
        if (!g->events.empty()) {
          const bool sent = sink.write(g->events.data(), g->events.size());
          g->events.clear();
          if (!sent) {
            g->status = 499;
            counters_.ClientGone();
          }
          return sent;
        }
        if (TimeToLook(&g->looked) && ShouldStop()) {
          g->status = 499;
          counters_.ClientGone();
          return false;
        }
        const auto event = g->streams->Next(kPollMs);
        if (event == GenerationStreams::Event::kMessage) {
          g->builder->Add(g->streams->prompt(), g->streams->message(), &g->events);
          return true;
        }
        if (event == GenerationStreams::Event::kIdle) return true;
        std::string last;
        if (event == GenerationStreams::Event::kDone && g->builder->complete()) {
          last = g->builder->LastEvents();
        } else {
          const absl::Status status =
              event == GenerationStreams::Event::kFailed
                  ? g->streams->status()
                  : absl::InternalError("the router ended the stream without finishing it");
          const ApiError error = ErrorFromStatus(status);
          g->status = error.http_status;
          g->error = error.message;
          last = "data: " + ErrorJson(error) + "\n\n";
        }
        sink.write(last.data(), last.size());
        sink.done();
        return true;
      },
      [this, g](bool) { EndGeneration(*g); });
}

void Gateway::EndGeneration(Generation& g) {
  if (std::exchange(g.ended, true)) return;
  g.streams.reset();  // cancels what still runs
  counters_.running().Decrement();
  const double seconds = SecondsSince(g.exchange.start);
  const TokenUsage& usage = g.builder->usage();
  counters_.Tokens(usage.prompt_tokens, usage.completion_tokens);
  if (g.first_token_s >= 0) counters_.FirstToken(g.first_token_s);
  counters_.RequestDone(g.exchange.route, g.status, seconds);
  telemetry::Log(g.status >= 500 ? telemetry::Level::kWarning : telemetry::Level::kInfo,
                 "gateway/answered",
                 {{"request_id", g.exchange.request_id},
                  {"route", g.exchange.route},
                  {"status", std::to_string(g.status)},
                  {"stream", g.request.stream ? "true" : "false"},
                  {"prompt_tokens", std::to_string(usage.prompt_tokens)},
                  {"output_tokens", std::to_string(usage.completion_tokens)},
                  {"first_token_ms", Ms(g.first_token_s)},
                  {"ms", Ms(seconds)},
                  {"user", g.request.user},
                  {"error", g.error}});
}

void Gateway::Models(const Request& request, Response& response) {
  Exchange e = Begin("/v1/models", request, response);
  if (!e.bad.ok()) return Fail(e, response, e.bad);
  if (const absl::Status status = CheckKey(request); !status.ok()) return Fail(e, response, status);
  const auto models =
      CallRouter(stub_.get(), &Stub::ListModels, generation::v1::ListModelsRequest(), e.call);
  if (!models.ok()) return Fail(e, response, models.status());
  const std::string wanted = request.matches.size() > 1 ? request.matches[1].str() : "";
  if (wanted.empty()) return Succeed(e, response, ModelsJson(*models).dump());
  for (const auto& model : models->models()) {
    if (model.name() == wanted) return Succeed(e, response, ModelJson(model).dump());
  }
  Fail(e, response, absl::NotFoundError("the model '" + Printable(wanted) + "' does not exist"));
}

void Gateway::Tokenize(const Request& request, Response& response) {
  Exchange e = Begin("/tokenize", request, response);
  if (!e.bad.ok()) return Fail(e, response, e.bad);
  if (const absl::Status status = CheckPost(request); !status.ok())
    return Fail(e, response, status);
  const auto call = ParseTokenizeRequest(request.body);
  if (!call.ok()) return Fail(e, response, call.status());
  const auto result = CallRouter(stub_.get(), &Stub::Tokenize, call->request, e.call);
  if (!result.ok()) return Fail(e, response, result.status());
  const auto models =
      CallRouter(stub_.get(), &Stub::ListModels, generation::v1::ListModelsRequest(), e.call);
  Json out = {{"count", result->ids_size()}, {"max_model_len", nullptr}, {"tokens", Json::array()}};
  if (models.ok()) {
    for (const auto& model : models->models()) {
      if (call->request.model().empty() || model.name() == call->request.model()) {
        out["max_model_len"] = model.context_tokens();
      }
    }
  }
  for (const int32_t id : result->ids()) out["tokens"].push_back(id);
  out["token_strs"] = nullptr;
  if (call->return_token_strs) {
    out["token_strs"] = Json::array();
    for (const std::string& bytes : result->token_bytes())
      out["token_strs"].push_back(TokenText(bytes));
  }
  Succeed(e, response, out.dump());
}

void Gateway::Detokenize(const Request& request, Response& response) {
  Exchange e = Begin("/detokenize", request, response);
  if (!e.bad.ok()) return Fail(e, response, e.bad);
  if (const absl::Status status = CheckPost(request); !status.ok())
    return Fail(e, response, status);
  const auto call = ParseDetokenizeRequest(request.body);
  if (!call.ok()) return Fail(e, response, call.status());
  const auto result = CallRouter(stub_.get(), &Stub::Detokenize, *call, e.call);
  if (!result.ok()) return Fail(e, response, result.status());
  Succeed(e, response,
          Json{{"prompt", result->text()}}.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void Gateway::Health(const Request& request, Response& response) {
  Exchange e = Begin("/health", request, response);
  if (draining_) return Fail(e, response, absl::UnavailableError("draining"));
  e.call.deadline_ms = std::min<int64_t>(options_.call_timeout_ms, 2000);
  const auto models =
      CallRouter(stub_.get(), &Stub::ListModels, generation::v1::ListModelsRequest(), e.call);
  if (!models.ok()) return Fail(e, response, Annotate(models.status(), "router"));
  for (const auto& model : models->models()) {
    if (model.ready_decoders() > 0) return Succeed(e, response, R"({"status":"ok"})");
  }
  Fail(e, response, absl::UnavailableError("no model is ready to decode"));
}

void Gateway::Mount(HttpServer* server) {
  server->Post("/v1/completions", [this](const Request& q, Response& r) { Generate(false, q, r); });
  server->Post("/v1/chat/completions",
               [this](const Request& q, Response& r) { Generate(true, q, r); });
  server->Get("/v1/models", [this](const Request& q, Response& r) { Models(q, r); });
  server->Get("/v1/models/(.+)", [this](const Request& q, Response& r) { Models(q, r); });
  server->Post("/tokenize", [this](const Request& q, Response& r) { Tokenize(q, r); });
  server->Post("/detokenize", [this](const Request& q, Response& r) { Detokenize(q, r); });
  server->Get("/health", [this](const Request& q, Response& r) { Health(q, r); });
  server->Get("/metrics", [this](const Request&, Response& r) {
    r.set_content(metrics_->Text(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server->Get("/", [](const Request&, Response& r) {
    r.set_header("Cache-Control", "no-cache");
    r.set_header(
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    r.set_header("X-Content-Type-Options", "nosniff");
    r.set_content(WebPage().data(), WebPage().size(), "text/html; charset=utf-8");
  });
  if (!options_.cors_origin.empty()) {
    server->set_default_headers({{"Access-Control-Allow-Origin", options_.cors_origin},
                                 {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"},
                                 {"Vary", "Origin"}});
    server->Options(".*", [](const Request&, Response& r) {
      r.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      r.set_header("Access-Control-Allow-Headers",
                   "Authorization, Content-Type, X-Request-Id, traceparent");
      r.set_header("Access-Control-Max-Age", "600");
      r.status = 204;
    });
  }
  // What httplib itself refuses gets the same shape.
  const httplib::Server::HandlerWithResponse on_error = [this](const Request& q, Response& r) {
    if (!r.body.empty()) return httplib::Server::HandlerResponse::Unhandled;
    ApiError error;
    error.http_status = r.status;
    error.type = "invalid_request_error";
    switch (r.status) {
      case 404:
        error.message = "no such path or method: " + Printable(q.method + " " + q.path, 200);
        break;
      case 413:
        error.message = "the body is larger than " + std::to_string(kMaxBodyBytes) + " bytes";
        break;
      case 414:
        error.message = "the path is too long";
        break;
      default:
        error.message = "HTTP " + std::to_string(r.status);
        break;
    }
    if (r.status >= 500) error.type = "server_error";
    r.set_content(ErrorJson(error), "application/json");
    counters_.RequestDone("other", r.status, 0);
    return httplib::Server::HandlerResponse::Handled;
  };
  server->set_error_handler(on_error);
  server->set_exception_handler([](const Request&, Response& r, std::exception_ptr) {
    r.status = 500;
    r.set_content(
        ErrorJson({.http_status = 500, .message = "internal error", .type = "server_error"}),
        "application/json");
  });
}

}  // namespace tutti::gateway
