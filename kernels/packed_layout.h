// Where things are inside a group of 16 rows of a PackedMatrix.
//
// A group is a run of packed blocks, k ascending. F32, F16, BF16: one block per k, 16 values. The
// quantised types (sizes in bytes; "16 x f16" = one per row):
//
//   Q8_0  per 32 k:   d 16 x f16 | 8 chunks of 64
//   Q4_0  per 32 k:   d 16 x f16 | 4 nibble chunks of 64
//   Q4_1  per 32 k:   d 16 x f16 | m 16 x f16 | 4 nibble chunks
//   Q5_0  per 32 k:   d 16 x f16 | 4 nibble chunks | fifth bits 64
//   Q5_1  per 32 k:   d 16 x f16 | m 16 x f16 | 4 nibble chunks | fifth bits 64
//   Q4_K  per 256 k:  d 16 x f16 | m 16 x f16 | 8 x (scales 16 | minima 16 | 4 nibble chunks)
//   Q5_K  per 256 k:  as Q4_K, with fifth bits 64 after the nibble chunks
//   Q6_K  per 256 k:  d 16 x f16 | 8 x (scales 2 x 16 | 4 nibble chunks | 2 chunks of bit pairs)
//
// chunk        byte 4 r + i is the weight of row r at k = 4 c + i (c = chunk number in the 32)
// nibble chunk c: the low nibbles are chunk 2 c, the high ones chunk 2 c + 1
// fifth bits   bit c of byte 4 r + i is the fifth bit of row r at k = 4 c + i
// bit pairs    chunk h (0, 1): bits 2 j, 2 j + 1 of byte 4 r + i belong to k = 4 (4 h + j) + i
//
// So a multiply-add over 4 bytes yields lane = row, on every instruction set; integers stay
// unsigned and their offset (8, 16, 32) is corrected through the sum of the activations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/blocks.h"
#include "shared/tensor/dtype.h"

namespace tutti::kernels {

struct PackedLayout {
  int block_k;        // k per packed block: 1, 32 or 256
  int block_bytes;    // bytes of a packed block of 16 rows
  int m_offset;       // of the minima's f16, or -1
  int parts_offset;   // of the first 32-k part
  int part_bytes;     // bytes of a part (block_k / 32 parts in a block)
  int scales_offset;  // in a part: sub-block scales, or -1
  int mins_offset;    // in a part: sub-block minima, or -1
  int quants_offset;  // in a part: chunks
  int high_offset;    // in a part: fifth bits or bit pairs, or -1
};

constexpr PackedLayout LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {1, 64, -1, 0, 0, -1, -1, 0, -1};
    case DType::kF16:
    case DType::kBF16:
      return {1, 32, -1, 0, 0, -1, -1, 0, -1};
    case DType::kQ8_0:
      return {32, 544, -1, 32, 512, -1, -1, 0, -1};
    case DType::kQ4_0:
      return {32, 288, -1, 32, 256, -1, -1, 0, -1};
    case DType::kQ4_1:
      return {32, 320, 32, 64, 256, -1, -1, 0, -1};
    case DType::kQ5_0:
      return {32, 352, -1, 32, 320, -1, -1, 0, 256};
    case DType::kQ5_1:
      return {32, 384, 32, 64, 320, -1, -1, 0, 256};
    case DType::kQ4_K:
      return {256, 64 + 8 * 288, 32, 64, 288, 0, 16, 32, -1};
    case DType::kQ5_K:
      return {256, 64 + 8 * 352, 32, 64, 352, 0, 16, 32, 288};
    case DType::kQ6_K:
      return {256, 32 + 8 * 416, -1, 32, 416, 0, -1, 32, 288};
  }
  return {};
}

// Writes `raw` as row `row` (0 to 15) of a packed block, and reads it back. Writing ORs into
// nibbles and bits, so the block must have been zero for that row.
void WritePackedBlock(DType dtype, const RawBlock& raw, int row, std::byte* block);
void ReadPackedBlock(DType dtype, const std::byte* block, int row, RawBlock* out);

}  // namespace tutti::kernels
