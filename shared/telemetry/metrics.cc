#include "shared/telemetry/metrics.h"

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include <exception>

#include "shared/base/strings.h"

namespace tutti::telemetry {
namespace {

// 1 ms to 60 s, denser where time to first token and time between tokens of small models lie.
const prometheus::Histogram::BucketBoundaries& LatencyBounds() {
  static const prometheus::Histogram::BucketBoundaries bounds = {
      .001, .002, .005, .01, .02, .03, .04, .05, .06, .08, .1, .15, .2,
      .3,   .5,   .75,  1,   1.5, 2,   3,   5,   7.5, 10,  20, 30,  60};
  return bounds;
}

}  // namespace

struct Metrics::Endpoint {
  explicit Endpoint(const std::string& bind) : exposer(bind, 2) {}
  prometheus::Exposer exposer;
  std::string address;
};

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
Metrics::~Metrics() = default;

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const prometheus::Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const prometheus::Labels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Histogram& Metrics::Latency(const std::string& name, const std::string& help,
                                        const prometheus::Labels& labels) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*registry_)
      .Add(labels, LatencyBounds());
}

absl::Status Metrics::Serve(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon + 1 == address.size()) {
    return absl::InvalidArgumentError("metrics address: \"" + Printable(address) +
                                      "\" is not host:port");
  }
  std::string host = address.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";  // the HTTP server takes numbers only
  if (host.empty()) host = "0.0.0.0";
  try {
    auto endpoint = std::make_unique<Endpoint>(host + address.substr(colon));
    const auto ports = endpoint->exposer.GetListeningPorts();
    if (ports.empty()) {
      return absl::UnavailableError("metrics address " + Printable(address) + ": not listening");
    }
    endpoint->address = host + ":" + std::to_string(ports.front());
    endpoint->exposer.RegisterCollectable(registry_, "/metrics");
    endpoint_ = std::move(endpoint);
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        "metrics address " + Printable(address) +
        ": cannot listen there (is it taken? is the host a number?): " + Printable(e.what()));
  }
  return absl::OkStatus();
}

std::string Metrics::address() const { return endpoint_ ? endpoint_->address : std::string(); }

std::string Metrics::Text() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace tutti::telemetry
