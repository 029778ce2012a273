#include "services/gateway/gateway_metrics.h"

#include <string>

namespace tutti::gateway {

GatewayMetrics::GatewayMetrics(telemetry::Metrics* metrics)
    : metrics_(metrics),
      ttft_(metrics->Latency("tutti_gateway_time_to_first_token_seconds",
                             "From the request's arrival to the first text of its answer.")),
      prompt_tokens_(metrics->Counter("tutti_gateway_prompt_tokens_total",
                                      "Prompt tokens of answered requests.")),
      output_tokens_(
          metrics->Counter("tutti_gateway_output_tokens_total", "Tokens given to clients.")),
      clients_gone_(
          metrics->Counter("tutti_gateway_clients_gone_total",
                           "Requests whose client closed its side before the answer's end.")),
      running_(metrics->Gauge("tutti_gateway_requests_running", "Generations being answered.")),
      resends_(metrics->Counter(
          "tutti_gateway_resends_total",
          "Generations sent to the router again, with their seed, after it was lost.")) {}

void GatewayMetrics::Server(int64_t connections, int64_t rejected, size_t body_bytes) {
  metrics_->Gauge("tutti_gateway_connections", "Open connections of clients.")
      .Set(static_cast<double>(connections));
  metrics_
      ->Gauge("tutti_gateway_connections_rejected",
              "Connections and bodies told 503 by the HTTP server since its start.")
      .Set(static_cast<double>(rejected));
  metrics_->Gauge("tutti_gateway_body_bytes", "Bytes of request bodies in memory.")
      .Set(static_cast<double>(body_bytes));
}

void GatewayMetrics::RequestDone(std::string_view route, int status, double seconds) {
  const prometheus::Labels route_label = {{"route", std::string(route)}};
  metrics_
      ->Counter("tutti_gateway_requests_total", "Answered requests by route and HTTP status.",
                {{"route", std::string(route)}, {"code", std::to_string(status)}})
      .Increment();
  metrics_
      ->Latency("tutti_gateway_request_duration_seconds", "Arrival to the answer's last byte.",
                route_label)
      .Observe(seconds);
}

}  // namespace tutti::gateway
