#include "shared/model/load_tasks.h"

#include <algorithm>
#include <atomic>
#include <mutex>

namespace tutti::model {

absl::Status RunLoadTasks(std::vector<LoadTask> tasks, const LoadOptions& options) {
  // Large ones first, so that the threads end together.
  std::sort(tasks.begin(), tasks.end(),
            [](const LoadTask& a, const LoadTask& b) { return a.bytes > b.bytes; });
  size_t total = 0, done = 0;
  for (const LoadTask& task : tasks) total += task.bytes;
  std::mutex mutex;
  absl::Status first_error;
  std::atomic<bool> failed = false;
  const auto body = [&](int64_t i, int thread) {
    if (failed.load(std::memory_order_relaxed)) return;
    const absl::Status status = tasks[i].run();
    const std::lock_guard lock(mutex);
    done += tasks[i].bytes;
    if (!status.ok()) {
      failed = true;
      first_error = status;
    } else if (thread == 0 && options.on_progress) {
      options.on_progress(done, total);
    }
  };
  const auto num_tasks = static_cast<int64_t>(tasks.size());
  if (options.pool != nullptr) {
    options.pool->ParallelFor(num_tasks, body);
  } else {
    for (int64_t i = 0; i < num_tasks; ++i) body(i, 0);
  }
  TUTTI_RETURN_IF_ERROR(first_error);
  if (options.on_progress) options.on_progress(total, total);
  return absl::OkStatus();
}

}  // namespace tutti::model
