// The experts of a model in its own process, at no hop.
#pragma once

#include <vector>

#include "shared/model/expert_runner.h"
#include "shared/moe/expert_backend.h"

namespace tutti::model {

class LocalExperts final : public moe::ExpertBackend {
 public:
  // `exec` and the weights are borrowed. `layers`: of each MoE layer, its experts.
  LocalExperts(const Exec* exec, kernels::Activation activation,
               std::vector<const std::vector<FfnWeights>*> layers)
      : exec_(exec), runner_(activation), layers_(std::move(layers)) {}

  void Start(const moe::ExpertBatch& batch, int lane, float* out) override;
  absl::Status Wait(int) override { return absl::OkStatus(); }
  bool is_elsewhere() const override { return false; }

 private:
  // The rows of `batch` that want an expert, gathered behind each other.
  void Gather(const moe::ExpertBatch& batch, float* out);

  const Exec* const exec_;
  ExpertRunner runner_;
  const std::vector<const std::vector<FfnWeights>*> layers_;
  std::vector<int32_t> begins_;  // [experts + 1] into the gathered rows
  std::vector<float*> out_;      // [pairs]
  Buffer<float> f32_;
  Buffer<int8_t> q_;
  Buffer<kernels::BlockScale> scales_;
  std::vector<ExpertJob> jobs_;
};

}  // namespace tutti::model
