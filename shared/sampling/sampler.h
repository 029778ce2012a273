// Logits to token: the one place where a token is chosen.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "shared/sampling/filters.h"
#include "shared/sampling/history.h"
#include "shared/sampling/params.h"

namespace tutti::sampling {

// Which noise: of the sampling stream of the engine itself.
inline constexpr uint32_t kTokenStream = 0;

// Chooses the token that follows `history`.
//
//   logits   [vocab] raw, finite; not changed
//   eos_ids  the model's end tokens (masked while fewer than min_tokens are out)
//
// Processors (processors.h), then temperature and filters (filters.h), then the largest of
// x + gumbel over the survivors, ties to the lower id; temperature 0 takes the largest score.
// The noise is keyed by (seed, sample_index, position, token id), position being the index of the
// chosen token in the whole sequence: prompt and output so far. So the same position draws the same
// noise after a preemption, a resume, or on another machine.
//
// REQUIRES: params.Validate passed for this vocabulary.
// Determinism: exact.
int32_t SampleToken(const SamplingParams& params, const TokenHistory& history,
                    std::span<const int32_t> eos_ids, std::span<const float> logits,
                    Scratch* scratch);

// The distribution that SampleToken draws from, [vocab], summing to 1 (temperature 0: one-hot).
// Determinism: exact. For tests and for showing; the engine does not need it.
std::vector<double> Probabilities(const SamplingParams& params, const TokenHistory& history,
                                  std::span<const int32_t> eos_ids, std::span<const float> logits);

// The Gumbel noise of some ids alone: noise[i] belongs to ids[i]. The same bits as
// KernelTable::gumbel gives for those ids.
void GumbelFor(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index,
               std::span<const int32_t> ids, std::vector<float>* noise);

// What is reported about a token.
struct TokenLogprobs {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // best first, ties to the lower id
};
// Log-softmax of the raw logits at `token`, and the `num_top` best alternatives.
// Determinism: exact.
TokenLogprobs ComputeLogprobs(std::span<const float> logits, int32_t token, int num_top);

}  // namespace tutti::sampling
