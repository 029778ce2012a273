#include "tests/golden/held_experts.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tutti::golden {

HeldExperts::HeldExperts(const std::string& path, int ffn_slices)
    : exec_(&kernels::Kernels(), nullptr) {
  const auto files = model::OpenExperts(path, ffn_slices);
  EXPECT_TRUE(files.ok()) << files.status();
  if (!files.ok()) return;
  const model::ExpertDescription& d = files->experts;
  std::vector<const std::vector<model::FfnWeights>*> layers;
  weights_.resize(d.layers.size());
  for (size_t l = 0; l < d.layers.size(); ++l) {
    for (int e = 0; e < d.experts_per_layer; ++e) {
      auto loaded = model::LoadExpert(*files->files, files->model, d.layers[l], e);
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      if (loaded.ok()) weights_[l].push_back(*std::move(loaded));
    }
    layers.push_back(&weights_[l]);
  }
  experts_ = std::make_unique<model::LocalExperts>(&exec_, d.activation, std::move(layers));
}

void HeldExperts::Start(const moe::ExpertBatch& batch, int lane, float* out) {
  auto& held = lanes_[static_cast<size_t>(lane)];
  EXPECT_FALSE(held.has_value()) << "two batches in one lane";
  overlapped += lanes_[static_cast<size_t>(1 - lane)].has_value() ? 1 : 0;
  held = Held{batch, out, work ? work() : 0};
}

absl::Status HeldExperts::Wait(int lane) {
  auto& held = lanes_[static_cast<size_t>(lane)];
  EXPECT_TRUE(held.has_value()) << "nothing was started";
  const moe::ExpertBatch& batch = held->batch;
  float* const out = held->out;
  if (work && work() == held->work_before) ++idle_waits;
  const auto num_pairs = static_cast<int64_t>(batch.expert_ids.size());
  pairs += num_pairs;
  experts_->Start(batch, 0, out);
  for (int64_t p = 0; skip && batch.moe_layer == skip->moe_layer && p < num_pairs; ++p) {
    if (seen_++ != skip->pair) continue;
    std::fill_n(out + batch.OutRow(p) * batch.hidden, batch.hidden, 0.0f);
    ++skipped;
  }
  held.reset();
  if (waits++ == failing_wait) return absl::UnavailableError("no shard, says the test");
  return absl::OkStatus();
}

}  // namespace tutti::golden
