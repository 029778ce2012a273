// The elementary functions of the contract, one value at a time. This is the specification: the
// vector kernels do the same operations in the same order in every lane (docs/determinism.md, "Row
// operations"). Determinism: exact. NaN comes out as NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace tutti::kernels {

inline float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even.
inline constexpr float kRound = 12582912.0f;

// e^x. 0 below -86; above 88 the value at 88 (1.65e38), so the result is always finite.
inline float ScalarExp(float x) {
  x = x > 88.0f ? 88.0f : x;
  const float t = Fma(x, 1.44269504088896341f, kRound);
  const float n = t - kRound;
  float r = Fma(n, -0.693359375f, x);
  r = Fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = Fma(p, r, 1.3981999507e-3f);
  p = Fma(p, r, 8.3334519073e-3f);
  p = Fma(p, r, 4.1665795894e-2f);
  p = Fma(p, r, 1.6666665459e-1f);
  p = Fma(p, r, 5.0000001201e-1f);
  p = Fma(p, r * r, r) + 1.0f;
  // 2^n through the exponent bits; the product is exact because it is a normal number.
  const uint32_t exponent = std::bit_cast<uint32_t>(t) + (127u - std::bit_cast<uint32_t>(kRound));
  const float y = p * std::bit_cast<float>(exponent << 23);
  return x < -86.0f ? 0.0f : y;
}

// Natural logarithm. -inf at 0 (of either sign), NaN below, +inf at +inf; subnormals are right too.
inline float ScalarLog(float x) {
  const bool tiny = x < 0x1p-126f;
  const float scaled = tiny ? x * 0x1p23f : x;
  // scaled = m * 2^e with m in [sqrt(1/2), sqrt(2)).
  const uint32_t bits = std::bit_cast<uint32_t>(scaled);
  const int32_t e_int = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;
  const float f = std::bit_cast<float>(bits - (static_cast<uint32_t>(e_int) << 23)) - 1.0f;
  const float e = static_cast<float>(e_int) - (tiny ? 23.0f : 0.0f);
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = Fma(p, f, -1.1514610310e-1f);
  p = Fma(p, f, 1.1676998740e-1f);
  p = Fma(p, f, -1.2420140846e-1f);
  p = Fma(p, f, 1.4249322787e-1f);
  p = Fma(p, f, -1.6668057665e-1f);
  p = Fma(p, f, 2.0000714765e-1f);
  p = Fma(p, f, -2.4999993993e-1f);
  p = Fma(p, f, 3.3333331174e-1f);
  float t = (p * f) * z;
  t = Fma(e, -2.12194440e-4f, t);
  t = Fma(-0.5f, z, t);
  float y = Fma(e, 0.693359375f, f + t);
  y = x == __builtin_inff() ? x : y;
  y = x == 0.0f ? -__builtin_inff() : y;
  return x < 0.0f || x != x ? __builtin_nanf("") : y;
}

// tanh: an odd polynomial below 0.625 (so small values keep their precision), else 1 - 2 / (e^2x +
// 1).
inline float ScalarTanh(float x) {
  const float a = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = Fma(p, z, 2.06390887954e-2f);
  p = Fma(p, z, -5.37397155531e-2f);
  p = Fma(p, z, 1.33314422036e-1f);
  p = Fma(p, z, -3.33332819422e-1f);
  const float small = Fma(p * z, x, x);
  const float big = 1.0f - 2.0f / (ScalarExp(a + a) + 1.0f);
  const uint32_t sign = std::bit_cast<uint32_t>(x) & 0x80000000u;
  const float signed_big = std::bit_cast<float>(std::bit_cast<uint32_t>(big) | sign);
  return a < 0.625f ? small : signed_big;
}

inline float ScalarSilu(float x) { return x / (1.0f + ScalarExp(-x)); }

// GELU by tanh ("gelu_new", "gelu_pytorch_tanh").
inline float ScalarGeluTanh(float x) {
  const float cube = (x * x) * x;
  const float inner = Fma(0.044715f, cube, x);
  return (0.5f * x) * (1.0f + ScalarTanh(0.797884560802865f * inner));
}

// Sums of 16 lanes: 8, 4, 2, 1.
inline float FoldLanes(float* lane) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] = lane[i] + lane[i + width];
  }
  return lane[0];
}

}  // namespace tutti::kernels
