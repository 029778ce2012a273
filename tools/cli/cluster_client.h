// What the command line asks of running services.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::cli {

// Whether grpc.health.v1 at `address` says SERVING within `timeout_ms`.
bool GrpcHealthy(const std::string& address, int timeout_ms);
// Whether GET http://host_port/health answers 200 within `timeout_ms`.
bool HttpHealthy(const std::string& host_port, int timeout_ms);

// The router's view of the workers.
absl::StatusOr<fleet::v1::GetFleetResponse> GetFleet(const std::string& router, int timeout_ms,
                                                     bool with_experts = false);
// Pins experts to where they are or to a shard, or takes pins back; all pins there are then.
// Errors: as FleetService.PinExperts
absl::StatusOr<fleet::v1::PinExpertsResponse> PinExperts(
    const std::string& router, const fleet::v1::PinExpertsRequest& request, int timeout_ms);
// Models that have a tokenizer and at least one ready decoder.
absl::StatusOr<int> CountServableModels(const std::string& router, int timeout_ms);

// "host:port" -> its parts. Errors: INVALID_ARGUMENT
absl::Status SplitHostPort(const std::string& address, std::string* host, int* port);

}  // namespace tutti::cli
