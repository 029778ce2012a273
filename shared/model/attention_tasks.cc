#include "shared/model/attention_tasks.h"

#include <algorithm>
#include <numeric>

#include "kernels/kernels.h"
#include "shared/base/thread_pool.h"

namespace tutti::model {
namespace {

using kernels::ChunkResults;
using kernels::kAttentionChunk;

constexpr int64_t kMostResults = 1 << 21;  // floats; 8 MiB
// So many positions must the longest share lose before a cut by positions pays for its merge: with
// 3 query heads on a KV head, some microseconds.
constexpr double kWorthIt = 100;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How each of the last tasks, a run and a KV head, is cut.
struct Cut {
  bool by_positions = false;
  int64_t parts = 1;
  double largest = 1;  // part, as a share of its task

  // Tasks' worth of work for the thread that gets most of `num` tasks.
  double MostWork(int64_t num, int threads) const {
    return static_cast<double>(CeilDiv(num * parts, threads)) * largest;
  }
};

Cut ByQueryHeads(int64_t num, int group, int threads) {
  const int64_t parts = std::min<int64_t>(group, CeilDiv(threads, num));
  return {false, parts, static_cast<double>(CeilDiv(group, parts)) / group};
}

// As many parts as give every thread as many.
Cut ByPositions(int64_t num, int threads, std::span<const int64_t> positions) {
  const int parts = threads / std::gcd(static_cast<int>(num), threads);
  Cut cut{true, parts, 0};
  for (const int64_t end : positions) {
    for (int p = 0; p < parts; ++p) {
      const int64_t size =
          std::min(end, PartBegin(0, end, p + 1, parts)) - PartBegin(0, end, p, parts);
      cut.largest = std::max(cut.largest, static_cast<double>(size) / static_cast<double>(end));
    }
  }
  return cut;
}

// Task i of all, uncut: those of a KV head are neighbours.
AttentionTask TaskOf(const AttentionShape& shape, int64_t i) {
  const auto runs = static_cast<int64_t>(shape.runs.size());
  return {shape.runs[static_cast<size_t>(i % runs)], static_cast<int>(i / runs), 0, shape.group};
}

// Floats for the results of its chunks.
int64_t ResultsOf(const AttentionShape& shape, int64_t i) {
  const size_t run = static_cast<size_t>(i) % shape.runs.size();
  return shape.runs[run].size() * shape.group * CeilDiv(shape.positions[run], kAttentionChunk) *
         ChunkResults::Floats(shape.head_dim);
}

// The better cut of tasks [begin, end), of which there are fewer than threads.
Cut ChooseCut(const AttentionShape& shape, int64_t begin, int64_t end, int threads) {
  const int64_t num = end - begin;
  if (num == 0) return {};
  const Cut by_heads = ByQueryHeads(num, shape.group, threads);
  const Cut by_positions = ByPositions(num, threads, shape.positions);
  int64_t results = 0;
  for (int64_t i = begin; i < end; ++i) results += ResultsOf(shape, i);
  const int64_t longest = *std::max_element(shape.positions.begin(), shape.positions.end());
  const double gain = by_heads.MostWork(num, threads) - by_positions.MostWork(num, threads);
  return results <= kMostResults && gain * static_cast<double>(longest) > kWorthIt ? by_positions
                                                                                   : by_heads;
}

// Appends part `part` of task i.
void AddPart(const AttentionShape& shape, int64_t i, const Cut& cut, int64_t part,
             AttentionPlan* plan) {
  AttentionTask task = TaskOf(shape, i);
  if (!cut.by_positions) {
    task.first = static_cast<int>(CeilDiv(shape.group * part, cut.parts));
    task.last = static_cast<int>(CeilDiv(shape.group * (part + 1), cut.parts));
    plan->tasks.push_back(task);
    return;
  }
  if (part == 0) {
    for (int row = 0; row < task.run.size(); ++row)
      plan->merges.push_back({plan->tasks.size(), row});
  }
  task.part = static_cast<int>(part);
  task.parts = static_cast<int>(cut.parts);
  task.results = plan->results;
  if (part + 1 == cut.parts) plan->results += ResultsOf(shape, i);
  plan->tasks.push_back(task);
}

}  // namespace

int64_t PartBegin(int64_t begin, int64_t end, int part, int parts) {
  if (part == 0) return 0;
  if (part == parts) return INT64_MAX;
  const int64_t wanted = begin + (end - begin) * part / parts;
  return (wanted + kAttentionChunk / 2) / kAttentionChunk * kAttentionChunk;
}

void PlanAttention(const AttentionShape& shape, int threads, AttentionPlan* plan) {
  plan->tasks.clear();
  plan->merges.clear();
  plan->results = 0;
  const int64_t num = static_cast<int64_t>(shape.runs.size()) * shape.num_kv_heads;
  const int64_t per_thread = num / threads, whole = per_thread * threads;
  const Cut cut = ChooseCut(shape, whole, num, threads);
  const int64_t total = whole + (num - whole) * cut.parts;
  int64_t next_part = 0;
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t begin = ThreadPool::ShareBegin(total, t, threads);
    const int64_t end = ThreadPool::ShareBegin(total, t + 1, threads);
    for (int64_t i = 0; i < end - begin; ++i) {
      if (i < per_thread) {
        plan->tasks.push_back(TaskOf(shape, per_thread * t + i));
      } else {
        AddPart(shape, whole + next_part / cut.parts, cut, next_part % cut.parts, plan);
        ++next_part;
      }
    }
  }
}

}  // namespace tutti::model
