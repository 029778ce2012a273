// The vector layer for AVX-512 (F, BW, DQ, VL, VNNI): 16 lanes are one register.
// Included only by a file compiled for that instruction set (see cpu.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tutti::kernels::cpu {
namespace {

#define TUTTI_INLINE inline __attribute__((always_inline))

// Columns that share the unpacking of a weight: 8 chains, sums and totals fit the 32 registers.
constexpr int kFusedTile = 8;
// Room for some thirty V at once, or for about eight.
constexpr bool kManyRegisters = true;

struct V {
  __m512 v;
};  // 16 x f32
struct I {
  __m512i v;
};  // 16 x i32, or 64 bytes
struct M {
  __mmask16 m;
};  // 16 truth values

TUTTI_INLINE V Set(float x) { return {_mm512_set1_ps(x)}; }
TUTTI_INLINE V Zero() { return {_mm512_setzero_ps()}; }
TUTTI_INLINE V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
TUTTI_INLINE void Store(float* p, V x) { _mm512_storeu_ps(p, x.v); }
// Lanes [0, n) of memory, 0 in the others; nothing past lane n is touched.
TUTTI_INLINE __mmask16 TailMask(int n) { return static_cast<__mmask16>((1u << n) - 1); }
TUTTI_INLINE V LoadN(const float* p, int n) { return {_mm512_maskz_loadu_ps(TailMask(n), p)}; }
TUTTI_INLINE void StoreN(float* p, V x, int n) { _mm512_mask_storeu_ps(p, TailMask(n), x.v); }
TUTTI_INLINE V LoadHalf(const void* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
TUTTI_INLINE V LoadBFloat(const void* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}

TUTTI_INLINE V Add(V x, V y) { return {_mm512_add_ps(x.v, y.v)}; }
TUTTI_INLINE V Sub(V x, V y) { return {_mm512_sub_ps(x.v, y.v)}; }
TUTTI_INLINE V Mul(V x, V y) { return {_mm512_mul_ps(x.v, y.v)}; }
TUTTI_INLINE V Div(V x, V y) { return {_mm512_div_ps(x.v, y.v)}; }
TUTTI_INLINE V Fma(V x, V y, V z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
// fma(-x, y, z)
TUTTI_INLINE V NegFma(V x, V y, V z) { return {_mm512_fnmadd_ps(x.v, y.v, z.v)}; }
// x < y ? x : y, and x > y ? x : y: y when either is NaN.
TUTTI_INLINE V Min(V x, V y) { return {_mm512_min_ps(x.v, y.v)}; }
TUTTI_INLINE V Max(V x, V y) { return {_mm512_max_ps(x.v, y.v)}; }

TUTTI_INLINE M Less(V x, V y) { return {_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ)}; }
TUTTI_INLINE M Equal(V x, V y) { return {_mm512_cmp_ps_mask(x.v, y.v, _CMP_EQ_OQ)}; }
// x < y or either is NaN.
TUTTI_INLINE M NotGreaterEqual(V x, V y) { return {_mm512_cmp_ps_mask(x.v, y.v, _CMP_NGE_UQ)}; }
TUTTI_INLINE V Select(M m, V yes, V no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
TUTTI_INLINE uint32_t MaskBits(M m) { return m.m; }
// Lanes [from, to).
TUTTI_INLINE M LaneRange(int from, int to) {
  const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {static_cast<__mmask16>(_mm512_cmpge_epi32_mask(i, _mm512_set1_epi32(from)) &
                                 _mm512_cmplt_epi32_mask(i, _mm512_set1_epi32(to)))};
}

TUTTI_INLINE I SetI(int32_t x) { return {_mm512_set1_epi32(x)}; }
TUTTI_INLINE I ZeroI() { return {_mm512_setzero_si512()}; }
TUTTI_INLINE I Iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
TUTTI_INLINE I Bits(V x) { return {_mm512_castps_si512(x.v)}; }
TUTTI_INLINE V FromBits(I x) { return {_mm512_castsi512_ps(x.v)}; }
TUTTI_INLINE I AddI(I x, I y) { return {_mm512_add_epi32(x.v, y.v)}; }
TUTTI_INLINE I SubI(I x, I y) { return {_mm512_sub_epi32(x.v, y.v)}; }
TUTTI_INLINE I SubBytes(I x, I y) { return {_mm512_sub_epi8(x.v, y.v)}; }
TUTTI_INLINE I And(I x, I y) { return {_mm512_and_si512(x.v, y.v)}; }
TUTTI_INLINE I Or(I x, I y) { return {_mm512_or_si512(x.v, y.v)}; }
TUTTI_INLINE I Xor(I x, I y) { return {_mm512_xor_si512(x.v, y.v)}; }
TUTTI_INLINE I MaxI(I x, I y) { return {_mm512_max_epi32(x.v, y.v)}; }
template <int n>
TUTTI_INLINE I Shl(I x) {
  return {_mm512_slli_epi32(x.v, n)};
}
template <int n>
TUTTI_INLINE I Sar(I x) {
  return {_mm512_srai_epi32(x.v, n)};
}
template <int n>
TUTTI_INLINE I Shr(I x) {
  return {_mm512_srli_epi32(x.v, n)};
}
TUTTI_INLINE V ToFloat(I x) { return {_mm512_cvtepi32_ps(x.v)}; }

// Upper and lower half of the 64-bit products of unsigned lanes with a constant.
TUTTI_INLINE void MulWide(I x, uint32_t c, I* high, I* low) {
  const __m512i k = _mm512_set1_epi32(static_cast<int32_t>(c));
  const __m512i even = _mm512_mul_epu32(x.v, k),
                odd = _mm512_mul_epu32(_mm512_srli_epi64(x.v, 32), k);
  high->v = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low->v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

// Sum of 16 lanes: 8, 4, 2, 1.
TUTTI_INLINE float Fold(V x) {
  const __m256 w8 = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 w4 = _mm_add_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
  const __m128 w2 = _mm_add_ps(w4, _mm_movehl_ps(w4, w4));
  return _mm_cvtss_f32(_mm_add_ss(w2, _mm_shuffle_ps(w2, w2, 1)));
}
TUTTI_INLINE float FoldMax(V x) { return _mm512_reduce_max_ps(x.v); }
TUTTI_INLINE int32_t FoldMaxI(I x) { return _mm512_reduce_max_epi32(x.v); }
TUTTI_INLINE int32_t FoldI(I x) { return _mm512_reduce_add_epi32(x.v); }

// The low byte of every lane.
TUTTI_INLINE void StoreLowBytes(int8_t* p, I x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}

// The low 16 bits of every lane.
TUTTI_INLINE void StoreLowHalves(int16_t* p, I x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}

// p[4 i + j] = w_j[i].
TUTTI_INLINE void StoreInterleaved4(float* p, V w0, V w1, V w2, V w3) {
  const __m512 l01 = _mm512_unpacklo_ps(w0.v, w1.v), h01 = _mm512_unpackhi_ps(w0.v, w1.v);
  const __m512 l23 = _mm512_unpacklo_ps(w2.v, w3.v), h23 = _mm512_unpackhi_ps(w2.v, w3.v);
  // c_j holds the quadruples of lanes 4 q + j, one per 128 bits.
  const __m512 c[4] = {_mm512_shuffle_ps(l01, l23, 0x44), _mm512_shuffle_ps(l01, l23, 0xEE),
                       _mm512_shuffle_ps(h01, h23, 0x44), _mm512_shuffle_ps(h01, h23, 0xEE)};
  for (int j = 0; j < 4; ++j) {
    _mm_storeu_ps(p + 4 * j, _mm512_extractf32x4_ps(c[j], 0));
    _mm_storeu_ps(p + 16 + 4 * j, _mm512_extractf32x4_ps(c[j], 1));
    _mm_storeu_ps(p + 32 + 4 * j, _mm512_extractf32x4_ps(c[j], 2));
    _mm_storeu_ps(p + 48 + 4 * j, _mm512_extractf32x4_ps(c[j], 3));
  }
}

// ---- Integer dot products: 64 bytes are 16 rows x 4 k. ----

TUTTI_INLINE I LoadI(const void* p) { return {_mm512_loadu_si512(p)}; }
TUTTI_INLINE void StoreI(void* p, I x) { _mm512_storeu_si512(p, x.v); }
TUTTI_INLINE I SetBytes(int8_t x) { return {_mm512_set1_epi8(x)}; }
// Shifts of 16-bit lanes; callers mask what crosses bytes.
template <int n>
TUTTI_INLINE I Shr16(I x) {
  return {_mm512_srli_epi16(x.v, n)};
}
template <int n>
TUTTI_INLINE I Shl16(I x) {
  return {_mm512_slli_epi16(x.v, n)};
}
// 16 bytes to 16 x i32.
TUTTI_INLINE I WidenU8(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
TUTTI_INLINE I WidenS8(const uint8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

// Signed weights as unsigned ones, 128 too large: the sum of the activations corrects that at less
// than the sign would cost per product.
constexpr bool kBytesByOffset = true;

// Four activations for every row.
using Q4 = __m512i;
TUTTI_INLINE Q4 LoadQ4(const int8_t* q) {
  int32_t v;
  __builtin_memcpy(&v, q, 4);
  return _mm512_set1_epi32(v);
}

// How many products of 4-k groups a chain may hold before Reduce: sums are 32-bit here.
constexpr int MaxChain(int) { return 1024; }
// Chains of a column, 1 or 2, when a tile has so many columns: a product takes 5 cycles or 6, two
// are begun in each.
constexpr int ChainWays(int columns) { return columns <= 4 ? 2 : 1; }

// A running sum of unsigned weights times signed activations.
using Chain = I;
TUTTI_INLINE Chain ZeroChain() { return ZeroI(); }
TUTTI_INLINE Chain Mac(Chain c, I w, Q4 q) { return {_mm512_dpbusd_epi32(c.v, w.v, q)}; }
TUTTI_INLINE Chain FirstMac(I w, Q4 q) { return Mac(ZeroChain(), w, q); }
using Factor = I;
TUTTI_INLINE Factor MakeFactor(I x) { return x; }
TUTTI_INLINE I Reduce(Chain c, Factor f) { return {_mm512_mullo_epi32(c.v, f.v)}; }
TUTTI_INLINE I ReduceOne(Chain c) { return c; }

// acc + sum of signed weights times signed activations: the sign moves to the activation.
TUTTI_INLINE I MacSigned(I acc, I w, Q4 q) {
  const __m512i moved =
      _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(w.v), _mm512_setzero_si512(), q);
  return {_mm512_dpbusd_epi32(acc.v, _mm512_abs_epi8(w.v), moved)};
}
TUTTI_INLINE Chain MacSmallSigned(Chain c, I w, Q4 q) { return MacSigned(c, w, q); }
// x.low * y.low + x.high * y.high of the signed 16-bit halves of each lane.
TUTTI_INLINE I DotPairs(I x, I y) { return {_mm512_madd_epi16(x.v, y.v)}; }
// acc + DotPairs(x, y).
TUTTI_INLINE I MacPairs(I acc, I x, I y) { return {_mm512_dpwssd_epi32(acc.v, x.v, y.v)}; }
// constant * *x in all lanes, |*x| < 2^15: one product that loads its operand, where a broadcast of
// a scalar product would take a port of the others.
template <int constant>
TUTTI_INLINE I TimesConstant(const int32_t* x) {
  return {_mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(*x),
                              _mm512_set1_epi32(constant & 0xFFFF))};
}
// 32 signed bytes to the 16-bit halves of 16 lanes.
TUTTI_INLINE I WidenPairs(const void* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}

// Products of bytes that are stored as v + 128 with signed q in [-127, 127]; `sum` is the sum of
// all q that will follow. acc = StartOffset(sum), then acc = MacOffset(acc, LoadOffset(p), q).
TUTTI_INLINE I StartOffset(int32_t sum) { return SetI(-128 * sum); }
TUTTI_INLINE I LoadOffset(const void* p) { return LoadI(p); }
TUTTI_INLINE I MacOffset(I acc, I v, Q4 q) { return {_mm512_dpbusd_epi32(acc.v, v.v, q)}; }

}  // namespace
}  // namespace tutti::kernels::cpu
