// Counters, gauges and histograms of a service, served as Prometheus text at /metrics.
#pragma once

#include <memory>
#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "shared/base/status.h"

namespace tutti::telemetry {

// Owns a registry and, once Serve was called, the HTTP endpoint. Names are
// tutti_<service>_<noun>_<unit>[_total]. Families and metrics live as long as this object.
// Thread-safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();
  prometheus::Registry& registry() { return *registry_; }

  // One metric without labels or with fixed ones; asking again gives the same one.
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const prometheus::Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const prometheus::Labels& labels = {});
  // Bounds in seconds: 1 ms to 60 s.
  prometheus::Histogram& Latency(const std::string& name, const std::string& help,
                                 const prometheus::Labels& labels = {});

  // Starts the endpoint on "host:port" (port 0: any). Errors: UNAVAILABLE (the address is taken).
  absl::Status Serve(const std::string& address);
  std::string address() const;  // "host:port" in use, "" when not serving

  std::string Text() const;  // what /metrics answers

 private:
  struct Endpoint;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace tutti::telemetry
