// Runs the dispatches that wait, all at once: rows that want one expert become one matmul,
// whichever stream they came on.
#pragma once

#include <map>
#include <mutex>
#include <span>

#include "services/expert/expert_store.h"
#include "services/expert/options.h"
#include "shared/model/expert_runner.h"
#include "shared/wire/expert.h"

namespace tutti::expert {

// Thread-safe: one batch runs at a time. Determinism: exact: rows depend on their dispatch alone.
class BatchRunner {
 public:
  // `fault`: see ExpertOptions::row_fault.
  BatchRunner(ExpertStore* store, ThreadPool* pool, RowFault fault = {});

  struct Job {
    wire::DispatchView dispatch;  // CheckDispatch was OK
    float* out = nullptr;         // [pairs, hidden], in the order of expert_ids
    int64_t queue_us = 0;         // it waited so long (counted)
    float share = 1;              // DispatchRows::share, where the cores are shared as well
    absl::Status status;          // set by Run; a job that cannot run harms no other
  };
  void Run(std::span<Job> jobs);

  const wire::ExpertShape& shape() const { return shape_; }
  ExpertStore& store() { return *store_; }

 private:
  struct Work {  // an expert's rows
    std::shared_ptr<const model::FfnWeights> weights;
    std::vector<std::pair<const Job*, int64_t>> rows;  // and the job's row
    std::vector<float*> out;
    int64_t queue_us = 0;  // of its dispatches
  };
  absl::Status Add(const Job& job);
  int ThreadsFor(std::span<const Job> jobs) const;
  void CountWork(int64_t pairs, int64_t run_us);
  void Gather(const wire::DispatchView& dispatch, int64_t row, int64_t to);

  ExpertStore* const store_;
  const model::Exec exec_;
  wire::ExpertShape shape_;
  std::mutex mutex_;        // guards what follows
  bool quantizes_ = false;  // some first matmul reads quantised rows
  model::ExpertRunner runner_;
  const RowFault fault_;
  std::map<std::pair<int, int>, Work> work_;
  model::Buffer<float> f32_;
  model::Buffer<int8_t> q_;
  model::Buffer<kernels::BlockScale> scales_;
  std::vector<model::ExpertJob> jobs_;
};

}  // namespace tutti::expert
