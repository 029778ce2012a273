// Perplexity of a text by sliding windows, as Hugging Face's guide computes it ("Perplexity of
// fixed-length models"): each window scores the tokens that no earlier one scored, with the rest of
// the window as their context. The guide weighs a window's mean by one token less than it scores;
// so does this, to be comparable.
#pragma once

#include <functional>
#include <vector>

#include "shared/base/status.h"
#include "tools/cli/local_model.h"

namespace tutti::cli {

struct PerplexityWindow {
  int begin = 0, end = 0;  // tokens [begin, end)
  int scored = 0;          // of them, at the end
  double mean_nll = 0;
};
struct Perplexity {
  double perplexity = 0, mean_nll = 0;
  int tokens = 0;      // of the text
  int nll_tokens = 0;  // the weight of all windows
  std::vector<PerplexityWindow> windows;
};

// `on_progress` gets tokens scored so far. Errors: INVALID_ARGUMENT  fewer than 2 tokens, a window
// past the model's context, or a stride past the window; CANCELLED  on_progress returned false
absl::StatusOr<Perplexity> ComputePerplexity(LocalModel& model, const std::vector<int32_t>& ids,
                                             int window, int stride,
                                             const std::function<bool(int scored)>& on_progress);

}  // namespace tutti::cli
