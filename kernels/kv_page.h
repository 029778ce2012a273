// How one head's keys and values lie in a page of 16 positions, and how they get there.
//
// In F32 and F16, K is [head_dim][16 positions] and V [16 positions][head_dim]: lanes of a score
// are positions, lanes of the weighted sum are dimensions. In Q8_0 (int8 in blocks of 32 dimensions
// of one position, Q1 of docs/determinism.md) the same lanes hold what an integer product takes at
// once:
//
//   K  [head_dim / 4, rounded up][16 positions][4 dimensions] q + 128, then d [blocks][16
//   positions] V  [8 pairs of positions][head_dim][2 positions] q, then d [blocks][16 positions]
//
// K is stored with an offset of 128, because one operand of dpbusd has no sign; dimensions that
// fill the last four up are zero. The last block is shorter where head_dim is no multiple of 32.
// Thread safety: pure functions; slots may be stored from several threads. Determinism: exact.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shared/tensor/dtype.h"

namespace tutti::kernels {

inline constexpr int kPagePositions = 16;
inline constexpr int kKvBlock = 32;         // dimensions that share a scale in Q8_0
inline constexpr int kKvHeadDimMax = 1024;  // of Q8_0

constexpr int KvBlocks(int head_dim) { return (head_dim + kKvBlock - 1) / kKvBlock; }
// Where the scales begin, from the start of K or V. Q8_0 alone.
constexpr size_t KeyScales(int head_dim) {
  return static_cast<size_t>(head_dim + 3) / 4 * 4 * kPagePositions;
}
constexpr size_t ValueScales(int head_dim) {
  return static_cast<size_t>(head_dim) * kPagePositions;
}

// Bytes of one head's K, and of its V, in a page. The next K or V may follow at once.
constexpr size_t KeyBytes(DType dtype, int head_dim) {
  const size_t scales = sizeof(float) * kPagePositions * static_cast<size_t>(KvBlocks(head_dim));
  if (dtype == DType::kQ8_0) return KeyScales(head_dim) + scales;
  return (dtype == DType::kF32 ? 4u : 2u) * kPagePositions * static_cast<size_t>(head_dim);
}
constexpr size_t ValueBytes(DType dtype, int head_dim) {
  const size_t scales = sizeof(float) * kPagePositions * static_cast<size_t>(KvBlocks(head_dim));
  if (dtype == DType::kQ8_0) return ValueScales(head_dim) + scales;
  return KeyBytes(dtype, head_dim);
}

// Rounds the key (value) of one position to `dtype` (F32, F16 or Q8_0) and puts it in its slot of
// the page, in [0, 16); nothing that belongs to other slots is touched.
void StoreKey(DType dtype, const float* key, int head_dim, int slot, std::byte* page);
void StoreValue(DType dtype, const float* value, int head_dim, int slot, std::byte* page);

// V of a page in which the first `value_dim` dimensions of a key are its value (latent attention):
// what StoreValue would have made of them, to the bit. With Q8_0 value_dim is a multiple of 32, so
// that key and value share their scales. Slots that nobody stored may hold anything.
void KeysToValues(DType dtype, const std::byte* key_page, int head_dim, int value_dim,
                  std::byte* value_page);

}  // namespace tutti::kernels
