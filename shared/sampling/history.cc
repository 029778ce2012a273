#include "shared/sampling/history.h"

namespace tutti::sampling {

TokenHistory::TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt)
    : tokens_(prompt.begin(), prompt.end()),
      num_prompt_(prompt.size()),
      counting_(params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
                params.frequency_penalty != 0.0f) {
  if (!counting_) return;
  for (int32_t token : prompt) output_counts_.try_emplace(token, 0);
}

void TokenHistory::Append(int32_t token) {
  tokens_.push_back(token);
  if (counting_) ++output_counts_[token];
}

}  // namespace tutti::sampling
