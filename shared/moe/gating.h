// Decides which experts see which token, and with what weight.
// Thread safety: pure functions. Determinism: exact; ties go to the lower expert id.
#pragma once

#include <cstdint>
#include <span>

#include "shared/base/status.h"

namespace tutti::moe {

// All of these change the answer.
struct GatingOptions {
  enum class Score : uint8_t { kSoftmax, kSigmoid };

  int num_experts = 0;  // of a layer, over all shards; >= 1
  int top_k = 0;        // experts of a token; in [1, num_experts]
  Score score = Score::kSoftmax;
  bool renormalize = false;  // chosen weights sum to 1. Softmax and this: a softmax over the chosen
                             // (Mixtral, arXiv:2401.04088, section 2.1)
  float scale = 1.0f;        // multiplies the weights (DeepSeek: routed_scaling_factor)
  // DeepSeek: experts in `num_groups` runs of equal length, of which the best `top_groups` are left
  // (V2, arXiv:2405.04434, section 2.2: a group is worth its best expert; V3, arXiv:2412.19437,
  // section 2.1: the sum of its best two). 1: no groups.
  int num_groups = 1, top_groups = 1, group_best = 1;
  // GShard: see drops.h.
  bool random_second = false;  // of two experts the second one is asked by chance
  float capacity_factor = 0;   // limits the rows of an expert; 0: no limit
  bool drops() const { return random_second || capacity_factor > 0; }

  // Errors: INVALID_ARGUMENT names the field
  absl::Status Validate() const;
};

// Routes one row.
//
//   logits      [num_experts]; when one is not finite, all weights are NaN: the row's fault shows
//   later choice_bias [num_experts] added to the scores for the choice, not for the weights (V3);
//   or empty ids         [top_k] out: the chosen experts, ascending weights     [top_k] out: of
//   ids[i]
void Route(const GatingOptions& options, std::span<const float> logits,
           std::span<const float> choice_bias, std::span<int32_t> ids, std::span<float> weights);

// The auxiliary loss that training keeps small (Switch, arXiv:2101.03961, section 2.2, for top_k):
// E * sum over e of f_e * P_e, f_e assignments to e per token, P_e its mean softmax probability;
// top_k when the load is even. A statistic: no result depends on it. `rows` > 0 of logits [rows, E]
// and ids [rows, top_k].
double LoadBalancingLoss(const GatingOptions& options, int64_t rows, std::span<const float> logits,
                         std::span<const int32_t> ids);

}  // namespace tutti::moe
