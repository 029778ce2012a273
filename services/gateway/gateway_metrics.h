// What the gateway counts.
#pragma once

#include <cstdint>
#include <string_view>

#include "shared/telemetry/metrics.h"

namespace tutti::gateway {

class GatewayMetrics {
 public:
  explicit GatewayMetrics(telemetry::Metrics* metrics);

  void RequestDone(std::string_view route, int status, double seconds);
  void FirstToken(double seconds) { ttft_.Observe(seconds); }
  void Tokens(int64_t prompt, int64_t output) {
    prompt_tokens_.Increment(static_cast<double>(prompt));
    output_tokens_.Increment(static_cast<double>(output));
  }
  void ClientGone() { clients_gone_.Increment(); }
  prometheus::Gauge& running() { return running_; }
  // What the HTTP server holds; set when somebody reads the metrics.
  void Server(int64_t connections, int64_t rejected, size_t body_bytes);
  void Resent(int times) { resends_.Increment(times); }

 private:
  telemetry::Metrics* const metrics_;
  prometheus::Histogram& ttft_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& output_tokens_;
  prometheus::Counter& clients_gone_;
  prometheus::Gauge& running_;
  prometheus::Counter& resends_;
};

}  // namespace tutti::gateway
