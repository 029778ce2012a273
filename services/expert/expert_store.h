// The experts that are in memory: loaded when first asked for, let go least recently used first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "shared/model/model_weights.h"

namespace tutti::expert {

struct ExpertCounters {
  int moe_layer = 0, expert = 0;
  bool resident = false, pinned = false;
  int64_t loads = 0, rows = 0;
};

// Thread safety: Get and Pin from one thread; the rest from any.
class ExpertStore {
 public:
  // `budget_bytes` 0: no bound.
  ExpertStore(model::ExpertFiles files, int64_t budget_bytes)
      : files_(std::move(files)), budget_bytes_(budget_bytes) {}

  // The weights stay while the pointer is held. `rows` is what they are wanted for (counted).
  // Errors: RESOURCE_EXHAUSTED  everything in memory is pinned or in use; as model::LoadExpert
  // REQUIRES: layer and expert are the model's.
  absl::StatusOr<std::shared_ptr<const model::FfnWeights>> Get(int moe_layer, int expert,
                                                               int64_t rows);
  absl::Status Pin(int moe_layer, int expert);

  const model::ExpertDescription& experts() const { return files_.experts; }
  int64_t budget_bytes() const { return budget_bytes_; }
  int64_t resident_bytes() const;
  std::vector<ExpertCounters> Counters() const;

 private:
  struct Entry {
    std::shared_ptr<const model::FfnWeights> weights;
    int64_t bytes = 0, loads = 0, rows = 0;
    uint64_t used = 0;
    bool pinned = false;
  };
  bool MakeRoom(int64_t bytes);

  const model::ExpertFiles files_;
  const int64_t budget_bytes_;
  mutable std::mutex mutex_;  // guards what follows; not held while loading
  std::map<std::pair<int, int>, Entry> entries_;
  int64_t resident_bytes_ = 0, last_bytes_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace tutti::expert
