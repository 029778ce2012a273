// The encoders against plain rounding (shared/testing/quantize.h), which they must never fall
// behind.
#include "shared/quantize/blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "shared/testing/quantize.h"

namespace tutti::quantize {
namespace {

using tutti::testing::Dequantize;

constexpr DType kBlockTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                                 DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
constexpr size_t kCount = 256 * 64;

// std::normal_distribution differs between libraries; a sum of twelve uniforms does not.
float Normal(std::mt19937& rng) {
  float sum = 0;
  for (int i = 0; i < 12; ++i) sum += static_cast<float>(rng() >> 8) * 0x1p-24f;
  return sum - 6;
}

struct Sample {
  std::string name;
  std::vector<float> values;
};
std::vector<Sample> Samples() {
  std::mt19937 rng(7);
  const auto make = [&](std::string name, const std::function<float(size_t)>& value) {
    Sample s{std::move(name), std::vector<float>(kCount)};
    for (size_t i = 0; i < kCount; ++i) s.values[i] = value(i);
    return s;
  };
  std::vector<Sample> out;
  out.push_back(make("normal", [&](size_t) { return 0.05f * Normal(rng); }));
  out.push_back(make("heavy tails", [&](size_t) {
    const float n = Normal(rng), a = Normal(rng), b = Normal(rng), c = Normal(rng);
    return 0.05f * n / std::sqrt((a * a + b * b + c * c) / 3 + 1e-3f);
  }));
  out.push_back(
      make("outliers", [&](size_t i) { return (i % 97 == 0 ? 1.0f : 0.01f) * Normal(rng); }));
  out.push_back(make("all positive", [&](size_t) { return 3 + 0.1f * Normal(rng); }));
  out.push_back(make("scales that differ", [&](size_t i) {
    return std::ldexp(Normal(rng), -static_cast<int>(i / 32 % 9));
  }));
  out.push_back(make("few values", [&](size_t) { return static_cast<float>(rng() % 3) - 1; }));
  return out;
}

std::vector<std::byte> Encode(DType dtype, std::span<const float> x) {
  std::vector<std::byte> out(*StorageBytes(dtype, x.size()));
  EncodeBlocks(dtype, x, out.data());
  return out;
}
double Error(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double r = static_cast<double>(x[i]) - y[i];
    sum += r * r;
  }
  return sum;
}

TEST(EncodeBlocksTest, NoBlockIsWorseThanPlainRounding) {
  for (const Sample& s : Samples()) {
    for (const DType dtype : kBlockTypes) {
      const auto block = static_cast<size_t>(Traits(dtype).block_elements);
      const std::span<const float> x = s.values;
      const auto plain = Dequantize(dtype, tutti::testing::Quantize(dtype, x));
      const auto ours = Dequantize(dtype, Encode(dtype, x));
      for (size_t i = 0; i < x.size(); i += block) {
        const auto part = [&](std::span<const float> v) { return v.subspan(i, block); };
        // A code on a tie may fall either way, and the search adds up in f32 (at most
        // 256 * 2^-24 of the sum).
        EXPECT_LE(Error(part(x), part(ours)), Error(part(x), part(plain)) * (1 + 2e-5) + 1e-12)
            << s.name << " " << Traits(dtype).name << " block " << i / block;
      }
    }
  }
}

TEST(EncodeBlocksTest, TheSearchIsWorthItsTimeOnWeightsAsModelsHaveThem) {
  const auto samples = Samples();
  for (const Sample* s : {&samples[0], &samples[1]}) {
    for (const DType dtype : kBlockTypes) {
      const std::span<const float> x = s->values;
      const double plain = Error(x, Dequantize(dtype, tutti::testing::Quantize(dtype, x)));
      // Root mean squares measured here are 0.83 to 0.93 of plain rounding's: squared, at most
      // 0.86.
      EXPECT_LT(Error(x, Dequantize(dtype, Encode(dtype, x))), 0.88 * plain)
          << s->name << " " << Traits(dtype).name;
    }
  }
}

TEST(EncodeBlocksTest, FloatTypesRoundToNearest) {
  const Sample s = Samples()[1];
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    EXPECT_EQ(Encode(dtype, s.values), tutti::testing::Quantize(dtype, s.values));
}

TEST(EncodeBlocksTest, ValuesThatTheFormatHasComeBackExactly) {
  const struct {
    DType dtype;
    int low, high;
  } cases[] = {{DType::kQ8_0, -127, 127}, {DType::kQ4_0, -8, 7},  {DType::kQ5_0, -16, 15},
               {DType::kQ4_1, -3, 12},    {DType::kQ5_1, 5, 36},  {DType::kQ4_K, -8, 7},
               {DType::kQ5_K, -16, 15},   {DType::kQ6_K, -32, 31}};
  for (const auto& c : cases) {
    // Every block reaches both ends of the code range, with steps of one power of two.
    std::vector<float> x(256);
    for (int i = 0; i < 256; ++i) {
      const int code = i % 16 == 0   ? c.low
                       : i % 16 == 1 ? c.high
                                     : c.low + i * 37 % (c.high - c.low + 1);
      x[i] = 0.125f * static_cast<float>(code);
    }
    const auto y = Dequantize(c.dtype, Encode(c.dtype, x));
    if (Traits(c.dtype).block_elements == 32) {
      EXPECT_EQ(x, y) << Traits(c.dtype).name;
    } else {
      // The f16 for all is 1/63 or 1/127 of the largest scale, and rounds by 2^-11 of itself.
      for (size_t i = 0; i < x.size(); ++i)
        EXPECT_NEAR(x[i], y[i], 4 * 0x1p-11f) << Traits(c.dtype).name;
    }
  }
}

TEST(EncodeBlocksTest, ExtremesStayFinite) {
  const std::vector<std::vector<float>> cases = {
      std::vector<float>(256, 0.0f),      std::vector<float>(256, -0.0f),
      std::vector<float>(256, 1e-40f),    std::vector<float>(256, 1e-9f),
      std::vector<float>(256, -2.5f),     std::vector<float>(256, kValueMax),
      std::vector<float>(256, -kValueMax)};
  std::vector<float> mixed(256, 1e-30f);
  for (size_t i = 0; i < mixed.size(); i += 3) mixed[i] = i % 2 == 0 ? kValueMax : -kValueMax;
  for (const DType dtype : kBlockTypes) {
    const auto check = [&](const std::vector<float>& x) {
      const auto y = Dequantize(dtype, Encode(dtype, x));
      float largest = 0;
      for (const float v : x) largest = std::max(largest, std::fabs(v));
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_TRUE(std::isfinite(y[i])) << Traits(dtype).name << " " << x[i];
        EXPECT_LE(std::fabs(x[i] - y[i]), largest / 6) << Traits(dtype).name << " " << x[i];
      }
    };
    for (const auto& x : cases) {
      if (x[0] != 1e-9f && x[0] != 1e-40f) {
        check(x);
      } else {  // below what an f16 scale reaches: anything that size, or 0
        for (const float v : Dequantize(dtype, Encode(dtype, x))) EXPECT_LT(std::fabs(v), 1e-7f);
      }
    }
    check(mixed);
  }
}

}  // namespace
}  // namespace tutti::quantize
