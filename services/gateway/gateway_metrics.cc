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
      running_(metrics->Gauge("tutti_gateway_requests_running", "Generations being answered.")) {}

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
