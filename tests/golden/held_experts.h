// Experts behind a backend that a test steers: as if on shards, in this thread.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/model/local_experts.h"
#include "shared/model/model_weights.h"

namespace tutti::golden {

// Computes nothing before Wait, from what Start was given: so what the model does in between must
// leave it as it was.
class HeldExperts final : public moe::ExpertBackend {
 public:
  // Loads all experts of the model. A failure is a test failure.
  explicit HeldExperts(const std::string& path, int ffn_slices = 0);

  void Start(const moe::ExpertBatch& batch, int lane, float* out) override;
  absl::Status Wait(int lane) override;
  int64_t MinRowsToOverlap() const override { return overlap_rows; }

  int64_t overlap_rows = INT64_MAX;
  // A fault: this pair of row and expert, of all that the layer ever ran, is left out.
  struct Skip {
    int moe_layer = 0;
    int64_t pair = 0;
  };
  std::optional<Skip> skip;
  int64_t failing_wait = -1;  // this one of all is UNAVAILABLE, counted from 0

  // How much the model has done; may be empty.
  std::function<int64_t()> work;
  int64_t idle_waits = 0;  // before which the model did nothing since the batch's start

  int64_t waits = 0, pairs = 0, skipped = 0;
  int64_t overlapped = 0;  // batches that started while another was under way
  bool under_way() const { return lanes_[0].has_value() || lanes_[1].has_value(); }

 private:
  struct Held {
    moe::ExpertBatch batch;
    float* out;
    int64_t work_before;
  };
  const model::Exec exec_;
  std::vector<std::vector<model::FfnWeights>> weights_;
  std::unique_ptr<model::LocalExperts> experts_;
  std::array<std::optional<Held>, kMaxLanes> lanes_;
  int64_t seen_ = 0;  // pairs of the layer where one is skipped
};

}  // namespace tutti::golden
