// Runs the dispatches that wait, all at once: rows that want one expert become one matmul,
// whichever stream they came on.
#pragma once

#include <map>
#include <span>

#include "services/expert/expert_store.h"
#include "shared/model/expert_runner.h"
#include "shared/wire/expert.h"

namespace tutti::expert {

// Thread safety: one Run at a time. Determinism: exact: a reply depends on its dispatch alone.
class BatchRunner {
 public:
  BatchRunner(ExpertStore* store, ThreadPool* pool);

  // replies[i] answers *requests[i], which waited queue_us[i] (counted); a wrong request gets its
  // own status and harms no other.
  void Run(std::span<const expert::v1::DispatchRequest* const> requests,
           std::span<expert::v1::CombineReply* const> replies, std::span<const int64_t> queue_us);

  const wire::ExpertShape& shape() const { return shape_; }
  ExpertStore& store() { return *store_; }

 private:
  struct Work {  // an expert's rows
    std::shared_ptr<const model::FfnWeights> weights;
    std::vector<std::pair<size_t, int64_t>> rows;  // request, its row
    std::vector<float*> out;
    int64_t queue_us = 0;  // of its dispatches
  };
  absl::Status Add(size_t index, const expert::v1::DispatchRequest& request, int64_t queue_us,
                   expert::v1::CombineReply* reply);
  void CountWork(int64_t pairs, int64_t run_us);
  void Gather(const expert::v1::DispatchRequest& request, int64_t row, int64_t to);

  ExpertStore* const store_;
  const model::Exec exec_;
  wire::ExpertShape shape_;
  bool quantizes_ = false;  // some first matmul reads quantised rows
  model::ExpertRunner runner_;
  std::map<std::pair<int, int>, Work> work_;
  model::Buffer<float> f32_, d_;
  model::Buffer<int8_t> q_;
  model::Buffer<int32_t> s_;
  std::vector<model::ExpertJob> jobs_;
};

}  // namespace tutti::expert
