// The elementary functions are near the true ones, and their bits are the stored ones on every
// machine.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/scalar_math.h"
#include "kernels/testing.h"
#include "shared/base/hash.h"

namespace tutti::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// |got - want| in units of the last place of want.
double Ulps(float got, double want) {
  const auto near = static_cast<float>(want);
  const double ulp = static_cast<double>(std::nextafterf(std::fabs(near), kInf)) -
                     std::fabs(static_cast<double>(near));
  return std::fabs(static_cast<double>(got) - want) / ulp;
}

// Floats from `low` to `high` in steps of `step` units of the last place; both positive.
template <typename F>
void ForFloats(float low, float high, uint32_t step, const F& f) {
  for (uint32_t b = std::bit_cast<uint32_t>(low); b <= std::bit_cast<uint32_t>(high); b += step)
    f(std::bit_cast<float>(b));
}

TEST(ExpTest, IsWithinTwoUnitsOfTheLastPlace) {
  double worst = 0;
  ForFloats(1e-9f, 86.0f, 997, [&](float x) {
    worst = std::max(worst, Ulps(ScalarExp(x), std::exp(static_cast<double>(x))));
    worst = std::max(worst, Ulps(ScalarExp(-x), std::exp(-static_cast<double>(x))));
  });
  EXPECT_LT(worst, 2.0);
}

TEST(ExpTest, KeepsItsPromisesAtTheEnds) {
  EXPECT_EQ(ScalarExp(0.0f), 1.0f);
  EXPECT_EQ(ScalarExp(-0.0f), 1.0f);
  EXPECT_GT(ScalarExp(-86.0f), 0.0f);
  EXPECT_EQ(ScalarExp(std::nextafterf(-86.0f, -kInf)), 0.0f);
  EXPECT_EQ(ScalarExp(-kInf), 0.0f);
  EXPECT_EQ(ScalarExp(kInf), ScalarExp(88.0f));
  EXPECT_TRUE(std::isfinite(ScalarExp(kInf)));
  EXPECT_TRUE(std::isnan(ScalarExp(kNan)));
}

TEST(LogTest, IsWithinTwoUnitsOfTheLastPlace) {
  double worst = 0;
  ForFloats(0x1p-149f, 3e38f, 9973, [&](float x) {
    worst = std::max(worst, Ulps(ScalarLog(x), std::log(static_cast<double>(x))));
  });
  // Around 1, where the logarithm vanishes.
  ForFloats(0.9f, 1.1f, 7, [&](float x) {
    if (x != 1.0f) worst = std::max(worst, Ulps(ScalarLog(x), std::log(static_cast<double>(x))));
  });
  EXPECT_LT(worst, 2.0);
}

TEST(LogTest, KeepsItsPromisesAtTheEnds) {
  EXPECT_EQ(ScalarLog(1.0f), 0.0f);
  EXPECT_EQ(ScalarLog(0.0f), -kInf);
  EXPECT_EQ(ScalarLog(-0.0f), -kInf);
  EXPECT_EQ(ScalarLog(kInf), kInf);
  EXPECT_TRUE(std::isnan(ScalarLog(-1.0f)));
  EXPECT_TRUE(std::isnan(ScalarLog(kNan)));
}

TEST(TanhTest, IsWithinFourUnitsOfTheLastPlaceNearZeroToo) {
  double worst = 0;
  ForFloats(1e-30f, 12.0f, 997, [&](float x) {
    worst = std::max(worst, Ulps(ScalarTanh(x), std::tanh(static_cast<double>(x))));
    EXPECT_EQ(ScalarTanh(-x), -ScalarTanh(x));
  });
  EXPECT_LT(worst, 4.0);
  EXPECT_EQ(ScalarTanh(kInf), 1.0f);
  EXPECT_EQ(ScalarTanh(-kInf), -1.0f);
}

TEST(ActivationTest, AreNearTheirDefinitions) {
  for (double x = -12; x <= 12; x += 0.001) {
    const auto f = static_cast<float>(x);
    const double silu = f / (1 + std::exp(-static_cast<double>(f)));
    EXPECT_NEAR(ScalarSilu(f), silu, 4e-7 * (1 + std::fabs(silu)));
    const double d = f,
                 gelu = 0.5 * d * (1 + std::tanh(std::sqrt(2 / M_PI) * (d + 0.044715 * d * d * d)));
    EXPECT_NEAR(ScalarGeluTanh(f), gelu, 4e-7 * (1 + std::fabs(gelu)));
  }
}

TEST(DetMathTest, IsNearTheTrueFunctions) {
  for (double x = -700; x < 700; x += 0.37) {
    EXPECT_NEAR(DetExp(x) / static_cast<double>(std::exp(static_cast<long double>(x))), 1.0, 1e-15)
        << x;
  }
  for (double x = 1e-300; x < 1e300; x *= 1.37) {
    const auto want = static_cast<double>(std::log(static_cast<long double>(x)));
    EXPECT_NEAR(DetLog(x), want, 4e-16 * (1 + std::fabs(want))) << x;
  }
  // y * log(x) is rounded once before exp, so the relative error is about its size times 2^-53.
  EXPECT_NEAR(DetPow(10000.0, -0.59375), std::pow(10000.0, -0.59375), 1e-17);
  EXPECT_NEAR(DetPow(500000.0, 62.0 / 64) / std::pow(500000.0, 62.0 / 64), 1.0, 1e-14);
  EXPECT_EQ(DetPow(10000.0, 0.0), 1.0);
  EXPECT_EQ(DetExp(-1e4), 0.0);
  EXPECT_TRUE(std::isinf(DetExp(1e4)));
  EXPECT_TRUE(std::isinf(DetLog(0.0)));
  EXPECT_TRUE(std::isnan(DetLog(-1.0)));
  EXPECT_NEAR(DetLog(0x1p-1074), -744.4400719213812, 1e-12);
}

