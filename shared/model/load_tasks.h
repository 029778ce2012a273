// Independent pieces of work on a model's weights, in parallel, with progress.
#pragma once

#include <functional>
#include <vector>

#include "shared/model/load.h"

namespace tutti::model {

struct LoadTask {
  size_t bytes;  // what it counts in the progress, and about what it costs
  std::function<absl::Status()> run;
};

// Runs all tasks on options.pool, the largest first, so that no thread is left alone with the
// embedding at the end. Stops at an error and returns one of them.
absl::Status RunLoadTasks(std::vector<LoadTask> tasks, const LoadOptions& options);

}  // namespace tutti::model
