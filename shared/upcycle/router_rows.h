// A router out of what a layer's rows look like.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/base/status.h"

namespace tutti::upcycle {

struct RouterOptions {
  int num_experts = 0, top_k = 0;
  uint64_t seed = 0;
  uint32_t layer = 0;  // keeps the layers' draws apart
};

// Rows [num_experts, hidden] of a router whose logits say how alike a row of FFN input is to the
// center of each expert's cluster.
//
//   inputs  [n, hidden] what the layer's FFN reads
//
// All rows of a layer share a large part, and by it alike they are all alike. So the direction of
// the mean is taken out of the inputs before they are clustered, and the centers are orthogonal to
// it: a router has no bias, and with such centers it needs none. What is left is a direction for
// each kind of row. Clusters have any size, so the load is as uneven as the texts are.
//
// The logit is scale * |row| * cosine. The scale does not change which experts are chosen, only how
// sure the choice is: it makes the median gap between the best and the top_k-th logit ln 3, so that
// the last of the chosen has a third of the weight of the first.
//
// Errors: INVALID_ARGUMENT  the inputs have fewer directions than experts
// Determinism: exact
absl::StatusOr<std::vector<float>> MakeRouterRows(std::span<const float> inputs, int64_t hidden,
                                                  const RouterOptions& options);

}  // namespace tutti::upcycle
