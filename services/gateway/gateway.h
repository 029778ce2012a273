// The HTTP API over a router: routes, and what each of them does.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "services/gateway/gateway_metrics.h"
#include "shared/base/status.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace httplib {
struct Request;
struct Response;
}  // namespace httplib

namespace tutti::gateway {

class HttpServer;

struct GatewayOptions {
  int64_t request_timeout_ms = 600'000;  // of a generation; 0: none
  int64_t call_timeout_ms = 10'000;      // of everything else
  std::vector<std::string> api_keys;     // none: open to all
  std::string cors_origin;               // "": no CORS headers
};

// Thread-safe; must outlive the server that it was mounted on.
class Gateway {
 public:
  Gateway(GatewayOptions options,
          std::unique_ptr<generation::v1::GenerationService::StubInterface> stub,
          telemetry::Metrics* metrics);
  ~Gateway();

  void Mount(HttpServer* server);

  // /health says 503 from now on.
  void Drain() { draining_ = true; }
  // Running generations end soon, as if their clients had gone.
  void CancelAll() { cancel_all_ = true; }

 private:
  struct Exchange;  // one request being answered
  struct Generation;

  Exchange Begin(const char* route, const httplib::Request& request, httplib::Response& response);
  void Fail(Exchange& exchange, httplib::Response& response, const absl::Status& status);
  void Succeed(Exchange& exchange, httplib::Response& response, std::string json);
  absl::Status CheckPost(const httplib::Request& request) const;
  std::string ClientOf(const httplib::Request& request, const std::string& user) const;
  absl::Status CheckKey(const httplib::Request& request) const;
  bool ShouldStop() const;

  void Generate(bool chat, const httplib::Request& request, httplib::Response& response);
  void StreamAnswer(std::shared_ptr<Generation> generation, httplib::Response& response);
  void EndGeneration(Generation& generation);
  void Models(const httplib::Request& request, httplib::Response& response);
  void Tokenize(const httplib::Request& request, httplib::Response& response);
  void Detokenize(const httplib::Request& request, httplib::Response& response);
  void Health(const httplib::Request& request, httplib::Response& response);

  const GatewayOptions options_;
  const std::unique_ptr<generation::v1::GenerationService::StubInterface> stub_;
  telemetry::Metrics* const metrics_;
  GatewayMetrics counters_;
  std::atomic<bool> draining_{false}, cancel_all_{false};
};

// The page at "/" (web/index.html), built into the binary.
std::string_view WebPage();

}  // namespace tutti::gateway
