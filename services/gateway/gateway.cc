#include "services/gateway/gateway.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "services/gateway/api_error.h"
#include "services/gateway/generation_exchange.h"
#include "services/gateway/openai_request.h"
#include "services/gateway/openai_response.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"
#include "shared/telemetry/trace.h"

namespace tutti::gateway {
namespace {

using generation::v1::DetokenizeResponse;
using generation::v1::ListModelsRequest;
using generation::v1::ListModelsResponse;
using generation::v1::TokenizeResponse;
const auto kListModels = &RouterStub::PrepareAsyncListModels;
const auto kTokenize = &RouterStub::PrepareAsyncTokenize;
const auto kDetokenize = &RouterStub::PrepareAsyncDetokenize;

constexpr size_t kInlineBytes = 8 << 10;

std::string RandomId() {
  thread_local std::mt19937_64 random{std::random_device{}() ^
                                      (static_cast<uint64_t>(std::random_device{}()) << 32)};
  const uint64_t a = random(), b = random();
  return Hex64(a) + Hex64(b);
}

std::string Ms(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", seconds * 1000);
  return text;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// "a, b", for a header: short, whatever was sent.
std::string ListOf(const std::vector<std::string>& names) {
  constexpr size_t kMaxBytes = 1000;
  std::string out;
  for (const std::string& name : names) {
    if (out.size() + name.size() > kMaxBytes) return out + ", ...";
    out += (out.empty() ? "" : ", ") + name;
  }
  return out;
}

// A slash at the end of a path means nothing.
bool Matches(std::string_view pattern, std::string_view path) {
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  if (!pattern.ends_with('*')) return pattern == path;
  pattern.remove_suffix(1);
  return path.size() > pattern.size() && path.starts_with(pattern);
}

}  // namespace

const std::vector<Gateway::Route>& Gateway::Routes() {
  static const std::vector<Route> routes = {
      {"POST", "/v1/chat/completions", "/v1/chat/completions", true, &Gateway::Generate},
      {"POST", "/v1/completions", "/v1/completions", true, &Gateway::Generate},
      {"GET", "/v1/models", "/v1/models", true, &Gateway::Models},
      {"GET", "/v1/models/*", "/v1/models", true, &Gateway::Models},
      {"POST", "/tokenize", "/tokenize", true, &Gateway::Tokenize},
      {"POST", "/detokenize", "/detokenize", true, &Gateway::Detokenize},
      {"POST", "/apply-template", "/apply-template", true, &Gateway::ApplyTemplate},
      {"GET", "/tokenizer_info", "/tokenizer_info", true, &Gateway::TokenizerInfo},
      {"GET", "/health", "/health", false, &Gateway::Health},
      {"GET", "/ping", "/health", false, &Gateway::Health},
      {"GET", "/version", "/version", false, &Gateway::Version},
      // The same without /v1, and /v1 before what has none, as clients with another base URL ask.
      {"POST", "/chat/completions", "/v1/chat/completions", true, &Gateway::Generate},
      {"POST", "/completions", "/v1/completions", true, &Gateway::Generate},
      {"GET", "/models", "/v1/models", true, &Gateway::Models},
      {"GET", "/models/*", "/v1/models", true, &Gateway::Models},
      {"POST", "/v1/tokenize", "/tokenize", true, &Gateway::Tokenize},
      {"POST", "/v1/detokenize", "/detokenize", true, &Gateway::Detokenize},
      {"POST", "/v1/apply-template", "/apply-template", true, &Gateway::ApplyTemplate},
      {"GET", "/v1/health", "/health", false, &Gateway::Health},
      {"GET", "/metrics", "/metrics", false, &Gateway::MetricsText},
      {"GET", "/", "/", false, &Gateway::Page},
  };
  return routes;
}

// The route of a request; null: then *allowed names the methods that its path has ("": no such
// path).
const Gateway::Route* Gateway::Find(const http::Request& request, std::string* allowed) {
  static const Route options = {"OPTIONS", "*", "other", false, &Gateway::Options};
  const Route* found = nullptr;
  bool get = false;
  for (const Route& r : Routes()) {
    if (request.path != "*" && !Matches(r.path, request.path)) continue;
    const std::string_view method = r.method;
    get = get || method == "GET";
    if (found == nullptr &&
        (request.method == method || (request.method == "HEAD" && method == "GET"))) {
      found = &r;
    }
    if (allowed->find(method) == std::string::npos) *allowed += std::string(method) + ", ";
  }
  if (allowed->empty()) return nullptr;
  *allowed += get ? "HEAD, OPTIONS" : "OPTIONS";
  return request.method == "OPTIONS" ? &options : found;
}

Gateway::Gateway(GatewayOptions options, std::unique_ptr<RouterStub> stub,
                 telemetry::Metrics* metrics)
    : options_(std::move(options)),
      stub_(std::move(stub)),
      metrics_(metrics),
      counters_(metrics),
      policy_(options_.policy),
      alive_(std::make_shared<int>(0)),
      work_(std::make_unique<WorkPool>(options_.work, [this](const ExchangePtr& exchange) {
        std::string allowed;
        const Route* route = Find(exchange->request(), &allowed);
        Fail(*exchange, Begin(*exchange, *route),
             absl::UnavailableError("the gateway is overloaded: the request waited too long"));
      })) {}

Gateway::~Gateway() {
  CancelAll();
  work_.reset();
  // Calls to the router that nobody waits for any more: cancelled, or within their deadline.
  while (alive_.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

void Gateway::CancelAll() {
  cancel_all_ = true;
  std::vector<std::shared_ptr<GenerationExchange>> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [raw, weak] : running_) {
      if (auto g = weak.lock(); g != nullptr) all.push_back(std::move(g));
    }
  }
  for (const auto& g : all) g->Stop();
}

void Gateway::Ended(GenerationExchange* generation) {
  std::lock_guard lock(mutex_);
  if (running_.erase(generation) > 0) counters_.running().Decrement();
}

double Gateway::SecondsSince(const http::Exchange& exchange) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - exchange.start()).count();
}

