// What the command line asks of running services.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/options.h"
#include "tools/cli/where.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// Whether grpc.health.v1 at `address` says SERVING within `timeout_ms`.
bool GrpcHealthy(const std::string& address, int timeout_ms);
// Whether grpc.health.v1 at `address` says anything within `timeout_ms`.
bool GrpcAnswers(const std::string& address, int timeout_ms);
// Whether GET http://host_port/health answers 200 within `timeout_ms`.
bool HttpHealthy(const std::string& host_port, int timeout_ms);
// Whether a server says anything, be it an error or a TLS alert, or closes the connection, within
// `timeout_ms` of a plain GET /health.
bool HttpAnswers(const std::string& host_port, int timeout_ms);

// A router's listener for workers and operators, and how this process shows that it may call it.
struct FleetAddress {
  std::string address;  // "": that of the state dir's cluster
  rpc::TlsOptions tls;
};
// --cluster-address, --cluster-token-file and --cluster-tls-*: of a cluster that runs elsewhere.
void AddFleetAddressFlags(CLI::App* app, FleetAddress* fleet);

// The router's view of the workers.
absl::StatusOr<fleet::v1::GetFleetResponse> GetFleet(const FleetAddress& router, int timeout_ms,
                                                     bool with_experts = false);
// Pins experts to where they are or to a shard, or takes pins back; all pins there are then.
// Errors: as FleetService.PinExperts
absl::StatusOr<fleet::v1::PinExpertsResponse> PinExperts(
    const FleetAddress& router, const fleet::v1::PinExpertsRequest& request, int timeout_ms);
// Models that have a tokenizer and at least one ready decoder.
absl::StatusOr<int> CountServableModels(const Endpoint& router, int timeout_ms);

// "host:port" or "[IPv6]:port" -> its parts, without brackets. Errors: INVALID_ARGUMENT
absl::Status SplitHostPort(const std::string& address, std::string* host, int* port);

}  // namespace tutti::cli
