// Temperature, top-k, top-p, min-p and typical-p: which tokens stay in the draw.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/sampling/params.h"

namespace tutti::sampling {

// The tokens that survived. `ids` ascends; empty `ids` means every token, and then x is the whole
// vocabulary.
struct Survivors {
  std::span<const int32_t> ids;
  std::span<const float> x;  // score / temperature
  float max = 0;             // the largest x
};

// Buffers that FilterScores and the sampler reuse; one per thread. Nothing in it outlives a call's
// Survivors.
struct Scratch {
  std::vector<float> scores, x, w, noise, small;
  std::vector<int32_t> ids, order;
};

// Applies temperature, top_k, top_p, min_p, typical_p in this order to processed scores [vocab].
//
//   top_k      keeps the k largest and whatever equals the k-th
//   top_p      the smallest set that reaches p, by (p descending, id ascending); the sums are
//   integers
//              in units of 2^-40, so they are exact in any order
//   min_p      p >= min_p * (largest p)
//   typical_p  as transformers' TypicalLogitsWarper, ties at the border stay
//
// Returns false when the scores leave no distribution (all masked, or x overflows under a tiny
// temperature): the caller then takes the largest score.
// REQUIRES: params.temperature > 0.
// Determinism: exact. Cost: a few passes over the vocabulary, no full sort (but for typical_p).
bool FilterScores(const SamplingParams& params, std::span<const float> scores, Scratch* scratch,
                  Survivors* out);

// Indices of the `k` largest of x, best first, ties to the lower index; fewer when x is shorter.
// NaN and -infinity are left out. Cost: one pass, and k log k.
std::vector<int32_t> TopIndices(std::span<const float> x, size_t k);

}  // namespace tutti::sampling
