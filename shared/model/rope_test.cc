#include "shared/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tutti::model {
namespace {

// Expected frequencies were computed in Python from the formulas of transformers'
// modeling_rope_utils.py. Both sides are f64 with functions good to a few ulp.
void ExpectNear(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / want[i], 1.0, 1e-13) << i;
}

TEST(RopeTest, LinearScalingDividesEveryFrequency) {
  const std::vector<double> plain = InverseFrequencies({.theta = 10000}, 16);
  const std::vector<double> scaled = InverseFrequencies(
      {.theta = 10000, .scaling = RopeConfig::Scaling::kLinear, .factor = 4}, 16);
  EXPECT_EQ(plain[0], 1.0);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(scaled[i], plain[i] / 4);
}

TEST(RopeTest, Llama3ScalingIsThatOfTransformers) {
  ExpectNear(
      InverseFrequencies({.theta = 500000,
                          .scaling = RopeConfig::Scaling::kLlama3,
                          .factor = 8,
                          .original_context = 8192,
                          .low_freq_factor = 1,
                          .high_freq_factor = 4},
                         16),
      {1.0, 0.19392274474868576, 0.03760603093086393, 0.007292664737217109, 0.0005248461609929547,
       3.428102195952591e-05, 6.647869871181235e-06, 1.2891731721515574e-06});
}

TEST(RopeTest, YarnIsThatOfTransformers) {
  RopeConfig yarn{
      .theta = 10000, .scaling = RopeConfig::Scaling::kYarn, .factor = 4, .original_context = 2048};
  ExpectNear(InverseFrequencies(yarn, 16),
             {1.0, 0.31622776601683794, 0.1, 0.02569350598886808, 0.00625, 0.0013834964763236657,
              0.00025, 7.905694150420948e-05});
  yarn = {.theta = 1000000,
          .scaling = RopeConfig::Scaling::kYarn,
          .factor = 4,
          .original_context = 32768,
          .truncate = false};
  ExpectNear(
      InverseFrequencies(yarn, 16),
      {1.0, 0.17782794100389226, 0.03162277660168379, 0.0055172704751341225, 0.0006074079378798391,
       4.445698525097307e-05, 7.905694150420949e-06, 1.4058533129758728e-06});
  EXPECT_NEAR(YarnAttentionFactor(4), 1.138629436111989, 1e-14);
  EXPECT_EQ(YarnAttentionFactor(0.5), 1.0);
}

TEST(RopeTest, TheTableGrowsWithoutChangingAndTurnsByThePosition) {
  const RopeConfig rope{.theta = 10000, .attention_factor = 0.5};
  RopeCache cache(rope, 8, 4096);
  cache.Reserve(3);
  const float before = cache.Cos(2)[1];
  cache.Reserve(2000);
  EXPECT_EQ(cache.Cos(2)[1], before);
  for (const int64_t pos : {0, 1, 1023, 1024, 1999}) {
    for (int i = 0; i < 4; ++i) {
      // f32 rounding of the result; the angle itself is f64.
      const double angle = static_cast<double>(pos) * std::pow(10000.0, -2.0 * i / 8);
      EXPECT_NEAR(cache.Cos(pos)[i], 0.5 * std::cos(angle), 4e-8) << pos << " " << i;
      EXPECT_NEAR(cache.Sin(pos)[i], 0.5 * std::sin(angle), 4e-8) << pos << " " << i;
    }
  }
}

}  // namespace
}  // namespace tutti::model
