// How many tokens of each draft are worth their rows.
#pragma once

#include <span>
#include <vector>

#include "shared/speculation/step_cost.h"

namespace tutti::speculation {

// gains[i]: the chance that token i of a draft is reached and right; falling.
struct Offer {
  std::span<const float> gains;
};

// Tokens of each offer to verify in a step that has `base_rows` rows anyway: those for which
// (expected tokens of the step) / (its cost) is largest. A row goes to whichever draft gains most
// by it; more than `max_rows` are never given. All zeros when no choice beats a plain step by
// `least_profit`.
// Cost: n log n over the offered tokens.
std::vector<int> PlanDrafts(std::span<const Offer> offers, int base_rows, int max_rows,
                            const StepCost& cost, double least_profit = 0.03);

}  // namespace tutti::speculation
