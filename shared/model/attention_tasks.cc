#include "shared/model/attention_tasks.h"

#include <algorithm>

#include "shared/base/thread_pool.h"

namespace tutti::model {

void PlanAttention(std::span<const RowRun> runs, int num_kv_heads, int group, int threads,
                   std::vector<AttentionTask>* tasks) {
  tasks->clear();
  const auto num_runs = static_cast<int64_t>(runs.size());
  const int64_t num = num_runs * num_kv_heads, whole = num - num % threads, cut = num - whole;
  const int64_t parts = cut == 0 ? 1 : std::min<int64_t>(group, (threads + cut - 1) / cut);
  const auto add = [&](int64_t i, int64_t first, int64_t last) {
    tasks->push_back({runs[static_cast<size_t>(i % num_runs)], static_cast<int>(i / num_runs),
                      static_cast<int>(first), static_cast<int>(last)});
  };
  const int64_t total = whole + cut * parts;
  int64_t next_part = 0;
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t begin = ThreadPool::ShareBegin(total, t, threads);
    const int64_t end = ThreadPool::ShareBegin(total, t + 1, threads);
    for (int64_t i = begin; i < end; ++i) {
      if (i - begin < whole / threads) {
        add(whole / threads * t + i - begin, 0, group);
        continue;
      }
      const int64_t part = next_part % parts;
      add(whole + next_part++ / parts, (group * part + parts - 1) / parts,
          (group * (part + 1) + parts - 1) / parts);
    }
  }
}

}  // namespace tutti::model
