#include "shared/sampling/processors.h"

#include <algorithm>
#include <limits>

namespace tutti::sampling {

namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Masks every token that would complete an n-gram that is already there.
void BanRepeatedNgrams(std::span<const int32_t> tokens, size_t n, std::span<float> scores) {
  if (tokens.size() + 1 < n) return;
  const std::span<const int32_t> tail = tokens.last(n - 1);
  for (size_t i = 0; i + n <= tokens.size(); ++i) {
    if (std::equal(tail.begin(), tail.end(), tokens.begin() + static_cast<ptrdiff_t>(i))) {
      scores[static_cast<size_t>(tokens[i + n - 1])] = kMasked;
    }
  }
}

}  // namespace

bool NeedsProcessing(const SamplingParams& params, const TokenHistory& history) {
  return static_cast<int64_t>(history.num_output()) < params.min_tokens ||
         !params.logit_bias.empty() || params.no_repeat_ngram_size > 0 ||
         !history.output_counts().empty();
}

void ProcessScores(const SamplingParams& params, const TokenHistory& history,
                   std::span<const int32_t> eos_ids, std::span<float> scores) {
  if (static_cast<int64_t>(history.num_output()) < params.min_tokens) {
    if (!params.ignore_eos) {
      for (int32_t id : eos_ids) scores[static_cast<size_t>(id)] = kMasked;
    }
    for (int32_t id : params.stop_ids) scores[static_cast<size_t>(id)] = kMasked;
  }
  for (const auto& [id, bias] : params.logit_bias) scores[static_cast<size_t>(id)] += bias;
  if (params.no_repeat_ngram_size > 0) {
    BanRepeatedNgrams(history.tokens(), static_cast<size_t>(params.no_repeat_ngram_size), scores);
  }
  for (const auto& [id, count] :
       history.output_counts()) {  // each id once, so the order does not matter
    float& score = scores[static_cast<size_t>(id)];
    if (params.repetition_penalty != 1.0f) {
      score = score > 0 ? score / params.repetition_penalty : score * params.repetition_penalty;
    }
    if (count > 0) {
      score -= params.presence_penalty;
      score -= params.frequency_penalty * static_cast<float>(count);
    }
  }
}

}  // namespace tutti::sampling
