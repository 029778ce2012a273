#include "shared/model/local_experts.h"

#include <algorithm>

namespace tutti::model {

void LocalExperts::Gather(const moe::ExpertBatch& batch, float* out) {
  const size_t num_experts = layers_[static_cast<size_t>(batch.moe_layer)]->size();
  const auto pairs = static_cast<int64_t>(batch.expert_ids.size());
  const int64_t hidden = batch.hidden, blocks = hidden / 32;
  const bool quantized = batch.quantized.num_rows > 0;
  begins_.assign(num_experts + 1, 0);
  for (int32_t e : batch.expert_ids) ++begins_[static_cast<size_t>(e) + 1];
  for (size_t e = 0; e < num_experts; ++e) begins_[e + 1] += begins_[e];
  out_.resize(static_cast<size_t>(pairs));
  if (batch.f32 != nullptr) f32_.Reserve(pairs * hidden);
  if (quantized) {
    q_.Reserve(pairs * hidden);
    scales_.Reserve(pairs * blocks);
  }
  std::vector<int32_t> next(begins_.begin(), begins_.end() - 1);
  for (int64_t r = 0; r < batch.num_rows; ++r) {
    for (int32_t p = batch.row_offsets[static_cast<size_t>(r)];
         p < batch.row_offsets[static_cast<size_t>(r) + 1]; ++p) {
      const int64_t to = next[static_cast<size_t>(batch.expert_ids[static_cast<size_t>(p)])]++;
      out_[static_cast<size_t>(to)] = out + batch.OutRow(p) * hidden;
      if (batch.f32 != nullptr)
        std::copy_n(batch.f32 + r * hidden, hidden, f32_.data() + to * hidden);
      if (!quantized) continue;
      std::copy_n(batch.quantized.q + r * hidden, hidden, q_.data() + to * hidden);
      std::copy_n(batch.quantized.scales + r * blocks, blocks, scales_.data() + to * blocks);
    }
  }
}

void LocalExperts::Start(const moe::ExpertBatch& batch, int, float* out) {
  const std::vector<FfnWeights>& experts = *layers_[static_cast<size_t>(batch.moe_layer)];
  Gather(batch, out);
  const auto pairs = static_cast<int64_t>(batch.expert_ids.size());
  Activations all{.f32 = f32_.data(), .cols = batch.hidden};
  if (batch.quantized.num_rows > 0) all.q = {pairs, batch.hidden, q_.data(), scales_.data()};
  jobs_.clear();
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t begin = begins_[e], num = begins_[e + 1] - begin;
    if (num == 0) continue;
    jobs_.push_back({.weights = &experts[e],
                     .x = all.Rows(begin, num),
                     .num_rows = num,
                     .out = out_.data() + begin});
  }
  runner_.Run(*exec_, jobs_);
}

}  // namespace tutti::model
