// Runs experts over rows: in the model itself, or in a shard that serves many models' rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/model/model_weights.h"
#include "shared/model/workspace.h"

namespace tutti::model {

// One expert and the rows that want it.
struct ExpertJob {
  const FfnWeights* weights = nullptr;  // gated, without bias
  // [num_rows, hidden], quantised when gate or up have quantised weights.
  Activations x;
  int64_t num_rows = 0;         // >= 1
  float* const* out = nullptr;  // [num_rows] where each row's output [hidden] goes
};

// down(f(gate x) * up x) for several experts at once: their tasks share the threads.
//
// Thread safety: one Run at a time. Determinism: exact: a row's output depends on that row and the
// expert alone, not on the other rows or jobs.
class ExpertRunner {
 public:
  explicit ExpertRunner(kernels::Activation activation) : activation_(activation) {}
  void Run(const Exec& exec, std::span<const ExpertJob> jobs);

 private:
  struct Task {
    int32_t job;
    int64_t row0, num_rows;
    int64_t group_begin, group_end;  // of outputs
  };
  // Tasks of one stage: rows by outputs of up (stage 1) or down (stage 2).
  void Plan(const Exec& exec, std::span<const ExpertJob> jobs, bool down);
  void Hidden(const Exec& exec, const ExpertJob& job, int64_t base, const Task& task,
              ThreadScratch* scratch);
  void Down(const Exec& exec, const ExpertJob& job, int64_t base, const Task& task,
            ThreadScratch* scratch);

  const kernels::Activation activation_;
  std::vector<Task> tasks_;
  std::vector<int64_t> bases_;  // where each job's rows begin in the buffers below, in elements
  Buffer<float> hidden_;        // of each job [num_rows, its size]
  QuantizedBuffer hidden_quantized_;
  std::vector<ThreadScratch> scratch_;  // one per thread
};

}  // namespace tutti::model
