// What the formats of quantised weights have in common, and one block of 32 k of a packed group
// unpacked in registers. Included after a vector layer (vec_*.h); see cpu.h.
#pragma once

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/unroll.h"
#include "kernels/packed_layout.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kSegmentBlocks = 8;  // 256 k
// Weights are asked for twice: far ahead for the L2 cache, which can wait for more lines at once
// than the L1 cache can, and near for the L1 cache. The hardware alone follows a stream only within
// a page of 4 KB: without any of this a step takes 1.5 to 2 times as long.
constexpr int kFarBytes = 16 << 10, kNearBytes = 2 << 10;

constexpr int SmallerOf(int a, int b) { return a < b ? a : b; }

template <DType D>
struct Format {
  static constexpr PackedLayout kLayout = LayoutOf(D);
  static constexpr int kParts = kLayout.block_k / 32;
  static constexpr bool kBytes = D == DType::kQ8_0;
  static constexpr bool kSignedBytes = kBytes && !kBytesByOffset;
  static constexpr bool kSixBits = D == DType::kQ6_K;
  static constexpr bool kFiveBits = D == DType::kQ5_0 || D == DType::kQ5_1 || D == DType::kQ5_K;
  static constexpr bool kSubScales = kLayout.scales_offset >= 0;
  static constexpr bool kMin = kLayout.m_offset >= 0;
  // How much larger than the weight the unsigned byte is; corrected by the block sum.
  static constexpr int kOffset = D == DType::kQ4_0          ? 8
                                 : D == DType::kQ5_0        ? 16
                                 : kBytes && kBytesByOffset ? 128
                                                            : 0;
  // 4-k groups per chain; a chain never crosses a sub-block.
  static constexpr int kChain =
      kSixBits ? 4 : SmallerOf(8, MaxChain(kFiveBits ? 31 : 15) >= 8 ? 8 : 4);
};

// Weights of block b of a group in the packed layout.
template <DType D>
struct PackedSource {
  using F = Format<D>;
  const std::byte* block;  // packed block
  const uint8_t* part;     // its 32-k part

  TUTTI_INLINE PackedSource(const std::byte* group, int64_t b) {
    block = group + b / F::kParts * F::kLayout.block_bytes;
    part = reinterpret_cast<const uint8_t*>(block) + F::kLayout.parts_offset +
           b % F::kParts * F::kLayout.part_bytes;
  }
  // As in a pass over the whole group. Scales that fill a line are one more.
  TUTTI_INLINE void PrefetchAhead() const {
    constexpr int kScaleLine = F::kParts == 1 ? F::kLayout.parts_offset / 64 * 64 : 0;
    const char* ahead = reinterpret_cast<const char*>(part);
    for (int i = -kScaleLine; i < F::kLayout.part_bytes; i += 64) {
      __builtin_prefetch(ahead + kFarBytes + i, 0, 2);
      __builtin_prefetch(ahead + kNearBytes + i, 0, 3);
    }
  }
  // This part, if it is `distance` bytes on.
  TUTTI_INLINE void Prefetch(int distance) const {
    const char* ahead = reinterpret_cast<const char*>(part) + distance;
    for (int i = 0; i < F::kLayout.part_bytes; i += 64) __builtin_prefetch(ahead + i, 0, 3);
  }
  // Chunks 2 c and 2 c + 1.
  template <int c>
  TUTTI_INLINE void Pair(I* even, I* odd) const {
    const uint8_t* quants = part + F::kLayout.quants_offset;
    if constexpr (F::kBytes) {
      *even = LoadI(quants + 128 * c);
      *odd = LoadI(quants + 128 * c + 64);
      if constexpr (!F::kSignedBytes) {
        *even = Xor(*even, SetBytes(-128));
        *odd = Xor(*odd, SetBytes(-128));
      }
    } else {
      const I raw = LoadI(quants + 64 * c), low = SetBytes(15);
      *even = And(raw, low);
      *odd = And(Shr16<4>(raw), low);
      if constexpr (F::kFiveBits) {
        const I bits = LoadI(part + F::kLayout.high_offset), bit = SetBytes(16);
        *even = Or(*even, And(2 * c <= 4 ? Shl16<(2 * c <= 4 ? 4 - 2 * c : 0)>(bits)
                                         : Shr16<(2 * c > 4 ? 2 * c - 4 : 0)>(bits),
                              bit));
        *odd = Or(*odd, And(2 * c + 1 <= 4 ? Shl16<(2 * c + 1 <= 4 ? 3 - 2 * c : 0)>(bits)
                                           : Shr16<(2 * c + 1 > 4 ? 2 * c - 3 : 0)>(bits),
                            bit));
      }
      if constexpr (F::kSixBits) {
        const I pairs = LoadI(part + F::kLayout.high_offset + 64 * (c / 2)), two = SetBytes(48);
        if constexpr (c % 2 == 0) {
          *even = Or(*even, And(Shl16<4>(pairs), two));
          *odd = Or(*odd, And(Shl16<2>(pairs), two));
        } else {
          *even = Or(*even, And(pairs, two));
          *odd = Or(*odd, And(Shr16<2>(pairs), two));
        }
        *even = SubBytes(*even, SetBytes(32));
        *odd = SubBytes(*odd, SetBytes(32));
      }
    }
  }
  // The scale and the minimum of 32 k. With the factors of a sub-block they are exact.
  TUTTI_INLINE V Scale() const {
    const V d = LoadHalf(block);
    if constexpr (!F::kSubScales || F::kSixBits) return d;
    return Mul(d, ToFloat(WidenU8(part + F::kLayout.scales_offset)));
  }
  TUTTI_INLINE V Min() const {
    const V m = LoadHalf(block + F::kLayout.m_offset);
    if constexpr (!F::kSubScales) return m;
    const V negative = FromBits(Xor(Bits(m), SetI(static_cast<int32_t>(0x80000000u))));
    return Mul(negative, ToFloat(WidenU8(part + F::kLayout.mins_offset)));
  }
  // Sub-block scale of chunks 0 to 3 (half 0) or 4 to 7, of a format of six bits.
  template <int half>
  TUTTI_INLINE Factor SubScale() const {
    return MakeFactor(WidenS8(part + F::kLayout.scales_offset + 16 * half));
  }
};

// The rows of a group that the matrix has: `valid` of 16, fewer in the last group.
TUTTI_INLINE V LoadRows(const float* y, int valid) {
  return valid >= 16 ? Load(y) : LoadN(y, valid);
}
TUTTI_INLINE void StoreRows(float* y, V v, int valid) {
  if (valid >= 16) {
    Store(y, v);
  } else {
    StoreN(y, v, valid);
  }
}

}  // namespace
}  // namespace tutti::kernels::cpu
