// What every service takes on its command line.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/telemetry/log.h"

namespace CLI {
class App;
}

namespace tutti::rpc {

// PEM files. As a server: cert and key switch TLS on, ca asks every client for a certificate of
// that authority (mTLS). As a client: ca switches TLS on, cert and key are presented when asked.
// Unix sockets stay plain: file permissions guard them.
struct TlsOptions {
  std::string cert_file, key_file, ca_file;
  std::string
      server_name;  // as a client: the name expected in the server's certificate, if not its host
  // What shows over TCP that this process is of the cluster (cluster_auth.h); "": nothing.
  std::string cluster_token;

  bool AsServer() const { return !cert_file.empty(); }
  bool AsClient() const { return !ca_file.empty(); }
};

struct ServiceOptions {
  std::vector<std::string>
      listen;             // "host:port" (port 0: any free one), "unix:path" or "unix:///path"
  std::string advertise;  // address given to the fleet; "": the first one in use
  std::string metrics;    // "host:port" of /metrics; "": none
  TlsOptions tls;
  std::string log_level = "info";
  bool log_json = false;
  // `listen` serves processes of the cluster, not clients: callers must be known (cluster_auth.h).
  bool cluster_listener = false;
  bool insecure_cluster = false;  // ... or not
  double drain_grace_s = 10;      // after SIGTERM: time for running calls before they are cancelled

  // Errors: INVALID_ARGUMENT naming the flag.
  absl::Status Validate() const;
};

// Adds --listen, --advertise, --metrics, --tls-cert, --tls-key, --tls-ca, --tls-server-name,
// --log-level,
// --log-json and --drain-grace. `options` holds the defaults and must outlive the parse.
void AddServiceFlags(CLI::App* app, ServiceOptions* options);

// --cluster-token-file, which is read while the flags are parsed, and --insecure-cluster.
void AddClusterFlags(CLI::App* app, ServiceOptions* options);
// The first of them alone, for callers.
void AddClusterTokenFlag(CLI::App* app, TlsOptions* options);

// The TLS flags alone, for clients.
void AddTlsFlags(CLI::App* app, TlsOptions* options);

// Starts the log as the options say. Errors: INVALID_ARGUMENT
absl::Status InitLogFromOptions(const std::string& service, const ServiceOptions& options);

}  // namespace tutti::rpc