std::unique_ptr<http::Server> Gateway::MakeServer(const http::Limits& limits) {
  auto server = std::make_unique<http::Server>(
      limits, http::Server::Callbacks{
                  .handle = [this](ExchangePtr exchange) { Handle(std::move(exchange)); },
                  .check_head = [this](const http::Request& request) { return CheckHead(request); },
                  .make_error =
                      [this](int status, const std::string& message) {
                        ApiError error;
                        error.http_status = status;
                        error.message = message;
                        error.type = status >= 500 ? "server_error" : "invalid_request_error";
                        if (status == 503) error.code = "overloaded";
                        http::Response response;
                        response.status = status;
                        response.headers.Add("Content-Type", "application/json");
                        policy_.AddCors(nullptr, &response.headers);
                        response.body = ErrorJson(error);
                        counters_.RequestDone("other", status, 0);
                        return response;
                      }});
  loop_ = server->loop();
  server_ = server.get();
  return server;
}

http::Response Gateway::ErrorResponse(const absl::Status& status, const http::Request* request,
                                      const std::string& request_id) const {
  ApiError error = ErrorFromStatus(status);
  if (absl::IsNotFound(status) && error.code.empty()) {
    error.code = "model_not_found";
    error.param = "model";
  }
  http::Response response;
  response.status = error.http_status;
  response.headers.Add("Content-Type", "application/json");
  if (!request_id.empty()) response.headers.Add("X-Request-Id", request_id);
  if (error.retry_after_s > 0)
    response.headers.Add("Retry-After", std::to_string(error.retry_after_s));
  if (error.http_status == 401) response.headers.Add("WWW-Authenticate", "Bearer");
  policy_.AddCors(request, &response.headers);
  response.body = ErrorJson(error);
  return response;
}

