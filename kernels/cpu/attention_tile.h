// What the caches of attention_float.h and attention_int8.h share with attention_kernel.h: a tile
// of query heads, and a chunk's way into their results. Included after a vector layer (see cpu.h).
//
// A cache is a template over H heads, and over how many rows they belong to:
//
//   kMostRows              rows of a tile, 2 or 4
//   kPagesAtOnce           pages of one call of Scores
//   Cache(a, heads)        what is done once for a tile
//   Scores<P>(..., soon)   score[h][16 p ...] = (q_h . k_t) * scale for P pages; h strides by
//   kChunk WeighAndMerge(...)     o_c from the weights of a chunk, and O = fma(o_c, take, O * keep)
#pragma once

#include "kernels/cpu/float_kernels.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kPage = 16;
constexpr int kChunk = static_cast<int>(kAttentionChunk);
constexpr int kChunkPages = kChunk / kPage;

// Vectors for each of H heads that are worked on at once where registers hold about eight.
constexpr int FewChains(int H) { return H == 1 ? 4 : H <= 3 ? 2 : 1; }

TUTTI_INLINE int ValueDim(const AttentionArgs& a) {
  return a.value_dim > 0 ? a.value_dim : a.head_dim;
}

// One query head of one row, and what it sees.
struct Head {
  const float* q;
  float* out;
  float* chunks;  // its first in args.chunks; null: the attention is not in parts
  int64_t begin, end;
};

// What one chunk adds to the running result of a head.
struct Merge {
  int from, to;      // visible positions of the chunk
  float keep, take;  // O = fma(o_c, take, O * keep)
};

// What is read after the scores of P pages: their values, and the keys of the P pages that follow.
// A page holds 2 KB of each, where the hardware sees a new stream every time.
template <int P>
struct Soon {
  const std::byte* keys[P];
  const std::byte* values[P];

  // The line at `offset` of each.
  TUTTI_INLINE void Prefetch(int64_t offset) const {
    for (int p = 0; p < P; ++p) {
      __builtin_prefetch(keys[p] + offset, 0, 2);
      __builtin_prefetch(values[p] + offset, 0, 2);
    }
  }
};

}  // namespace
}  // namespace tutti::kernels::cpu
