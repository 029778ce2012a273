// Runs a local cluster as child processes: starts them, waits until they are healthy, starts dead
// ones again, ends them all.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::cli {

struct ClusterOptions {
  std::string model;
  int targets = 1;
  int threads = 0;  // of each target; 0: the machine's cores divided among the targets
  std::string host = "127.0.0.1";
  int http_port = 8080;  // 0: a free one
  int grpc_port = 8090;  // 0: a free one
  std::string state_dir = ".tutti";
  std::string binary_dir;  // where tutti-* lie
  std::string kv = "f16";  // type of the KV cache
  // Who guesses ahead: none, ngram, self (the model without some of its layers), or a model's file.
  std::string draft = "none";
  int drafts = 1;   // processes of such a model
  int experts = 0;  // expert shards; 0: experts run in the targets
  // Those that targets run themselves all the same, as moe::ExpertSet; kShare: as many of each
  // layer as a shard has.
  std::string local_experts;
  static constexpr char kShare[] = "share";
  int ffn_slices = 0;                    // cuts a dense model's FFN into experts
  std::vector<std::string> target_args;  // passed on to every target
  double ready_timeout_s = 120;
  double grace_s = 10;  // for a clean end, before SIGKILL

  bool HasDraftModel() const { return draft != "none" && draft != "ngram"; }
  bool IsSelfDraft() const { return draft == "self"; }
  const std::string& DraftModel() const { return IsSelfDraft() ? model : draft; }
  // Errors: INVALID_ARGUMENT naming the flag
  absl::Status Validate() const;
};

// Where a running cluster answers.
struct ClusterAddresses {
  std::string http, grpc;
};

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
