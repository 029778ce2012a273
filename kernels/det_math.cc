// exp, log, pow, sin and cos in f64 for model constants and RoPE tables, from additions,
// multiplications, divisions and fma alone, so that no libm's choices show in the bits.
// (fma is the one operation taken from the C library where the compiler has no instruction for it:
// it is correctly rounded by definition.)
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/kernels.h"

namespace tutti::kernels {
namespace {

double FmaD(double a, double b, double c) { return __builtin_fma(a, b, c); }

constexpr double kLn2High = 0x1.62e42fefa39efp-1;  // ln 2 rounded, and what is left
constexpr double kLn2Low = 0x1.abc9e3b39803fp-56;
constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0;  // pi / 2 rounded, and what is left
constexpr double kHalfPiLow = 0x1.1a62633145c07p-54;
constexpr double kRoundD = 0x1.8p52;  // adding and subtracting rounds to an integer

constexpr double InverseFactorial(int n) {
  double f = 1;
  for (int i = 2; i <= n; ++i) f *= i;  // exact up to 22!
  return 1 / f;
}

// |r| <= pi / 4; Taylor series, the first term left out is below 1e-19.
double SinSmall(double r) {
  const double z = r * r;
  double p = InverseFactorial(17);
  double sign = -1;
  for (int n = 15; n >= 3; n -= 2, sign = -sign) p = FmaD(p, z, sign * InverseFactorial(n));
  return FmaD(p * z, r, r);
}
double CosSmall(double r) {
  const double z = r * r;
  double p = InverseFactorial(18);
  p = -p;
  double sign = 1;
  for (int n = 16; n >= 2; n -= 2, sign = -sign) p = FmaD(p, z, sign * InverseFactorial(n));
  return FmaD(p, z, 1.0);
}

// Good to 1e-15 absolute for |x| < 1e9.
void SinCos(double x, double* sin, double* cos) {
  const double n = FmaD(x, 1 / kHalfPiHigh, kRoundD) - kRoundD;
  const double r = FmaD(-n, kHalfPiLow, FmaD(-n, kHalfPiHigh, x));
  const double s = SinSmall(r), c = CosSmall(r);
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      *sin = s, *cos = c;
      return;
    case 1:
      *sin = c, *cos = -s;
      return;
    case 2:
      *sin = -s, *cos = -c;
      return;
    default:
      *sin = -c, *cos = s;
      return;
  }
}

}  // namespace

double DetExp(double x) {
  if (x != x) return x;
  if (x > 709.0) return std::numeric_limits<double>::infinity();
  if (x < -708.0) return 0.0;
  const double n = FmaD(x, 1 / kLn2High, kRoundD) - kRoundD;
  const double r = FmaD(-n, kLn2Low, FmaD(-n, kLn2High, x));
  double p = InverseFactorial(14);
  for (int i = 13; i >= 0; --i) p = FmaD(p, r, InverseFactorial(i));
  return p * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
}

double DetLog(double x) {
  if (x != x || x == std::numeric_limits<double>::infinity()) return x;
  if (x == 0) return -std::numeric_limits<double>::infinity();
  if (x < 0) return std::numeric_limits<double>::quiet_NaN();
  double shift = 0;
  if (x < 0x1p-1022) x *= 0x1p54, shift = 54;
  // x = m * 2^e, m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(t), t = (m - 1) / (m + 1), |t| < 0.172.
  const auto bits = std::bit_cast<uint64_t>(x);
  const int64_t e = static_cast<int64_t>(bits - 0x3FE6A09E667F3BCDull) >> 52;
  const double m = std::bit_cast<double>(bits - (static_cast<uint64_t>(e) << 52));
  const double t = (m - 1) / (m + 1), z = t * t;
  double p = 1.0 / 25;
  for (int n = 23; n >= 3; n -= 2) p = FmaD(p, z, 1.0 / n);
  const double ln_m = 2 * FmaD(p * z, t, t);
  const double n = static_cast<double>(e) - shift;
  return FmaD(n, kLn2High, FmaD(n, kLn2Low, ln_m));
}

double DetPow(double x, double y) { return DetExp(y * DetLog(x)); }

void RopeTable(const double* inv_freq, int half, int64_t first_pos, int64_t num_positions,
               double attention_factor, float* cos, float* sin) {
  for (int64_t p = 0; p < num_positions; ++p) {
    for (int i = 0; i < half; ++i, ++cos, ++sin) {
      double s, c;
      SinCos(static_cast<double>(first_pos + p) * inv_freq[i], &s, &c);
      *cos = static_cast<float>(c * attention_factor);
      *sin = static_cast<float>(s * attention_factor);
    }
  }
}

}  // namespace tutti::kernels
