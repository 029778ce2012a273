// Where the experts of a layer run: in this process, or on shards elsewhere. The forward pass knows
// only this.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernels.h"
#include "shared/base/status.h"

namespace tutti::moe {

// The rows of one MoE layer and the experts that each wants.
struct ExpertBatch {
  int moe_layer = 0;     // counted over MoE layers alone (dense layers are skipped)
  int64_t num_rows = 0;  // >= 1
  int64_t hidden = 0;
  // As the experts' first matmul consumes them: `f32` [num_rows, hidden], or `quantized` with
  // num_rows set (then f32 may be nullptr).
  const float* f32 = nullptr;
  kernels::QuantizedRows quantized;
  // Row r wants expert_ids[row_offsets[r] .. row_offsets[r + 1]), ascending, each once.
  std::span<const int32_t> row_offsets;  // [num_rows + 1]
  std::span<const int32_t> expert_ids;   // [pairs]
  // Which row of `out` pair p is [pairs]; empty: row p.
  std::span<const int32_t> out_rows;

  int64_t OutRow(int64_t pair) const {
    return out_rows.empty() ? pair : out_rows[static_cast<size_t>(pair)];
  }
};

// Experts are pure functions: output pair p is expert expert_ids[p] of its row, unscaled and not
// summed; the caller combines (docs/determinism.md). So a backend may compute a row anywhere,
// twice, or again.
//
// Thread safety: one batch per moe layer and lane at a time, from one thread.
// Determinism: exact: a pair's row depends on that row and expert alone.
class ExpertBackend {
 public:
  virtual ~ExpertBackend() = default;

  // Starts on a batch. Everything that `batch` points to, and `out` [pairs, hidden], stays valid
  // until the Wait of the same lane returns. `lane` in [0, kMaxLanes): so many batches may be in
  // flight (two micro-batches hide the way to a shard).
  static constexpr int kMaxLanes = 2;
  virtual void Start(const ExpertBatch& batch, int lane, float* out) = 0;

  // Wait sleeps while others compute, perhaps on these cores.
  virtual bool is_elsewhere() const { return true; }
  // A step of at least so many rows is better cut into two micro-batches, one of which computes
  // while the other's rows are under way; INT64_MAX: none. From the thread that starts batches.
  virtual int64_t MinRowsToOverlap() const { return INT64_MAX; }

  // Which shards' rows batches used since the last call, a bit for each, and which shards turned
  // out since then to compute wrong. To be asked after the batches of a step, before anything of it
  // is used or kept: a step that was made with a distrusted shard is to be run again, and all that
  // was ever made with it to be dropped.
  struct Provenance {
    uint64_t made_by = 0, distrusted = 0;
  };
  virtual Provenance TakeProvenance() { return {}; }

  // Returns when `out` is complete, or will not be.
  // Errors: UNAVAILABLE  no shard was there until the batch's deadline
  //         RESOURCE_EXHAUSTED  no shard has memory for an expert
  //         DATA_LOSS  shards differ, and nobody can say which is right
  virtual absl::Status Wait(int lane) = 0;
};

}  // namespace tutti::moe
