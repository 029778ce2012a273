// The command line of tutti-gateway.
#pragma once

#include <string>

#include "services/gateway/gateway.h"
#include "shared/http/server.h"
#include "shared/rpc/options.h"

namespace CLI {
class App;
}

namespace tutti::gateway {

struct Options {
  std::string http = "127.0.0.1:8080";
  std::string router = "127.0.0.1:7100";
  std::string metrics;
  std::string api_key_file;
  std::string allowed_hosts;   // comma separated
  http::Tls https;             // towards clients
  rpc::TlsOptions router_tls;  // towards the router
  std::string log_level = "info";
  bool log_json = false;
  double drain_grace_s = 10;
  double request_timeout_s = 600;
  double resend_s = 10;
  double queue_wait_s = 5;
  double idle_s = 60;
  http::Limits limits;
  GatewayOptions gateway;
};

void AddFlags(CLI::App* app, Options* options);

// Checks the options and reads the key file into options->gateway. Errors: INVALID_ARGUMENT,
// NOT_FOUND
absl::Status Finish(Options* options);

}  // namespace tutti::gateway
