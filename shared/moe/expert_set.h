// Some of a model's experts, as flags name them.
#pragma once

#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::moe {

// Layers [layer_begin, layer_end) by experts [expert_begin, expert_end). Layers are counted over
// those with experts alone. An end of kOpenEnd is the model's own.
struct ExpertRange {
  static constexpr int kOpenEnd = 1 << 20;
  int layer_begin = 0, layer_end = kOpenEnd;
  int expert_begin = 0, expert_end = kOpenEnd;
};

// "all"; "2": the first two of every layer; or LAYERS/EXPERTS, each a number or a range, separated
// by commas: "3/0,0-29/1-4". Errors: INVALID_ARGUMENT
absl::StatusOr<std::vector<ExpertRange>> ParseExpertRanges(std::string_view text);

class ExpertSet {
 public:
  ExpertSet() = default;  // none
  // As ParseExpertRanges; "" is none. Errors: INVALID_ARGUMENT; the model has fewer layers or
  // experts
  static absl::StatusOr<ExpertSet> Parse(std::string_view text, int num_layers,
                                         int experts_per_layer);

  bool Contains(int moe_layer, int expert) const {
    return !has_.empty() && has_[static_cast<size_t>(moe_layer * experts_per_layer_ + expert)];
  }
  bool empty() const { return has_.empty(); }

 private:
  int experts_per_layer_ = 0;
  std::vector<bool> has_;  // [layers * experts], or empty
};

}  // namespace tutti::moe
