// Experts on shards elsewhere, as the forward pass sees them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/exchange/expert_exchange.h"
#include "shared/moe/expert_backend.h"
#include "shared/rpc/clients/expert_stats.h"
#include "shared/rpc/options.h"
#include "shared/wire/expert.h"

namespace tutti::rpc {

struct RpcExpertsOptions {
  wire::ExpertShape shape;
  std::vector<std::string> addresses;  // of shards
  std::vector<std::string> routers;    // whose fleets are asked for shards, every 100 ms
  TlsOptions tls;
  exchange::ExchangeOptions exchange;  // its sizes are taken from `shape`
  // Computes pairs with the weights of this process, for the double check; empty: it has none.
  std::function<absl::Status(const moe::ExpertBatch& batch, float* out)> own_experts;
  bool shared_memory = true;  // false: gRPC to every shard
  // So many cores are kept awake for so long after rows went to a shard of this host (WarmCores).
  int warm_cores = 0;
  int64_t warm_us = 1000;
  // Steps of at least so many rows are cut into two micro-batches (0: never), with some shard by
  // gRPC, and with all by shared memory.
  int overlap_rows = 0, overlap_rows_shm = 0;
};

// One link to each shard: shared memory on this host (unix addresses), else a stream on one
// completion queue. The thread that waits polls them itself: a reply wakes nobody in between.
// Shards that are not there, or go away, are tried again after 20 ms, growing to 500 ms.
//
// Thread safety: Start and Wait from one thread at a time.
class RpcExperts : public moe::ExpertBackend {
 public:
  // Connects in the first Wait. Errors: INVALID_ARGUMENT  TLS files
  static absl::StatusOr<std::unique_ptr<RpcExperts>> Create(const RpcExpertsOptions& options);
  // From the thread that waits.
  virtual exchange::ExchangeStats stats() const = 0;
  // Before the first Start. `stats` is borrowed.
  virtual void Count(ExpertStats* stats) = 0;

  // Shard processes whose rows were wrong, the oldest first. From any thread.
  struct Quarantined {
    std::string address;
    uint64_t process = 0;  // CombineReply.process
  };
  virtual std::vector<Quarantined> quarantined() const = 0;
  // Is called, by the thread that waits, when there is one more. Before the first Start.
  virtual void OnQuarantine(std::function<void()> callback) = 0;
};

}  // namespace tutti::rpc
