#include "tools/cli/perplexity.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/kernels.h"

namespace tutti::cli {

absl::StatusOr<Perplexity> ComputePerplexity(LocalModel& model, const std::vector<int32_t>& ids,
                                             int window, int stride,
                                             const std::function<bool(int scored)>& on_progress) {
  const int total = static_cast<int>(ids.size()), context = model.decoder->info().context_tokens;
  if (total < 2)
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", total, " tokens; at least 2 are needed"));
  if (window < 2 || window > context) {
    return absl::InvalidArgumentError(
        absl::StrCat("--window: ", window, "; 2 to ", context, " (the model's context)"));
  }
  if (stride < 1 || stride > window)
    return absl::InvalidArgumentError(
        absl::StrCat("--stride: ", stride, "; 1 to the window, ", window));
  const auto vocab = static_cast<size_t>(model.decoder->info().vocab_size);
  Perplexity out;
  out.tokens = total;
  double sum = 0;
  int scored_before = 0;  // tokens [0, scored_before) are done
  for (int begin = 0; scored_before < total; begin += stride) {
    PerplexityWindow w{.begin = begin, .end = std::min(begin + window, total)};
    const std::vector<int32_t> part(ids.begin() + w.begin, ids.begin() + w.end);
    const int n = w.end - w.begin, fresh = w.end - scored_before;
    // Row i predicts token i + 1; token 0 of a window has no row.
    const int first_row = std::max(n - fresh, 1) - 1;
    double nll = 0;
    bool stopped = false;
    TUTTI_RETURN_IF_ERROR(
        ForEachLogits(model, part, first_row, [&](int first, int rows, const float* logits) {
          for (int r = 0; r < rows && first + r + 1 < n; ++r) {
            const float* row = logits + static_cast<size_t>(r) * vocab;
            const float lse = kernels::Kernels().log_sum_exp(row, static_cast<int64_t>(vocab));
            nll += static_cast<double>(lse) -
                   static_cast<double>(row[part[static_cast<size_t>(first + r + 1)]]);
            ++w.scored;
          }
          stopped = on_progress && !on_progress(scored_before + w.scored);
          return stopped ? absl::CancelledError("interrupted") : absl::OkStatus();
        }));
    w.mean_nll = nll / w.scored;
    sum += w.mean_nll * (fresh - 1);
    out.nll_tokens += fresh - 1;
    scored_before = w.end;
    out.windows.push_back(w);
  }
  if (out.nll_tokens == 0)
    return absl::InvalidArgumentError(
        "--stride: 1 leaves nothing to weigh with this text; 2 or more");
  out.mean_nll = sum / out.nll_tokens;
  out.perplexity = std::exp(out.mean_nll);
  return out;
}

}  // namespace tutti::cli
