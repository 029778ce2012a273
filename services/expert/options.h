// Command line of tutti-expert.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/worker.h"

namespace tutti::expert {

// Changes an output row of an expert before it is sent.
using RowFault = std::function<void(int moe_layer, int expert, std::span<float> row)>;

struct ExpertOptions {
  // Changes the answer (and the fingerprint):
  std::string model;   // required
  int ffn_slices = 0;  // cuts a dense model's FFN; 0: a mixture's own experts

  // Changes only speed or memory:
  int64_t memory_mb = 0;          // of resident experts; 0: no bound
  std::vector<std::string> pins;  // as moe::ExpertSet: loaded at start, kept
  // Two, so that rows are evenly spread when most of a batch wants this shard.
  int threads = 2;
  int spin_us = 5;            // other shards and the target may want the core
  bool shared_memory = true;  // for targets of this host, beside each unix socket
  int queue_max = 1024;       // dispatches waiting; more are refused
  int reply_delay_us = 0;     // replies are held back so long, as by a network; by gRPC alone
  std::string isa = "auto";
  rpc::WorkerOptions worker;

  // For tests alone, which plant faults here to see them found: no flag and no variable of the
  // environment sets it. Called from the threads that compute. Empty: none.
  RowFault row_fault;

  // Errors: INVALID_ARGUMENT naming the flag.
  absl::Status Validate() const;
};

// False when the process should end with `*exit_code` (--help, or a message was printed).
bool ParseOptions(int argc, char** argv, ExpertOptions* options, int* exit_code);

}  // namespace tutti::expert
