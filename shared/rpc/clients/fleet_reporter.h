// The worker's side of tutti.fleet.v1.FleetService.Join: tells every router that this process is
// there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/options.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::rpc {

struct FleetReporterOptions {
  std::vector<std::string> routers;  // addresses; none: the reporter does nothing
  TlsOptions tls;
  int report_interval_ms = 500;  // until the router says otherwise (50 ms to 10 s are obeyed)
  // Adds to each report, after `load`. May be empty.
  std::function<void(fleet::v1::WorkerReport*)> extend;
  // What experts to hold, by the first of `routers` that is joined: several routers decide each for
  // itself, and a shard can obey only one. From gRPC's threads; may be empty.
  std::function<void(const fleet::v1::ExpertAssignment&)> on_assign;
};

// Keeps one stream to each router; a lost one is joined again after 50 ms, growing to 1 s. A router
// that drains keeps its stream, which gets reports until the router ends it, and the address is
// joined again beside it. One thread for all. Thread-safe.
class FleetReporter {
 public:
  // `identity`: everything but state and load. `load` is asked before each report, from the
  // reporter's thread. Errors: INVALID_ARGUMENT  TLS files
  static absl::StatusOr<std::unique_ptr<FleetReporter>> Start(
      const FleetReporterOptions& options, fleet::v1::WorkerReport identity,
      std::function<fleet::v1::WorkerLoad()> load);
  // Ends the streams: to routers that is the end of this worker.
  virtual ~FleetReporter() = default;

  // Reported at once. The identity may change with it (the fingerprint is known once the model is
  // loaded).
  virtual void SetState(fleet::v1::WorkerState state) = 0;
  virtual void SetIdentity(fleet::v1::WorkerReport identity) = 0;
  // The load changed much: report soon.
  virtual void Nudge() = 0;
  // Streams that are up now, without those of draining routers.
  virtual int num_joined() const = 0;
};

// "<kind>-<host>-<pid>-<4 hex>": unique enough without coordination.
std::string MakeWorkerId(const std::string& kind);
// Resident memory of this process in bytes.
int64_t ResidentBytes();

}  // namespace tutti::rpc
