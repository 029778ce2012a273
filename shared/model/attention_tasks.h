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

// Query heads [first, last) of those that share a KV head, for the rows of a run.
struct AttentionTask {
  RowRun run;
  int kv_head, first, last;
};

// Every query head of every run once, in an order that gives the share of each of `threads` threads
// (ThreadPool::ShareBegin) about as much: neighbouring tasks have the KV head in common, so that it
// is read at one time; where whole KV heads would leave threads idle the last ones are cut by query
// heads, of which each has `group`, and every thread gets whole heads first.
//
// Thread safety: pure; `tasks` is overwritten. Determinism: only speed depends on it.
void PlanAttention(std::span<const RowRun> runs, int num_kv_heads, int group, int threads,
                   std::vector<AttentionTask>* tasks);

}  // namespace tutti::model
