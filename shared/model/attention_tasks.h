// How the attention of a layer is cut into tasks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::model {

// Rows of the step: one slice's for an attention task, or those that pass a layer together.
struct RowRun {
  int32_t begin, end;
  int64_t size() const { return end - begin; }
};

// Query heads [first, last) of those that share a KV head, for the rows of a run; or part `part` of
// `parts` of the positions that these see, which leaves results of chunks behind
// (kernels::ChunkResults), from element `results` of those of all tasks on.
struct AttentionTask {
  RowRun run;
  int kv_head, first, last;
  int part = 0, parts = 1;
  int64_t results = 0;
};

// What is to be cut.
struct AttentionShape {
  std::span<const RowRun> runs;
  std::span<const int64_t> positions;  // that the last row of each run sees
  int num_kv_heads, group;             // query heads that share a KV head
  int head_dim;
};

struct AttentionPlan {
  std::vector<AttentionTask> tasks;
  // What is merged when all tasks are done: rows whose positions were cut, one each, of the task
  // that is merges[i].task, its first part.
  struct Merge {
    size_t task;
    int row;  // of the task's run
  };
  std::vector<Merge> merges;
  int64_t results = 0;  // floats for the results of chunks
};

// Every query head of every run once, in an order that gives the share of each of `threads` threads
// (ThreadPool::ShareBegin) about as much. Neighbouring tasks have the KV head in common, so that it
// is read at one time, and every thread gets whole heads first. The last ones, where whole KV heads
// would leave threads idle, are cut where that evens the shares out best: by query heads, or, where
// a text is long, by positions.
//
// Thread safety: pure; `plan` is overwritten. Determinism: only speed depends on it.
void PlanAttention(const AttentionShape& shape, int threads, AttentionPlan* plan);

// Where part `part` of `parts` of the positions [begin, end) begins: a multiple of
// kernels::kAttentionChunk, the same for all layers and heads. part == parts: past the end.
int64_t PartBegin(int64_t begin, int64_t end, int part, int parts);

}  // namespace tutti::model
