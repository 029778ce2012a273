// Encodes f32 weights in GGUF's element types, with the scales that lose the least.
//
// A block format stores integer codes q and a few scales; its value is a scale times q, for some
// formats with a minimum added. What an encoder may choose are the scales. It wants the smallest
// squared error, the sum of (x - value)^2 over the block, and gets near it in two moves:
//
//   candidates  For a given scale the best codes are the nearest ones, and for given codes the best
//               scale (and minimum) is that of least squares, in closed form. So a fixed
//               list of first scales (the block's range, shrunk and stretched, with both signs
//               where the codes reach further down than up) is rounded to codes, each set of codes
//               gives a scale, that is rounded to f16 as it will be stored, and its true error is
//               measured. The smallest wins; ties go to the earlier candidate.
//   polish      Codes and scale are improved in turn from the winner, as long as the error falls.
//
// The list holds the plain choice (the block's extremes at the ends of the code range), so that no
// block is worse than plain rounding. Q4_K, Q5_K and Q6_K have two levels: 8 or 16 sub-blocks whose
// own scales (and minima) are small integers times one f16 for all. Their sub-blocks are fitted
// freely first; then a few f16 are tried, for each every sub-block takes the best of the integers
// next to its own fit, and the f16 are solved again by least squares over the whole block.
//
// Thread safety: pure functions. Determinism: exact. The order of every sum is fixed by the index.
// Cost: 0.02 to 0.3 us per weight and core; within 3 % of the least error that a dense scan finds
// (decision 0090 has figures).
#pragma once

#include <cstddef>
#include <span>

#include "shared/tensor/dtype.h"

namespace tutti::quantize {

// Values past this in size cannot be stored: the scales are f16.
inline constexpr float kValueMax = 65504.0f;

// Writes `values` as `dtype` to `out`.
// REQUIRES: values.size() is a multiple of the type's block, `out` has StorageBytes(dtype, size)
// bytes; values are finite and, for all types but F32 and BF16, at most kValueMax in size.
void EncodeBlocks(DType dtype, std::span<const float> values, std::byte* out);

}  // namespace tutti::quantize
