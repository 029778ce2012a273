// The folder of a local cluster: who runs, under which addresses, and the logs. The folder is the
// user's own (0700), its files are readable by nobody else (private_files.h).
//
//   STATE_DIR/lock          held (flock) by the supervisor as long as it lives
//   STATE_DIR/cluster.json  what runs; replaced as a whole, never half written
//   STATE_DIR/scale.json    how many expert shards 'tutti scale' asked for last
//   STATE_DIR/logs/NAME.log output of each process; NAME.log.old what came before (of a past run,
//   or
//                           when the log grew over 32 MB)
//   STATE_DIR/run/*.sock    unix sockets (in a folder under /tmp when the path is too long for one)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace CLI {
class App;
}

namespace tutti::cli {

struct ProcessState {
  std::string name;     // "target-0"
  std::string kind;     // "target"
  int64_t pid = 0;      // 0: not running just now
  std::string address;  // unix:..., or host:port for the gateway
  std::string metrics;  // host:port of /metrics, "" when unknown
  std::string log;
  int restarts = 0;
};

struct ClusterState {
  int64_t supervisor_pid = 0, started_unix_s = 0;
  bool ready = false;
  std::string model;
  std::string http, grpc;   // host:port for clients
  std::string router_unix;  // unix:... of the router, quicker from this host
  std::string cluster;      // unix:... where the router serves workers and operators
  std::vector<ProcessState> processes;
};

absl::Status WriteClusterState(const std::string& state_dir, const ClusterState& state);
// Errors: NOT_FOUND  no cluster.json; INVALID_ARGUMENT  it is damaged
absl::StatusOr<ClusterState> ReadClusterState(const std::string& state_dir);

// The number of expert shards that the supervisor makes true when SIGUSR1 comes, 1 to 64.
absl::Status WriteScale(const std::string& state_dir, int experts);
// Errors: NOT_FOUND; INVALID_ARGUMENT  it is damaged, or not in 1 to 64
absl::StatusOr<int> ReadScale(const std::string& state_dir);

// The lock of a state dir. Released when the object or the process goes, by any death.
class StateLock {
 public:
  // Errors: ALREADY_EXISTS  another supervisor holds it
  static absl::StatusOr<std::unique_ptr<StateLock>> Acquire(const std::string& state_dir);
  // Whether some process holds it.
  static bool IsHeld(const std::string& state_dir);
  // Whether it is held, and this process has the lock's file open.
  static bool IsHeldBy(const std::string& state_dir, int64_t pid);
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_;
};

// The state of the cluster that runs in `state_dir`.
// Errors: NOT_FOUND  none runs there; the message says how to start one; PERMISSION_DENIED  the
// folder is another user's
absl::StatusOr<ClusterState> RunningCluster(const std::string& state_dir);

// Sends a signal to state.supervisor_pid, if that process holds the lock of `state_dir`: a stale or
// foreign cluster.json may name any process. Errors: UNAVAILABLE
absl::Status SignalSupervisor(const std::string& state_dir, const ClusterState& state, int signal);

// --state-dir, with TUTTI_STATE_DIR and then ".tutti" as the default.
void AddStateDirFlag(CLI::App* app, std::string* state_dir);

}  // namespace tutti::cli
