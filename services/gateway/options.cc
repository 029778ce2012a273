#include "services/gateway/options.h"

#include <CLI/CLI.hpp>
#include <fstream>

#include "services/gateway/json_fields.h"

namespace tutti::gateway {

void AddFlags(CLI::App* app, Options* o) {
  app->add_option("--http", o->http, "Address to serve HTTP on, host:port (port 0: any free one)")
      ->capture_default_str();
  app->add_option("--router", o->router, "Address of the router: host:port or unix:path")
      ->capture_default_str();
  app->add_option("--metrics", o->metrics, "A second address for /metrics alone, host:port");
  app->add_option("--api-key-file", o->api_key_file,
                  "File with one API key per line; without it the API is open");
  app->add_option("--cors-origin", o->gateway.policy.cors_origin,
                  "Let pages of these origins use the API, comma separated (\"*\": any); off by "
                  "default");
  app->add_option("--allowed-hosts", o->allowed_hosts,
                  "Host names that requests may name, comma separated, \"*.example.com\" for all "
                  "below; IP addresses and localhost always may. Without: checked on loopback "
                  "addresses without keys alone, where names with a dot are refused");
  app->add_option("--tls-cert", o->https.cert_file,
                  "PEM certificate (chain) to serve HTTPS with; needs --tls-key");
  app->add_option("--tls-key", o->https.key_file, "PEM key of --tls-cert");
  app->add_option("--io-threads", o->limits.io_threads, "Threads that read and write connections")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app->add_option("--threads", o->gateway.work.threads, "Threads that parse requests")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app->add_option("--queue", o->gateway.work.queue,
                  "Requests that may wait for a thread; more get 503")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app->add_option("--queue-wait", o->queue_wait_s,
                  "Seconds that a request may wait for a thread; then it gets 503")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app->add_option("--connections", o->limits.connections,
                  "Connections at once; past them idle ones are closed, then new ones get 503")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--generations", o->gateway.generations,
                  "Generations answered at once; more get 503")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app->add_option("--idle-timeout", o->idle_s,
                  "Seconds that a connection may be open without a request")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  app->add_option("--resend", o->resend_s,
                  "Seconds that a generation cut by the router's death is sent to it again, with "
                  "its seed; 0: never")
      ->check(CLI::Range(0.0, 3600.0))
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
  app->add_option("--router-tls-ca,--tls-ca", o->router_tls.ca_file,
                  "PEM authority of the router's certificate: TLS towards the router");
  app->add_option("--router-tls-cert", o->router_tls.cert_file,
                  "PEM certificate shown to the router; needs --router-tls-key. Without: that of "
                  "--tls-cert, if there is an authority");
  app->add_option("--router-tls-key", o->router_tls.key_file, "PEM key of --router-tls-cert");
  app->add_option("--router-tls-server-name,--tls-server-name", o->router_tls.server_name,
                  "Name expected in the router's certificate, if not its host");
}

absl::Status Finish(Options* o) {
  o->gateway.request_timeout_ms = static_cast<int64_t>(o->request_timeout_s * 1000);
  o->gateway.resend_ms = static_cast<int64_t>(o->resend_s * 1000);
  o->gateway.work.wait_ms = static_cast<int>(o->queue_wait_s * 1000);
  o->limits.idle_ms = static_cast<int>(o->idle_s * 1000);
  o->limits.parser.body_bytes = kMaxBodyBytes;
  for (const std::string_view host : http::ListMembers(o->allowed_hosts))
    o->gateway.policy.allowed_hosts.emplace_back(host);
  if (o->https.cert_file.empty() != o->https.key_file.empty())
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  if (o->router_tls.cert_file.empty() && o->router_tls.AsClient()) {
    o->router_tls.cert_file = o->https.cert_file;
    o->router_tls.key_file = o->https.key_file;
  }
  if (o->api_key_file.empty()) return absl::OkStatus();
  std::ifstream in(o->api_key_file);
  if (!in) return absl::NotFoundError("--api-key-file: cannot read " + o->api_key_file);
  std::string line;
  while (std::getline(in, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    if (line.size() < 8)
      return absl::InvalidArgumentError("--api-key-file: keys must have at least 8 characters");
    o->gateway.policy.api_keys.push_back(line);
  }
  if (o->gateway.policy.api_keys.empty()) {
    return absl::InvalidArgumentError("--api-key-file: " + o->api_key_file + " has no key");
  }
  return absl::OkStatus();
}

}  // namespace tutti::gateway
