#include "shared/rpc/options.h"

#include <CLI/CLI.hpp>

#include "shared/base/secret.h"
#include "shared/base/strings.h"
#include "shared/rpc/cluster_auth.h"

namespace tutti::rpc {

absl::Status ServiceOptions::Validate() const {
  if (listen.empty()) return absl::InvalidArgumentError("--listen: at least one address is needed");
  for (const std::string& address : listen) {
    if (address.rfind("unix:", 0) == 0) {
      if (address.size() > 5) continue;
    } else if (const size_t colon = address.rfind(':');
               colon != std::string::npos && colon > 0 && colon + 1 < address.size()) {
      continue;
    }
    return absl::InvalidArgumentError("--listen: \"" + Printable(address) +
                                      "\" is neither host:port nor unix:path");
  }
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together: one is missing");
  }
  if (cluster_listener) TUTTI_RETURN_IF_ERROR(CheckClusterListener(*this, "--listen"));
  if (!(drain_grace_s >= 0 && drain_grace_s <= 3600)) {
    return absl::InvalidArgumentError("--drain-grace: must be in [0, 3600] seconds");
  }
  return telemetry::ParseLevel(log_level).status();
}

void AddTlsFlags(CLI::App* app, TlsOptions* options) {
  app->add_option("--tls-cert", options->cert_file,
                  "PEM certificate of this process (with --tls-key)")
      ->type_name("FILE");
  app->add_option("--tls-key", options->key_file, "PEM private key")->type_name("FILE");
  app->add_option("--tls-ca", options->ca_file,
                  "PEM authority: servers then ask clients for a certificate of it (mTLS), clients "
                  "check servers by it")
      ->type_name("FILE");
  app->add_option("--tls-server-name", options->server_name,
                  "name to expect in servers' certificates, if not their host")
      ->type_name("NAME");
}

void AddServiceFlags(CLI::App* app, ServiceOptions* options) {
  app->add_option("--listen", options->listen,
                  "address to serve gRPC on: host:port (port 0: any) or unix:path; repeatable")
      ->type_name("ADDRESS")
      ->capture_default_str();
  app->add_option("--advertise", options->advertise,
                  "address that others reach this process by (default: the first --listen)")
      ->type_name("ADDRESS");
  app->add_option("--metrics", options->metrics, "serve Prometheus text at http://ADDRESS/metrics")
      ->type_name("HOST:PORT");
  AddTlsFlags(app, &options->tls);
  app->add_option("--log-level", options->log_level, "debug, info, warning or error")
      ->type_name("LEVEL")
      ->capture_default_str();
  app->add_flag("--log-json", options->log_json, "log lines as JSON objects");
  app->add_option("--drain-grace", options->drain_grace_s,
                  "seconds that running calls get after SIGTERM")
      ->type_name("S")
      ->capture_default_str();
}

void AddClusterTokenFlag(CLI::App* app, TlsOptions* options) {
  app->add_option_function<std::string>(
         "--cluster-token-file",
         [options](const std::string& path) {
           absl::StatusOr<std::string> token = ReadSecretFile(path);
           if (!token.ok())
             throw CLI::ValidationError("--cluster-token-file",
                                        std::string(token.status().message()));
           options->cluster_token = *std::move(token);
         },
         "file with the secret that processes of the cluster show each other over TCP")
      ->type_name("FILE");
}

void AddClusterFlags(CLI::App* app, ServiceOptions* options) {
  AddClusterTokenFlag(app, &options->tls);
  app->add_flag("--insecure-cluster", options->insecure_cluster,
                "let whoever reaches a TCP address of the cluster act as a part of it");
}

absl::Status InitLogFromOptions(const std::string& service, const ServiceOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(const telemetry::Level level, telemetry::ParseLevel(options.log_level));
  telemetry::InitLog(service, level, options.log_json);
  return absl::OkStatus();
}

}  // namespace tutti::rpc
