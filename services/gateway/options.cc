#include "services/gateway/options.h"

#include <CLI/CLI.hpp>
#include <fstream>

namespace tutti::gateway {

void AddFlags(CLI::App* app, Options* o) {
  app->add_option("--http", o->http, "Address to serve HTTP on, host:port (port 0: any free one)")
      ->capture_default_str();
  app->add_option("--router", o->router, "Address of the router: host:port or unix:path")
      ->capture_default_str();
  app->add_option("--metrics", o->metrics, "A second address for /metrics alone, host:port");
  app->add_option("--api-key-file", o->api_key_file,
                  "File with one API key per line; without it the API is open");
  app->add_option("--cors-origin", o->gateway.cors_origin,
                  "Let pages of this origin use the API (\"*\": any); off by default");
  app->add_option("--threads", o->limits.threads, "Requests served at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--queue", o->limits.queue,
                  "Connections that may wait for a thread; more get 503")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  app->add_option("--request-timeout", o->request_timeout_s,
                  "Seconds for one generation; 0: no limit")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app->add_option("--drain-grace", o->drain_grace_s,
                  "Seconds that running requests get after SIGTERM")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app->add_option("--log-level", o->log_level, "debug, info, warning or error")
      ->capture_default_str();
  app->add_flag("--log-json", o->log_json, "Log lines as JSON");
  rpc::AddTlsFlags(app, &o->tls);
}

absl::Status Finish(Options* o) {
  o->gateway.request_timeout_ms = static_cast<int64_t>(o->request_timeout_s * 1000);
  if (o->api_key_file.empty()) return absl::OkStatus();
  std::ifstream in(o->api_key_file);
  if (!in) return absl::NotFoundError("--api-key-file: cannot read " + o->api_key_file);
  std::string line;
  while (std::getline(in, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    if (line.size() < 8)
      return absl::InvalidArgumentError("--api-key-file: keys must have at least 8 characters");
    o->gateway.api_keys.push_back(line);
  }
  if (o->gateway.api_keys.empty()) {
    return absl::InvalidArgumentError("--api-key-file: " + o->api_key_file + " has no key");
  }
  return absl::OkStatus();
}

}  // namespace tutti::gateway
