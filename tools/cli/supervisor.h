// Runs a local cluster as child processes: starts them, waits until they are healthy, starts dead
// and frozen ones again (frozen_watch.h), ends them all. A full disk costs logs and the freshness
// of cluster.json, never a process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "shared/base/status.h"
#include "tools/cli/cluster_plan.h"

namespace tutti::cli {

class Supervisor {
 public:
  // Takes the state dir and checks what can be checked before anything starts: the model file
  // opens, the binaries and the ports are there. Blocks the signals it waits for, so call it before
  // any thread is started. `say` receives lines for people. Errors: ALREADY_EXISTS  a cluster runs
  // in this state dir
  //         UNAVAILABLE     a port is in use
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(
      const ClusterOptions& options, std::function<void(const std::string&)> say);
  // Ends what still runs.
  virtual ~Supervisor() = default;

  // Starts everything and returns when all of it is healthy and has joined the router.
  // Errors: UNAVAILABLE  a process died (with the end of its log) or was not ready in time
  //         CANCELLED    SIGTERM or SIGINT came
  virtual absl::Status StartAll() = 0;
  virtual ClusterAddresses addresses() const = 0;
  // Watches over the processes until SIGTERM or SIGINT, then ends them in the order gateway,
  // router, workers. A second signal kills them. SIGUSR1: starts or drains expert shards, see
  // WriteScale.
  virtual absl::Status RunUntilSignal() = 0;
};

}  // namespace tutti::cli
