// The vector layer for AVX2 + FMA + F16C, with or without AVX-VNNI: 16 lanes are two registers.
// Included only by a file compiled for that instruction set (see cpu.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tutti::kernels::cpu {
namespace {

#define TUTTI_INLINE inline __attribute__((always_inline))

// Columns that share the unpacking of a weight.
constexpr int kFusedTile = 4;
// Room for some thirty V at once, or for about eight.
constexpr bool kManyRegisters = false;

struct V {
  __m256 a, b;
};  // 16 x f32
struct I {
  __m256i a, b;
};  // 16 x i32, or 64 bytes
struct M {
  __m256 a, b;
};  // 16 truth values

TUTTI_INLINE V Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
TUTTI_INLINE V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
TUTTI_INLINE V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TUTTI_INLINE void Store(float* p, V v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
// Lanes [0, n) of memory, 0 in the others; nothing past lane n is touched.
TUTTI_INLINE __m256i TailMask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TUTTI_INLINE V LoadN(const float* p, int n) {
  return {_mm256_maskload_ps(p, TailMask(n)), _mm256_maskload_ps(p + 8, TailMask(n - 8))};
}
TUTTI_INLINE void StoreN(float* p, V v, int n) {
  _mm256_maskstore_ps(p, TailMask(n), v.a);
  _mm256_maskstore_ps(p + 8, TailMask(n - 8), v.b);
}
TUTTI_INLINE V LoadHalf(const void* p) {
  const auto* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
TUTTI_INLINE V LoadBFloat(const void* p) {
  const auto* q = static_cast<const __m128i*>(p);
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}

TUTTI_INLINE V Add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
TUTTI_INLINE V Sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
TUTTI_INLINE V Mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
TUTTI_INLINE V Div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
TUTTI_INLINE V Fma(V x, V y, V z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// fma(-x, y, z)
TUTTI_INLINE V NegFma(V x, V y, V z) {
  return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
// x < y ? x : y, and x > y ? x : y: y when either is NaN.
TUTTI_INLINE V Min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
TUTTI_INLINE V Max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }

TUTTI_INLINE M Less(V x, V y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
TUTTI_INLINE M Equal(V x, V y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
// x < y or either is NaN.
TUTTI_INLINE M NotGreaterEqual(V x, V y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_NGE_UQ), _mm256_cmp_ps(x.b, y.b, _CMP_NGE_UQ)};
}
TUTTI_INLINE V Select(M m, V yes, V no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
TUTTI_INLINE uint32_t MaskBits(M m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.a)) |
         static_cast<uint32_t>(_mm256_movemask_ps(m.b)) << 8;
}
// Lanes [from, to).
TUTTI_INLINE M LaneRange(int from, int to) {
  const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                j = _mm256_add_epi32(i, _mm256_set1_epi32(8));
  const __m256i f = _mm256_set1_epi32(from - 1), t = _mm256_set1_epi32(to);
  return {
      _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(i, f), _mm256_cmpgt_epi32(t, i))),
      _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(j, f), _mm256_cmpgt_epi32(t, j)))};
}

