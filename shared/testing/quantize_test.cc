#include "shared/testing/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tutti::testing {
namespace {

TEST(QuantizeTest, EveryTypeComesBackWithinHalfAStep) {
  std::mt19937 rng(3);
  std::vector<float> x(1024);
  for (float& v : x) v = static_cast<float>(rng() % 20001) / 10000.0f - 1.0f;
  // Half a step of a block that spans [-1, 1]: 1/127, 1/7, 1/15, 1/15, 1/31 (K-quants add 6-bit
  // scales: up to 1/63 of a scale more, over the code's range), and an f16 scale.
  const struct {
    DType dtype;
    float bound;
  } cases[] = {
      {DType::kF32, 0},
      {DType::kF16, 0x1p-11f},
      {DType::kBF16, 0x1p-8f},
      {DType::kQ8_0, 0.5f / 127},
      {DType::kQ4_0, 0.5f / 7},
      {DType::kQ4_1, 0.5f * 2 / 15},
      {DType::kQ5_0, 0.5f / 15},
      {DType::kQ5_1, 0.5f * 2 / 31},
      {DType::kQ4_K, 1.0f / 15 + 2.0f / 63},
      {DType::kQ5_K, 1.0f / 31 + 2.0f / 63},
      {DType::kQ6_K, 0.5f / 31 + 1.0f / 127},
  };
  for (const auto& c : cases) {
    const auto bytes = Quantize(c.dtype, x);
    ASSERT_EQ(bytes.size(), StorageBytes(c.dtype, x.size()));
    const auto y = Dequantize(c.dtype, bytes);
    float worst = 0;
    for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::fabs(x[i] - y[i]));
    EXPECT_LE(worst, c.bound * 1.01f) << Traits(c.dtype).name;
    EXPECT_EQ(worst > 0, c.dtype != DType::kF32) << Traits(c.dtype).name;
  }
}

TEST(QuantizeTest, AZeroBlockStaysZero) {
  const std::vector<float> zero(256, 0.0f);
  for (int t = 0; t < kNumDTypes; ++t) {
    for (float v : Dequantize(static_cast<DType>(t), Quantize(static_cast<DType>(t), zero)))
      EXPECT_EQ(v, 0.0f);
  }
}

}  // namespace
}  // namespace tutti::testing
