// Dot products of bytes with AVX2: pairs of products in 16-bit lanes, which hold a few of them.
// Included by vec_avx2.h.
#pragma once

namespace tutti::kernels::cpu {
namespace {

constexpr bool kBytesByOffset = false;  // signed weights stay signed (see vec_avx512.h)

// How many products of 4-k groups a chain may hold before Reduce: a 16-bit lane gains 2 * max * 127
// each.
constexpr int MaxChain(int unsigned_max) { return 32767 / (2 * 127 * unsigned_max); }
constexpr int ChainWays(int) { return 1; }

// A running sum of unsigned weights times signed activations; pairs in 16-bit lanes.
using Chain = I;
TUTTI_INLINE Chain ZeroChain() { return ZeroI(); }
TUTTI_INLINE Chain FirstMac(I w, Q4 q) {
  return {_mm256_maddubs_epi16(w.a, q), _mm256_maddubs_epi16(w.b, q)};
}
TUTTI_INLINE Chain Mac(Chain c, I w, Q4 q) {
  return {_mm256_add_epi16(c.a, _mm256_maddubs_epi16(w.a, q)),
          _mm256_add_epi16(c.b, _mm256_maddubs_epi16(w.b, q))};
}
// Factors for Reduce: |factor| < 2^15, the same for both 16-bit lanes of a row.
using Factor = I;
TUTTI_INLINE Factor MakeFactor(I x) { return Or(And(x, SetI(0xFFFF)), Shl<16>(x)); }
TUTTI_INLINE I Reduce(Chain c, Factor f) {
  return {_mm256_madd_epi16(c.a, f.a), _mm256_madd_epi16(c.b, f.b)};
}

TUTTI_INLINE I ReduceOne(Chain c) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(c.a, one), _mm256_madd_epi16(c.b, one)};
}
// The same for signed weights of at most 32 in size: a chain may hold 4.
TUTTI_INLINE Chain MacSmallSigned(Chain c, I w, Q4 q) {
  const auto dot = [&](__m256i v) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(q, v));
  };
  return {_mm256_add_epi16(c.a, dot(w.a)), _mm256_add_epi16(c.b, dot(w.b))};
}

// acc + sum of signed weights times signed activations.
TUTTI_INLINE I MacSigned(I acc, I w, Q4 q) {
  const __m256i one = _mm256_set1_epi16(1);
  const auto dot = [&](__m256i v) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(q, v)), one);
  };
  return {_mm256_add_epi32(acc.a, dot(w.a)), _mm256_add_epi32(acc.b, dot(w.b))};
}
// constant * *x in all lanes.
template <int constant>
TUTTI_INLINE I TimesConstant(const int32_t* x) {
  return SetI(constant * *x);
}

// Products of bytes that are stored as v + 128 with signed q in [-127, 127]; `sum` is the sum of
// all q that will follow. acc = StartOffset(sum), then acc = MacOffset(acc, LoadOffset(p), q).
TUTTI_INLINE I StartOffset(int32_t) { return ZeroI(); }
TUTTI_INLINE I LoadOffset(const void* p) { return Xor(LoadI(p), SetBytes(-128)); }
TUTTI_INLINE I MacOffset(I acc, I v, Q4 q) { return MacSigned(acc, v, q); }

}  // namespace
}  // namespace tutti::kernels::cpu
