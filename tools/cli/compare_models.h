// How far one model's predictions are from another's, over a text.
#pragma once

#include <functional>
#include <vector>

#include "shared/base/status.h"
#include "tools/cli/local_model.h"

namespace tutti::cli {

struct Comparison {
  int tokens = 0;  // of the text: every position is compared
  // Kullback-Leibler divergence of the other model's distribution from the reference's, in nats per
  // position.
  double kl_mean = 0, kl_p99 = 0, kl_max = 0;
  double logit_change_max = 0;  // of all logits
  double same_top = 0;          // share of positions whose likeliest token is the same
  // Over the tokens that have one before them in their window.
  double reference_perplexity = 0, perplexity = 0;
};

// Cuts the text into windows of min(`window`, context) tokens, runs both models over each, side by
// side (memory for two chunks of logits), and compares them position by position. A text of one
// window has the perplexity that ComputePerplexity says. `on_progress` gets tokens done.
// Errors: INVALID_ARGUMENT  fewer than 2 tokens, or the models' vocabularies differ in size
//         CANCELLED         on_progress returned false
// Determinism: near(1e-9): sums in f64, with the C library's exp and log.
absl::StatusOr<Comparison> CompareModels(LocalModel& reference, LocalModel& other,
                                         const std::vector<int32_t>& ids, int window,
                                         const std::function<bool(int done)>& on_progress);

}  // namespace tutti::cli
