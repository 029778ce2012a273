// The processors that change single logits before a token is chosen: masks, biases, penalties.
#pragma once

#include <cstdint>
#include <span>

#include "shared/sampling/history.h"
#include "shared/sampling/params.h"

namespace tutti::sampling {

// True when ProcessScores would change something for the next token of `history`, so that a caller
// without processors need not copy the logits.
bool NeedsProcessing(const SamplingParams& params, const TokenHistory& history);

// Changes `scores` [vocab] in place, in this order: end tokens masked while fewer than min_tokens
// are out (`eos_ids` unless ignore_eos, and stop_ids), logit_bias, no_repeat_ngram, repetition
// penalty (over prompt and output; a positive score is divided, a negative one multiplied),
// presence and frequency penalties (over output). As transformers' processors; beam search applies
// them to log-probabilities, as it does. Determinism: exact: each score depends on its own token
// alone. Cost: the number of distinct tokens, and one look at each token for n-grams.
void ProcessScores(const SamplingParams& params, const TokenHistory& history,
                   std::span<const int32_t> eos_ids, std::span<float> scores);

}  // namespace tutti::sampling
