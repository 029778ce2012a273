// Dot products of bytes with AVX-VNNI (desktop processors since 2021, which lack AVX-512): four
// products are added to a 32-bit lane at once. Included by vec_avx2.h.
#pragma once

namespace tutti::kernels::cpu {
namespace {

// Signed weights as unsigned ones, 128 too large (see vec_avx512.h).
constexpr bool kBytesByOffset = true;

constexpr int MaxChain(int) { return 1024; }
// Chains of a column: a product takes 5 cycles, two are begun in each, and 16 rows are two already.
constexpr int ChainWays(int columns) { return columns <= 2 ? 2 : 1; }

TUTTI_INLINE I DotBytes(I acc, I w, Q4 q) {
  return {_mm256_dpbusd_avx_epi32(acc.a, w.a, q), _mm256_dpbusd_avx_epi32(acc.b, w.b, q)};
}

// A running sum of unsigned weights times signed activations.
using Chain = I;
TUTTI_INLINE Chain ZeroChain() { return ZeroI(); }
TUTTI_INLINE Chain Mac(Chain c, I w, Q4 q) { return DotBytes(c, w, q); }
TUTTI_INLINE Chain FirstMac(I w, Q4 q) { return Mac(ZeroChain(), w, q); }
using Factor = I;
TUTTI_INLINE Factor MakeFactor(I x) { return x; }
TUTTI_INLINE I Reduce(Chain c, Factor f) {
  return {_mm256_mullo_epi32(c.a, f.a), _mm256_mullo_epi32(c.b, f.b)};
}
TUTTI_INLINE I ReduceOne(Chain c) { return c; }

// acc + sum of signed weights times signed activations: the sign moves to the activation.
TUTTI_INLINE I MacSigned(I acc, I w, Q4 q) {
  return {_mm256_dpbusd_avx_epi32(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(q, w.a)),
          _mm256_dpbusd_avx_epi32(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(q, w.b))};
}
TUTTI_INLINE Chain MacSmallSigned(Chain c, I w, Q4 q) { return MacSigned(c, w, q); }

// constant * *x in all lanes, |*x| < 2^15.
template <int constant>
TUTTI_INLINE I TimesConstant(const int32_t* x) {
  const __m256i v = _mm256_dpwssd_avx_epi32(_mm256_setzero_si256(), _mm256_set1_epi32(*x),
                                            _mm256_set1_epi32(constant & 0xFFFF));
  return {v, v};
}

// Products of bytes that are stored as v + 128 with signed q in [-127, 127]; `sum` is the sum of
// all q that will follow. acc = StartOffset(sum), then acc = MacOffset(acc, LoadOffset(p), q).
TUTTI_INLINE I StartOffset(int32_t sum) { return SetI(-128 * sum); }
TUTTI_INLINE I LoadOffset(const void* p) { return LoadI(p); }
TUTTI_INLINE I MacOffset(I acc, I v, Q4 q) { return DotBytes(acc, v, q); }

}  // namespace
}  // namespace tutti::kernels::cpu
