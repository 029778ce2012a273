// The shell that workers (target, tokenizer, ...) have in common: a server that answers at once, a
// load in the background, reports to the routers, metrics, drain.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/options.h"
#include "shared/rpc/server.h"
#include "shared/telemetry/metrics.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::rpc {

struct WorkerOptions {
  ServiceOptions service;
  std::vector<std::string> routers;  // to join
  std::string worker_id;             // "": made up, see MakeWorkerId

  absl::Status Validate() const { return service.Validate(); }
};

// The flags of AddServiceFlags and AddClusterFlags, --join (repeatable) and --worker-id.
void AddWorkerFlags(CLI::App* app, WorkerOptions* options);

struct WorkerSpec {
  std::string name;  // "target": in log events and made-up ids
  fleet::v1::WorkerKind kind = fleet::v1::WORKER_KIND_UNSPECIFIED;
  std::vector<grpc::Service*> services;  // borrowed, must outlive the worker
  std::vector<std::string> health_names;
  BuilderHook configure;  // may be empty

  // What the fleet learns once the worker is ready.
  struct Served {
    std::string model;
    uint64_t fingerprint = 0, tokenizer_fingerprint = 0;
    std::string vocabulary_digest{};                       // tokenizer::VocabularyDigest
    std::optional<fleet::v1::ExpertShape> expert_shape{};  // of a target with experts on shards
    std::vector<std::string> model_aliases{};              // other names that requests may use
  };
  // Runs in a thread of its own; when it returns OK the services must answer.
  std::function<absl::StatusOr<Served>()> load;
  // Asked before each report, also while loading.
  std::function<fleet::v1::WorkerLoad()> report_load;
  // See FleetReporterOptions. May be empty.
  std::function<void(fleet::v1::WorkerReport*)> extend_report;
  std::function<void(const fleet::v1::ExpertAssignment&)> on_assign;
  // Refuses new work and may wait, within the grace, until the running one is done. May be empty.
  std::function<void()> on_drain;
};

// Thread-safe.
class Worker {
 public:
  // Listens at once (health NOT_SERVING), reports STARTING, loads, then serves and reports READY.
  // `metrics` is borrowed. Errors: INVALID_ARGUMENT  options; UNAVAILABLE  an address is taken
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const WorkerOptions& options,
                                                       telemetry::Metrics* metrics,
                                                       WorkerSpec spec);
  // Waits for the load, leaves the fleet, cancels what still runs.
  ~Worker();

  // Waits until the worker is ready; what `load` failed with otherwise.
  absl::Status WaitReady();
  Server& server();
  std::string metrics_address() const;  // in use; "" when there is none
  int num_routers_joined() const;
  // What is reported changed much: report soon.
  void Nudge();

  // Serves until SIGTERM or SIGINT (see BlockShutdownSignals), drains, returns OK; or ends with
  // what `load` failed with. Ends the process with status 0 when the signal comes before the load
  // is done.
  absl::Status Run();

 private:
  struct Impl;
  explicit Worker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti::rpc