TUTTI_INLINE I SetI(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
TUTTI_INLINE I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
TUTTI_INLINE I Iota() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
          _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
TUTTI_INLINE I Bits(V x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
TUTTI_INLINE V FromBits(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
TUTTI_INLINE I AddI(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
TUTTI_INLINE I SubI(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
TUTTI_INLINE I SubBytes(I x, I y) { return {_mm256_sub_epi8(x.a, y.a), _mm256_sub_epi8(x.b, y.b)}; }
TUTTI_INLINE I And(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
TUTTI_INLINE I Or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
TUTTI_INLINE I Xor(I x, I y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
TUTTI_INLINE I MaxI(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
template <int n>
TUTTI_INLINE I Shl(I x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
template <int n>
TUTTI_INLINE I Sar(I x) {
  return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
template <int n>
TUTTI_INLINE I Shr(I x) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
TUTTI_INLINE V ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

// Upper and lower half of the 64-bit products of unsigned lanes with a constant.
TUTTI_INLINE void MulWide(I x, uint32_t c, I* high, I* low) {
  const __m256i k = _mm256_set1_epi32(static_cast<int32_t>(c));
  const auto one = [&](__m256i v, __m256i* h, __m256i* l) {
    const __m256i even = _mm256_mul_epu32(v, k),
                  odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), k);
    *h = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    *l = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  };
  one(x.a, &high->a, &low->a);
  one(x.b, &high->b, &low->b);
}

// Sum of 16 lanes: 8, 4, 2, 1.
TUTTI_INLINE float Fold(V x) {
  const __m256 w8 = _mm256_add_ps(x.a, x.b);
  const __m128 w4 = _mm_add_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
  const __m128 w2 = _mm_add_ps(w4, _mm_movehl_ps(w4, w4));
  return _mm_cvtss_f32(_mm_add_ss(w2, _mm_shuffle_ps(w2, w2, 1)));
}
TUTTI_INLINE float FoldMax(V x) {
  const __m256 w8 = _mm256_max_ps(x.a, x.b);
  const __m128 w4 = _mm_max_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
  const __m128 w2 = _mm_max_ps(w4, _mm_movehl_ps(w4, w4));
  return _mm_cvtss_f32(_mm_max_ss(w2, _mm_shuffle_ps(w2, w2, 1)));
}
TUTTI_INLINE int32_t FoldMaxI(I x) {
  const __m256i w8 = _mm256_max_epi32(x.a, x.b);
  const __m128i w4 = _mm_max_epi32(_mm256_castsi256_si128(w8), _mm256_extracti128_si256(w8, 1));
  const __m128i w2 = _mm_max_epi32(w4, _mm_shuffle_epi32(w4, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(w2, _mm_shuffle_epi32(w2, 0xB1)));
}
TUTTI_INLINE int32_t FoldI(I x) {
  const __m256i w8 = _mm256_add_epi32(x.a, x.b);
  const __m128i w4 = _mm_add_epi32(_mm256_castsi256_si128(w8), _mm256_extracti128_si256(w8, 1));
  const __m128i w2 = _mm_add_epi32(w4, _mm_shuffle_epi32(w4, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(w2, _mm_shuffle_epi32(w2, 0xB1)));
}

// The low byte of every lane.
TUTTI_INLINE void StoreLowBytes(int8_t* p, I x) {
  const __m256i byte = _mm256_set1_epi32(0xFF);
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(x.a, byte), _mm256_and_si256(x.b, byte)), 0xD8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// The low 16 bits of every lane.
TUTTI_INLINE void StoreLowHalves(int16_t* p, I x) {
  const __m256i half = _mm256_set1_epi32(0xFFFF);
  const __m256i words =
      _mm256_packus_epi32(_mm256_and_si256(x.a, half), _mm256_and_si256(x.b, half));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xD8));
}

// p[4 i + j] = w_j[i].
TUTTI_INLINE void StoreInterleaved4(float* p, V w0, V w1, V w2, V w3) {
  const auto four = [](float* to, __m256 x0, __m256 x1, __m256 x2, __m256 x3) {
    const __m256 l01 = _mm256_unpacklo_ps(x0, x1), h01 = _mm256_unpackhi_ps(x0, x1);
    const __m256 l23 = _mm256_unpacklo_ps(x2, x3), h23 = _mm256_unpackhi_ps(x2, x3);
    const __m256 c0 = _mm256_shuffle_ps(l01, l23, 0x44), c1 = _mm256_shuffle_ps(l01, l23, 0xEE);
    const __m256 c2 = _mm256_shuffle_ps(h01, h23, 0x44), c3 = _mm256_shuffle_ps(h01, h23, 0xEE);
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(c0, c1, 0x20));
    _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(c2, c3, 0x20));
    _mm256_storeu_ps(to + 16, _mm256_permute2f128_ps(c0, c1, 0x31));
    _mm256_storeu_ps(to + 24, _mm256_permute2f128_ps(c2, c3, 0x31));
  };
  four(p, w0.a, w1.a, w2.a, w3.a);
  four(p + 32, w0.b, w1.b, w2.b, w3.b);
}

// ---- Integer dot products: 64 bytes are 16 rows x 4 k. ----

TUTTI_INLINE I LoadI(const void* p) {
  const auto* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
TUTTI_INLINE void StoreI(void* p, I x) {
  auto* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, x.a);
  _mm256_storeu_si256(q + 1, x.b);
}
TUTTI_INLINE I SetBytes(int8_t x) { return {_mm256_set1_epi8(x), _mm256_set1_epi8(x)}; }
// Shifts of 16-bit lanes; callers mask what crosses bytes.
template <int n>
TUTTI_INLINE I Shr16(I x) {
  return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
}
template <int n>
TUTTI_INLINE I Shl16(I x) {
  return {_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
}
// 16 bytes to 16 x i32.
TUTTI_INLINE I WidenU8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
TUTTI_INLINE I WidenS8(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}

// Four activations for every row.
using Q4 = __m256i;
TUTTI_INLINE Q4 LoadQ4(const int8_t* q) {
  int32_t v;
  __builtin_memcpy(&v, q, 4);
  return _mm256_set1_epi32(v);
}
// x.low * y.low + x.high * y.high of the signed 16-bit halves of each lane.
TUTTI_INLINE I DotPairs(I x, I y) {
  return {_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)};
}
// acc + DotPairs(x, y).
TUTTI_INLINE I MacPairs(I acc, I x, I y) { return AddI(acc, DotPairs(x, y)); }
// 32 signed bytes to the 16-bit halves of 16 lanes.
TUTTI_INLINE I WidenPairs(const void* p) {
  const auto* q = static_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
}

}  // namespace
}  // namespace tutti::kernels::cpu

#ifdef __AVXVNNI__
#include "kernels/cpu/dot_avx_vnni.h"
#else
#include "kernels/cpu/dot_avx2.h"
#endif
