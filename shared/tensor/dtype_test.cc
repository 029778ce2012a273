#include "shared/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tutti {
namespace {

// The value of binary16 bits from its definition, with ldexp on exact integers.
double HalfByDefinition(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -size : size;
}

TEST(HalfTest, EveryFiniteHalfHasItsDefinedValueAndComesBack) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    if (((h >> 10) & 31) == 31) continue;
    const float f = HalfToFloat(bits);
    ASSERT_EQ(f, HalfByDefinition(bits)) << h;
    ASSERT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
    ASSERT_EQ(FloatToHalf(f), bits) << h;
  }
}

TEST(HalfTest, NarrowingRoundsToNearestWithTiesToEven) {
  for (uint32_t h = 0; h + 1 < 0x7C00; ++h) {
    const float low = HalfToFloat(static_cast<uint16_t>(h)),
                high = HalfToFloat(static_cast<uint16_t>(h + 1));
    const float middle = (low + high) / 2;  // exact in binary32
    const auto even = static_cast<uint16_t>(h % 2 == 0 ? h : h + 1);
    ASSERT_EQ(FloatToHalf(middle), even) << h;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << h;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, 0.0f)), h) << h;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, 1e9f)), h + 1) << h;
  }
}

TEST(HalfTest, TooLargeIsInfinityAndNanStaysNan) {
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65519.996f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xFC00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::infinity()), 0x7C00);
  EXPECT_TRUE(std::isinf(HalfToFloat(0xFC00)));
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7C01)));
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(BFloat16Test, NarrowingRoundsToNearestWithTiesToEven) {
  for (uint32_t h = 0; h + 1 < 0x7F80; h += 3) {
    const float low = BFloat16ToFloat(static_cast<uint16_t>(h));
    ASSERT_EQ(FloatToBFloat16(low), h);
    const float middle = __builtin_bit_cast(float, (h << 16) | 0x8000u);
    ASSERT_EQ(FloatToBFloat16(middle), h % 2 == 0 ? h : h + 1) << h;
    ASSERT_EQ(FloatToBFloat16(std::nextafterf(middle, 0.0f)), h) << h;
    ASSERT_EQ(FloatToBFloat16(std::nextafterf(middle, std::numeric_limits<float>::infinity())),
              h + 1)
        << h;
  }
  EXPECT_TRUE(
      std::isnan(BFloat16ToFloat(FloatToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(StorageTest, CountsWholeBlocksAndRefusesOverflow) {
  EXPECT_EQ(StorageBytes(DType::kF32, 7), 28u);
  EXPECT_EQ(StorageBytes(DType::kQ4_1, 64), 40u);
  EXPECT_EQ(StorageBytes(DType::kQ6_K, 512), 420u);
  EXPECT_EQ(StorageBytes(DType::kQ4_1, 65), std::nullopt);
  EXPECT_EQ(StorageBytes(DType::kQ4_K, 128), std::nullopt);
  EXPECT_EQ(StorageBytes(DType::kF32, uint64_t{1} << 62), std::nullopt);
  EXPECT_EQ(StorageBytes(DType::kQ8_0, ~uint64_t{31}), std::nullopt);
}

}  // namespace
}  // namespace tutti
