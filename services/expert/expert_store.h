// The experts that are in memory: those that a router wants held, those pinned, and what else was
// asked for, loaded when first wanted and let go least recently used first.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "shared/model/model_weights.h"
#include "shared/placement/experts.h"

namespace tutti::expert {

struct ExpertCounters {
  int moe_layer = 0, expert = 0;
  bool resident = false, pinned = false;
  int64_t loads = 0, rows = 0;
};

// Thread safety: all of it, from any thread. Two that want the same expert at once may both load
// it; one copy stays.
class ExpertStore {
 public:
  // `budget_bytes` 0: no bound.
  ExpertStore(model::ExpertFiles files, int64_t budget_bytes)
      : files_(std::move(files)),
        budget_bytes_(budget_bytes),
        expert_bytes_(files_.experts.expert_bytes) {}

  // The weights stay while the pointer is held.
  // Errors: RESOURCE_EXHAUSTED  everything in memory is pinned or in use; as model::LoadExpert
  // REQUIRES: layer and expert are the model's.
  absl::StatusOr<std::shared_ptr<const model::FfnWeights>> Get(int moe_layer, int expert);
  // What an expert was wanted for, and how long that waited and took.
  void Count(int moe_layer, int expert, int64_t rows, int64_t queue_us, int64_t run_us);
  // The shard's own pins (--pin). Errors: as Get
  absl::Status Pin(int moe_layer, int expert);

  // Lets go of what is not in it, and of pins by an earlier one. What is missing is loaded by
  // LoadNext. REQUIRES: numbers are the model's.
  void Assign(const placement::ExpertAssignment& assignment);
  // Loads one expert that is to be held and is not in memory; false: there is none, or no room
  // without letting go of another that is held. Drops what nobody wanted for a while.
  bool LoadNext(int64_t now_us);

  const model::ExpertDescription& experts() const { return files_.experts; }
  int64_t budget_bytes() const { return budget_bytes_; }
  int64_t resident_bytes() const;
  bool assigned_nothing() const;  // an assignment came, and it is empty
  std::vector<ExpertCounters> Counters() const;
  placement::ExpertReport Report() const;

 private:
  struct Entry {
    std::shared_ptr<const model::FfnWeights> weights;
    int64_t bytes = 0, loads = 0, rows = 0, queue_us = 0, run_us = 0;
    uint64_t used = 0;
    int64_t used_us = 0;
    bool held = false, pinned = false, pinned_here = false;
  };
  int Number(int moe_layer, int expert) const {
    return moe_layer * files_.experts.experts_per_layer + expert;
  }
  absl::StatusOr<std::shared_ptr<const model::FfnWeights>> Load(int moe_layer, int expert);
  enum class Evict { kOnlyIdle, kAny };
  bool MakeRoomLocked(int64_t bytes, Evict evict, int64_t now_us);
  void LetGoLocked(Entry* e);
  // What was loaded becomes resident; false: no room.
  bool KeepLocked(int number, std::shared_ptr<const model::FfnWeights> weights, Evict evict,
                  int64_t now_us);

  const model::ExpertFiles files_;
  const int64_t budget_bytes_, expert_bytes_;
  mutable std::mutex mutex_;  // guards what follows; not held while loading
  std::map<int, Entry> entries_;
  std::set<int> missing_;  // to be held and not yet loaded
  uint64_t assignment_epoch_ = 0;
  bool assigned_nothing_ = false;
  int64_t resident_bytes_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace tutti::expert