std::optional<http::Response> Gateway::CheckHead(const http::Request& request) {
  const auto refuse = [&](int status, const std::string& message, const char* label,
                          const std::string& allowed = "") {
    ApiError error;
    error.http_status = status;
    error.message = message;
    error.type = "invalid_request_error";
    http::Response response;
    response.status = status;
    response.headers.Add("Content-Type", "application/json");
    if (!allowed.empty()) response.headers.Add("Allow", allowed);
    policy_.AddCors(&request, &response.headers);
    response.body = ErrorJson(error);
    counters_.RequestDone(label, status, 0);
    return response;
  };
  const auto refuse_by = [&](const absl::Status& status, const char* label) {
    http::Response response = ErrorResponse(status, &request, "");
    counters_.RequestDone(label, response.status, 0);
    telemetry::Log(telemetry::Level::kInfo, "gateway/refused",
                   {{"route", label},
                    {"status", std::to_string(response.status)},
                    {"error", std::string(status.message())}});
    return response;
  };
  std::string allowed;
  const Route* route = Find(request, &allowed);
  // Health says nothing that a stranger may not know, and probes name hosts as they like.
  if (route == nullptr || std::string_view(route->label) != "/health") {
    if (const absl::Status s = policy_.CheckHost(request); !s.ok()) return refuse_by(s, "other");
  }
  if (route == nullptr) {
    const std::string what = Printable(request.method + " " + request.path, 200);
    if (allowed.empty()) return refuse(404, "no such path: " + what, "other");
    return refuse(405, "no such method of this path: " + what + "; it has " + allowed, "other",
                  allowed);
  }
  if (route->keyed) {
    if (const absl::Status s = policy_.CheckKey(request); !s.ok())
      return refuse_by(s, route->label);
  }
  if (std::string_view(route->method) == "POST") {
    if (const absl::Status s = policy_.CheckJson(request); !s.ok())
      return refuse_by(s, route->label);
    const std::string_view accept = request.headers.Get("Accept");
    if (http::Refuses(accept, "application/json")) {
      return refuse(406, "Accept: answers are application/json, which it refuses", route->label);
    }
  }
  if (!http::AcceptsIdentity(request.headers.Get("Accept-Encoding"))) {
    return refuse(406, "Accept-Encoding: answers come without a coding, which it refuses",
                  route->label);
  }
  return std::nullopt;
}

void Gateway::Handle(ExchangePtr exchange) {
  std::string allowed;
  const Route* route = Find(exchange->request(), &allowed);
  if (route == nullptr) return;  // CheckHead refused it
  const auto run = [this, route](const ExchangePtr& e) {
    try {
      (this->*route->handle)(e, *route);
    } catch (const std::exception& error) {
      telemetry::Log(telemetry::Level::kError, "gateway/exception",
                     {{"route", route->label}, {"error", error.what()}});
      Fail(*e, Begin(*e, *route), absl::InternalError("internal error"));
    }
  };
  // What parses a large body or writes much text runs in a thread of its own; a small one is parsed
  // sooner than another thread wakes up.
  if (exchange->request().body.size() > kInlineBytes ||
      std::string_view(route->path) == "/metrics") {
    work_->Submit(std::move(exchange), run);
  } else {
    run(exchange);
  }
}

Gateway::Call Gateway::Begin(const http::Exchange& exchange, const Route& route) const {
  Call call;
  call.route = &route;
  call.request_id = std::string(exchange.request().headers.Get("X-Request-Id"));
  // A label: one that cannot stand in logs is replaced.
  if (!IsRequestId(call.request_id)) call.request_id = "req-" + RandomId();
  const auto trace = telemetry::ContinueTrace(
      std::string(exchange.request().headers.Get(telemetry::kTraceparentKey)));
  call.context.traceparent = telemetry::MakeTraceparent(trace);
  call.context.deadline_ms = options_.call_timeout_ms;
  return call;
}

http::Response Gateway::NewResponse(const http::Exchange& exchange, const Call& call,
                                    const char* type) const {
  http::Response response;
  response.headers.Add("Content-Type", type);
  response.headers.Add("X-Request-Id", call.request_id);
  if (!call.ignored.empty()) response.headers.Add("x-tutti-ignored", call.ignored);
  policy_.AddCors(&exchange.request(), &response.headers);
  return response;
}

void Gateway::Fail(http::Exchange& exchange, const Call& call, const absl::Status& status) {
  http::Response response = ErrorResponse(status, &exchange.request(), call.request_id);
  const double seconds = SecondsSince(exchange);
  counters_.RequestDone(call.route->label, response.status, seconds);
  telemetry::Log(response.status >= 500 ? telemetry::Level::kWarning : telemetry::Level::kInfo,
                 "gateway/refused",
                 {{"request_id", call.request_id},
                  {"route", call.route->label},
                  {"status", std::to_string(response.status)},
                  {"error", std::string(status.message())},
                  {"ms", Ms(seconds)}});
  exchange.Respond(std::move(response));
}

void Gateway::Succeed(http::Exchange& exchange, const Call& call, std::string body,
                      const char* type) {
  http::Response response = NewResponse(exchange, call, type);
  response.body = std::move(body);
  counters_.RequestDone(call.route->label, 200, SecondsSince(exchange));
  exchange.Respond(std::move(response));
}

