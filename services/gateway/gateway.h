// The HTTP API over a router: routes, and what each of them does. No thread waits for the router or
// for a client: answers come by events.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "services/gateway/gateway_metrics.h"
#include "services/gateway/generation_client.h"
#include "services/gateway/http_policy.h"
#include "services/gateway/work_pool.h"
#include "shared/base/status.h"
#include "shared/http/server.h"

namespace tutti::gateway {

struct GatewayOptions {
  int64_t request_timeout_ms = 600'000;  // of a generation; 0: none
  int64_t call_timeout_ms = 10'000;      // of everything else
  // A generation that a lost router cut is sent to the router again until so long after: with its
  // seed it gives the same answer. 0: never.
  int64_t resend_ms = 10'000;
  int generations = 4096;  // at once; more get 503 (a generation of several prompts is one)
  // A stream's headers go so long after the router has taken the request, if no token came before.
  int64_t headers_ms = 250;
  WorkPool::Options work;
  HttpPolicyOptions policy;
};

class GenerationExchange;

// Thread-safe.
class Gateway {
 public:
  Gateway(GatewayOptions options, std::unique_ptr<RouterStub> stub, telemetry::Metrics* metrics);
  // REQUIRES: the server that Serve made has stopped.
  ~Gateway();

  // A server for the routes, not yet bound.
  std::unique_ptr<http::Server> MakeServer(const http::Limits& limits);

  // /health says 503 from now on.
  void Drain() { draining_ = true; }
  // Running generations end now: 503, or an error event in a stream.
  void CancelAll();

 private:
  friend class GenerationExchange;
  using ExchangePtr = std::shared_ptr<http::Exchange>;
  struct Route {
    const char* method;
    const char* path;   // with a '*' at its end: any path that begins so
    const char* label;  // in metrics
    bool keyed;         // asks for an API key
    void (Gateway::*handle)(ExchangePtr exchange, const Route& route);
  };
  // What a request is called in logs, metrics and answers.
  struct Call {
    const Route* route = nullptr;
    std::string request_id;
    CallContext context;
    std::string ignored;  // names of fields without effect, for the header x-tutti-ignored
  };

  static const std::vector<Route>& Routes();
  static const Route* Find(const http::Request& request, std::string* allowed);
  std::optional<http::Response> CheckHead(const http::Request& request);
  void Handle(ExchangePtr exchange);
  Call Begin(const http::Exchange& exchange, const Route& route) const;
  http::Response ErrorResponse(const absl::Status& status, const http::Request* request,
                               const std::string& request_id) const;
  void Fail(http::Exchange& exchange, const Call& call, const absl::Status& status);
  void Succeed(http::Exchange& exchange, const Call& call, std::string body,
               const char* type = "application/json");
  void Ended(GenerationExchange* generation);
  static double SecondsSince(const http::Exchange& exchange);
  http::Response NewResponse(const http::Exchange& exchange, const Call& call,
                             const char* type) const;

  void Generate(ExchangePtr exchange, const Route& route);
  void Models(ExchangePtr exchange, const Route& route);
  void Tokenize(ExchangePtr exchange, const Route& route);
  void Version(ExchangePtr exchange, const Route& route);
  void TokenizerInfo(ExchangePtr exchange, const Route& route);
  void ApplyTemplate(ExchangePtr exchange, const Route& route);
  void Detokenize(ExchangePtr exchange, const Route& route);
  void Health(ExchangePtr exchange, const Route& route);
  void MetricsText(ExchangePtr exchange, const Route& route);
  void Page(ExchangePtr exchange, const Route& route);
  void Options(ExchangePtr exchange, const Route& route);

  const GatewayOptions options_;
  const std::unique_ptr<RouterStub> stub_;
  RouterQueue queue_;
  telemetry::Metrics* const metrics_;
  GatewayMetrics counters_;
  const HttpPolicy policy_;
  std::shared_ptr<http::EventLoop> loop_;
  const http::Server* server_ = nullptr;
  std::atomic<bool> draining_{false}, cancel_all_{false};
  std::mutex mutex_;
  std::unordered_map<GenerationExchange*, std::weak_ptr<GenerationExchange>> running_;
  const std::shared_ptr<const void> alive_;  // copies are with calls to the router, in flight
  std::unique_ptr<WorkPool> work_;
};

// The page at "/" (web/page.html), built into the binary.
std::string_view WebPage();

}  // namespace tutti::gateway
