// Some experts of a model in its own process, at no hop, and the others behind another backend.
#pragma once

#include <array>
#include <vector>

#include "shared/model/local_experts.h"

namespace tutti::model {

// The others' rows leave first, and while they are under way those of this process are computed.
class SplitExperts final : public moe::ExpertBackend {
 public:
  // All is borrowed. `layers`: of each MoE layer, its experts; one without weights runs with
  // `others`, and so do all of a layer whose list is empty.
  SplitExperts(const Exec* exec, kernels::Activation activation,
               std::vector<const std::vector<FfnWeights>*> layers, moe::ExpertBackend* others)
      : layers_(layers), local_(exec, activation, std::move(layers)), others_(others) {}

  void Start(const moe::ExpertBatch& batch, int lane, float* out) override;
  absl::Status Wait(int lane) override;
  bool is_elsewhere() const override { return others_->is_elsewhere(); }
  int64_t MinRowsToOverlap() const override { return others_->MinRowsToOverlap(); }
  Provenance TakeProvenance() override { return others_->TakeProvenance(); }

 private:
  // The pairs of a batch that one of the two backends gets.
  struct Part {
    std::vector<int32_t> row_offsets, expert_ids, out_rows;
    void Clear();
    bool empty() const { return expert_ids.empty(); }
    moe::ExpertBatch Of(const moe::ExpertBatch& batch) const;
  };
  bool IsLocal(int moe_layer, int32_t expert) const;

  const std::vector<const std::vector<FfnWeights>*> layers_;
  LocalExperts local_;
  moe::ExpertBackend* const others_;
  Part mine_;
  std::array<Part, kMaxLanes> theirs_;
};

}  // namespace tutti::model