void Gateway::Generate(ExchangePtr exchange, const Route& route) {
  const bool chat = std::string_view(route.label) == "/v1/chat/completions";
  Call call = Begin(*exchange, route);
  call.context.deadline_ms = options_.request_timeout_ms;
  absl::StatusOr<ApiRequest> parsed = chat ? ParseChatRequest(exchange->request().body)
                                           : ParseCompletionRequest(exchange->request().body);
  if (!parsed.ok()) return Fail(*exchange, call, parsed.status());
  call.ignored = ListOf(parsed->ignored);
  const std::string_view key = exchange->request().headers.Get("Idempotency-Key");
  if (!key.empty() && !IsIdempotencyKey(key)) {
    return Fail(*exchange, call,
                BadParam("Idempotency-Key", "must be 1 to 255 printable ASCII characters",
                         "invalid_value"));
  }
  auto g = std::make_shared<GenerationExchange>(this, exchange, call, *std::move(parsed), chat);
  absl::Status refused;
  {
    std::lock_guard lock(mutex_);
    if (cancel_all_) {
      refused = absl::UnavailableError("the gateway is stopping");
    } else if (running_.size() >= static_cast<size_t>(options_.generations)) {
      refused = absl::UnavailableError("the gateway answers as many requests as it may");
    } else {
      running_.emplace(g.get(), g);
      counters_.running().Increment();
    }
  }
  if (!refused.ok()) return Fail(*exchange, call, refused);
  g->Start();
}

void Gateway::Models(ExchangePtr exchange, const Route& route) {
  const Call call = Begin(*exchange, route);
  CallRouter(stub_.get(), &queue_, kListModels, ListModelsRequest(), call.context,
             std::function([this, alive = alive_, exchange,
                            call](absl::StatusOr<ListModelsResponse> models) {
               if (!models.ok()) return Fail(*exchange, call, models.status());
               static constexpr std::string_view kOne = "/models/";
               std::string wanted = exchange->request().path;
               const size_t at = wanted.find(kOne);
               wanted.erase(0, at == wanted.npos ? wanted.size() : at + kOne.size());
               if (wanted.ends_with('/')) wanted.pop_back();
               if (wanted.empty()) return Succeed(*exchange, call, Dump(ModelsJson(*models)));
               for (const auto& model : models->models()) {
                 if (model.name() == wanted)
                   return Succeed(*exchange, call, Dump(ModelJson(model)));
               }
               Fail(*exchange, call,
                    absl::NotFoundError("the model '" + Printable(wanted) + "' does not exist"));
             }));
}

void Gateway::Tokenize(ExchangePtr exchange, const Route& route) {
  Call call = Begin(*exchange, route);
  auto parsed = ParseTokenizeRequest(exchange->request().body);
  if (!parsed.ok()) return Fail(*exchange, call, parsed.status());
  call.ignored = ListOf(parsed->ignored);
  const std::string model = parsed->request.model();
  const bool with_text = parsed->return_token_strs, with_offsets = parsed->return_offsets;
  CallRouter(stub_.get(), &queue_, kTokenize, std::move(parsed->request), call.context,
             std::function([this, alive = alive_, exchange, call, model, with_text,
                            with_offsets](absl::StatusOr<TokenizeResponse> result) {
               if (!result.ok()) return Fail(*exchange, call, result.status());
               auto tokens = std::make_shared<TokenizeResponse>(*std::move(result));
               CallRouter(
                   stub_.get(), &queue_, kListModels, ListModelsRequest(), call.context,
                   std::function([this, alive, exchange, call, model, with_text, with_offsets,
                                  tokens](absl::StatusOr<ListModelsResponse> models) {
                     Json out = {{"count", tokens->ids_size()},
                                 {"max_model_len", nullptr},
                                 {"tokens", Json::array()}};
                     if (models.ok()) {
                       for (const auto& m : models->models()) {
                         if (model.empty() || m.name() == model)
                           out["max_model_len"] = m.context_tokens();
                       }
                     }
                     for (const int32_t id : tokens->ids()) out["tokens"].push_back(id);
                     out["token_strs"] = nullptr;
                     if (with_text) {
                       out["token_strs"] = Json::array();
                       for (const std::string& bytes : tokens->token_bytes())
                         out["token_strs"].push_back(TokenText(bytes));
                     }
                     if (with_offsets) {
                       out["offsets"] = Json::array();
                       for (int i = 0; i + 1 < tokens->offsets_size(); i += 2)
                         out["offsets"].push_back({tokens->offsets(i), tokens->offsets(i + 1)});
                     }
                     Succeed(*exchange, call, Dump(out));
                   }));
             }));
}

