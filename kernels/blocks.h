// The quantised block formats of GGUF, decoded to one common form and back. Loading and lookup
// code; the fast matmul kernels read the packed layout (packed_layout.h) themselves. Determinism:
// exact.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shared/tensor/dtype.h"

namespace tutti::kernels {

// One file block with its bit fields apart and its elements in order. What a format does not have
// is 0.
struct RawBlock {
  uint16_t d = 0;  // f16 bits of the scale
  uint16_t m = 0;  // f16 bits of the minimum (Q4_1, Q5_1: added; Q4_K, Q5_K: subtracted)
  uint8_t u[256];  // the stored integers: unsigned, except Q8_0 (two's complement)
  uint8_t sc[16];  // sub-block scales: Q4_K, Q5_K 8 of 32 elements; Q6_K 16 of 16, signed
  uint8_t mn[8];   // sub-block minima: Q4_K, Q5_K
};
void DecodeFileBlock(DType dtype, const std::byte* src, RawBlock* out);
// The inverse, for tools that make files: writes Traits(dtype).block_bytes bytes. What a format has
// no bits for (the high bits of a nibble, of a 6-bit scale) is left out.
void EncodeFileBlock(DType dtype, const RawBlock& block, std::byte* out);

// 32 consecutive weights as the matmul rules (Q2, Q3) see them:
//   isum = scale[0] * sum(w[0..15] q) + scale[1] * sum(w[16..31] q),   weight scale `dw`,
//   and, when has_min, the minimum's term mw * (dx * sum(q)).
// Sub-block scales of Q4_K and Q5_K are in dw and mw (16-bit float times 6 bits: exact), those of
// Q6_K in `scale`.
struct Block32 {
  float dw = 0, mw = 0;
  int32_t scale[2] = {1, 1};
  bool has_min = false;
  int8_t w[32];
};
// Part `part` (32 elements) of a raw block: 0 for the formats of 32, 0 to 7 for those of 256.
void NormalizeBlock(DType dtype, const RawBlock& raw, int part, Block32* out);

// The value that the format gives each of the 32 weights. Every product is exact in f32, so the one
// rounding is that of the minimum's addition.
void Dequantize(const Block32& block, float* out);

}  // namespace tutti::kernels
