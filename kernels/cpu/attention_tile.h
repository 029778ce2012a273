// What the caches of attention_float.h and attention_int8.h share with attention_kernel.h: a tile
// of query heads, and a chunk's way into their results. Included after a vector layer (see cpu.h).
//
// A cache is a template over H heads, and whether the second half of them belongs to the next row:
//
//   kPagesAtOnce           pages of one call of Scores
//   Cache(a, heads)        what is done once for a tile
//   Scores<P>(...)         score[h][16 p ...] = (q_h . k_t) * scale for P pages; h strides by
//   kChunk WeighAndMerge(...)     o_c from the weights of a chunk, and O = fma(o_c, take, O * keep)
#pragma once

#include "kernels/cpu/float_kernels.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kChunkPages = 16;  // 256 absolute positions
constexpr int kPage = 16;
constexpr int kChunk = kChunkPages * kPage;

// Vectors for each of H heads that are worked on at once where registers hold about eight.
constexpr int FewChains(int H) { return H == 1 ? 4 : H <= 3 ? 2 : 1; }

TUTTI_INLINE int ValueDim(const AttentionArgs& a) {
  return a.value_dim > 0 ? a.value_dim : a.head_dim;
}

// One query head of one row, and what it sees.
struct Head {
  const float* q;
  float* out;
  int64_t begin, end;
};

// What one chunk adds to the running result of a head.
struct Merge {
  int from, to;      // visible positions of the chunk
  float keep, take;  // O = fma(o_c, take, O * keep)
};

}  // namespace
}  // namespace tutti::kernels::cpu