std::vector<double> InverseFrequencies(int half) {
  std::vector<double> f(static_cast<size_t>(half));
  for (int i = 0; i < half; ++i)
    f[static_cast<size_t>(i)] = DetPow(10000.0, -static_cast<double>(i) / half);
  return f;
}

TEST(RopeTableTest, IsNearCosAndSinAtAnyPosition) {
  const std::vector<double> f = InverseFrequencies(32);
  std::vector<float> cos(32), sin(32);
  for (int64_t position : {0, 1, 2, 3, 17, 1000, 8191, 131071, 1000003}) {
    RopeTable(f.data(), 32, position, 1, 1.25, cos.data(), sin.data());
    for (size_t i = 0; i < 32; ++i) {
      const auto angle = static_cast<double>(position) * f[i];
      // Half a unit in the last place of a float below 1.25, and what the reduction loses.
      EXPECT_NEAR(cos[i], 1.25 * std::cos(angle), 6.1e-8) << position;
      EXPECT_NEAR(sin[i], 1.25 * std::sin(angle), 6.1e-8) << position;
    }
  }
}

TEST(RopeTableTest, APositionDoesNotDependOnWhereTheTableBegins) {
  const std::vector<double> f = InverseFrequencies(20);
  std::vector<float> cos(20 * 50), sin(cos.size()), one_cos(20), one_sin(20);
  RopeTable(f.data(), 20, 100, 50, 1.0, cos.data(), sin.data());
  RopeTable(f.data(), 20, 133, 1, 1.0, one_cos.data(), one_sin.data());
  EXPECT_EQ(std::memcmp(one_cos.data(), cos.data() + 33 * 20, 80), 0);
  EXPECT_EQ(std::memcmp(one_sin.data(), sin.data() + 33 * 20, 80), 0);
}

// The bits themselves. They are part of the numerics contract: when one of these changes, so does
// the version in every model fingerprint.
TEST(StoredBitsTest, ElementaryFunctions) {
  const auto hash = [](float (*f)(float)) {
    std::vector<float> y;
    for (uint64_t b = 0; b < 0x100000000ull; b += 40009) {
      const auto x = std::bit_cast<float>(static_cast<uint32_t>(b));
      const float v = f(x);
      y.push_back(std::isnan(v) ? 0.0f : v);
    }
    return Hex64(Hash64(y.data(), y.size() * 4));
  };
  EXPECT_EQ(hash(ScalarExp), "9bdd3b557456e700");
  EXPECT_EQ(hash(ScalarLog), "8bcef81354143824");
  EXPECT_EQ(hash(ScalarTanh), "ef1593e3f7167860");
  EXPECT_EQ(hash(ScalarSilu), "5465cc2cae57b09e");
  EXPECT_EQ(hash(ScalarGeluTanh), "c8b12c6b5ce8eaaf");
}

TEST(StoredBitsTest, RopeTable) {
  const std::vector<double> f = InverseFrequencies(32);
  std::vector<float> cos(32 * 4096), sin(cos.size());
  RopeTable(f.data(), 32, 0, 4096, 1.0, cos.data(), sin.data());
  EXPECT_EQ(Hex64(Hash64(cos.data(), cos.size() * 4)), "aeb641e3f52c273f");
  EXPECT_EQ(Hex64(Hash64(sin.data(), sin.size() * 4)), "8773ab9e68e50c06");
}

TEST(StoredBitsTest, Gumbel) {
  std::vector<float> noise(50000);
  Kernels().gumbel(0x0123456789ABCDEFull, 77, 2, 3, 50000, noise.data());
  EXPECT_EQ(Hex64(Hash64(noise.data(), noise.size() * 4)), "69ac54ec4aa2e240");
}

TEST(GumbelTest, IsTheNoiseThatTheContractDefines) {
  std::vector<float> noise(9);
  Kernels().gumbel(5, 6, 7, 8, 9, noise.data());
  for (uint32_t id = 0; id < 9; ++id) {
    const uint32_t word = Philox4x32(5, {id / 4, 6, 7, 8})[id % 4];
    const double u = (static_cast<double>(word >> 9) + 0.5) / 8388608.0;
    EXPECT_NEAR(noise[id], -std::log(-std::log(u)), 2e-6);
  }
}

// Mean and variance of the Gumbel distribution: Euler's constant and pi^2 / 6; 5 standard errors.
TEST(GumbelTest, HasTheMomentsOfItsDistribution) {
  constexpr int64_t kN = 1 << 20;
  std::vector<float> noise(kN);
  Kernels().gumbel(42, 0, 0, 0, kN, noise.data());
  double sum = 0, squares = 0;
  for (float g : noise) sum += g, squares += static_cast<double>(g) * g;
  const double mean = sum / kN, variance = squares / kN - mean * mean;
  EXPECT_NEAR(mean, 0.5772156649, 5 * 1.2825 / 1024);
  EXPECT_NEAR(variance, 1.6449340668, 5 * 3.45 / 1024);
}

}  // namespace
}  // namespace tutti::kernels