void Gateway::ApplyTemplate(ExchangePtr exchange, const Route& route) {
  Call call = Begin(*exchange, route);
  auto parsed = ParseTokenizeRequest(exchange->request().body);
  if (parsed.ok() && !parsed->request.has_chat())
    parsed =
        BadParam("messages", "missing; give the messages of a chat", "missing_required_parameter");
  if (!parsed.ok()) return Fail(*exchange, call, parsed.status());
  call.ignored = ListOf(parsed->ignored);
  CallRouter(stub_.get(), &queue_, kTokenize, std::move(parsed->request), call.context,
             std::function(
                 [this, alive = alive_, exchange, call](absl::StatusOr<TokenizeResponse> result) {
                   if (!result.ok()) return Fail(*exchange, call, result.status());
                   Succeed(*exchange, call, Dump(Json{{"prompt", result->rendered()}}));
                 }));
}

void Gateway::TokenizerInfo(ExchangePtr exchange, const Route& route) {
  const Call call = Begin(*exchange, route);
  CallRouter(stub_.get(), &queue_, kListModels, ListModelsRequest(), call.context,
             std::function(
                 [this, alive = alive_, exchange, call](absl::StatusOr<ListModelsResponse> models) {
                   if (models.ok() && models->models().empty())
                     models = absl::UnavailableError("no model is served yet");
                   if (!models.ok()) return Fail(*exchange, call, models.status());
                   Succeed(*exchange, call, Dump(TokenizerInfoJson(models->models(0))));
                 }));
}

void Gateway::Version(ExchangePtr exchange, const Route& route) {
  Succeed(*exchange, Begin(*exchange, route), Dump(Json{{"version", TUTTI_VERSION}}));
}

void Gateway::Detokenize(ExchangePtr exchange, const Route& route) {
  const Call call = Begin(*exchange, route);
  auto parsed = ParseDetokenizeRequest(exchange->request().body);
  if (!parsed.ok()) return Fail(*exchange, call, parsed.status());
  CallRouter(stub_.get(), &queue_, kDetokenize, *std::move(parsed), call.context,
             std::function(
                 [this, alive = alive_, exchange, call](absl::StatusOr<DetokenizeResponse> result) {
                   if (!result.ok()) return Fail(*exchange, call, result.status());
                   Succeed(*exchange, call, Dump(Json{{"prompt", result->text()}}));
                 }));
}

void Gateway::Health(ExchangePtr exchange, const Route& route) {
  Call call = Begin(*exchange, route);
  if (draining_) return Fail(*exchange, call, absl::UnavailableError("draining"));
  call.context.deadline_ms = std::min<int64_t>(options_.call_timeout_ms, 2000);
  CallRouter(stub_.get(), &queue_, kListModels, ListModelsRequest(), call.context,
             std::function(
                 [this, alive = alive_, exchange, call](absl::StatusOr<ListModelsResponse> models) {
                   if (!models.ok())
                     return Fail(*exchange, call, Annotate(models.status(), "router"));
                   for (const auto& model : models->models()) {
                     if (model.ready_decoders() > 0)
                       return Succeed(*exchange, call, R"({"status":"ok"})");
                   }
                   Fail(*exchange, call, absl::UnavailableError("no model is ready to decode"));
                 }));
}

void Gateway::MetricsText(ExchangePtr exchange, const Route& route) {
  http::Response response =
      NewResponse(*exchange, Begin(*exchange, route), "text/plain; version=0.0.4; charset=utf-8");
  counters_.Server(server_->connections(), server_->rejected(), server_->body_bytes());
  response.body = metrics_->Text();
  exchange->Respond(std::move(response));
}

void Gateway::Page(ExchangePtr exchange, const Route&) {
  http::Response response;
  response.headers.Add("Content-Type", "text/html; charset=utf-8");
  response.headers.Add("Cache-Control", "no-cache");
  response.headers.Add(
      "Content-Security-Policy",
      "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
      "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
  response.headers.Add("X-Content-Type-Options", "nosniff");
  policy_.AddCors(&exchange->request(), &response.headers);
  response.body = WebPage();
  exchange->Respond(std::move(response));
}

void Gateway::Options(ExchangePtr exchange, const Route&) {
  std::string allowed;
  Find(exchange->request(), &allowed);
  http::Response response;
  response.status = 204;
  response.headers.Add("Allow", allowed);
  policy_.AddCors(&exchange->request(), &response.headers);
  policy_.AddPreflight(exchange->request(), allowed, &response.headers);
  exchange->Respond(std::move(response));
}

}  // namespace tutti::gateway
