#include "shared/sampling/history.h"

#include <algorithm>

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

void TokenHistory::Truncate(size_t num_output) {
  const auto prompt = std::span(tokens_).first(num_prompt_);
  for (const size_t size = num_prompt_ + num_output; tokens_.size() > size; tokens_.pop_back()) {
    if (!counting_) continue;
    const auto it = output_counts_.find(tokens_.back());
    const bool in_prompt = std::find(prompt.begin(), prompt.end(), it->first) != prompt.end();
    if (--it->second == 0 && !in_prompt) output_counts_.erase(it);
  }
}

}  // namespace tutti::sampling
