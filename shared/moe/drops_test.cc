// What is left out of a row's experts, against the rules written out plainly.
#include "shared/moe/drops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

namespace tutti::moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

GatingOptions Two(int experts) { return {.num_experts = experts, .top_k = 2, .renormalize = true}; }

TEST(AsksSecondTest, TheChanceIsTwiceTheWeight) {
  for (const float weight : {0.05f, 0.2f, 0.35f, 0.49f}) {
    int asked = 0;
    constexpr int kDraws = 40000;
    for (int i = 0; i < kDraws; ++i)
      asked += AsksSecond(static_cast<uint64_t>(i % 7), i / 7 % 500, i / 3500, weight);
    // Five standard deviations of a share, sqrt(p (1 - p) / n) <= 0.0025.
    EXPECT_NEAR(static_cast<double>(asked) / kDraws, 2.0 * weight, 0.0125) << weight;
  }
  for (int pos = 0; pos < 1000; ++pos) {
    EXPECT_TRUE(AsksSecond(3, pos, 0, 0.5f));
    EXPECT_FALSE(AsksSecond(3, pos, 0, 0.0f));
  }
}

TEST(AsksSecondTest, SeedPositionAndLayerEachDrawAnew) {
  const auto draws = [](auto asks) {
    std::vector<bool> out;
    for (int i = 0; i < 64; ++i) out.push_back(asks(i));
    return out;
  };
  const auto by_pos = draws([](int i) { return AsksSecond(1, i, 0, 0.25f); });
  EXPECT_EQ(by_pos, draws([](int i) { return AsksSecond(1, i, 0, 0.25f); }));
  EXPECT_NE(by_pos, draws([](int i) { return AsksSecond(2, i, 0, 0.25f); }));
  EXPECT_NE(by_pos, draws([](int i) { return AsksSecond(1, i, 1, 0.25f); }));
  EXPECT_NE(draws([](int i) { return AsksSecond(static_cast<uint64_t>(i) << 32, 0, 0, 0.25f); }),
            std::vector<bool>(64, AsksSecond(0, 0, 0, 0.25f)))
      << "all bits of the seed count";
}

TEST(AsksSecondTest, TheNumberIsThatOfThePublishedGenerator) {
  // Philox4x32-10 of counter (layer, position, 1, 0): stored, since other processes draw the same.
  std::vector<bool> first;
  for (int pos = 0; pos < 16; ++pos) first.push_back(AsksSecond(42, pos, 3, 0.25f));
  EXPECT_THAT(first, ElementsAre(true, true, true, false, true, false, false, true, false, true,
                                 true, false, false, true, false, true));
}

TEST(DropPairsTest, TheSecondExpertIsTheOneOfLessWeight) {
  GatingOptions o = Two(8);
  o.random_second = true;
  int dropped_first = 0, dropped_second = 0;
  for (int pos = 0; pos < 100; ++pos) {
    std::vector<uint8_t> kept(2);
    DropPairs(o, 0, {.seed = 5, .pos = pos}, std::vector{1, 6}, std::vector{0.2f, 0.8f}, kept);
    EXPECT_EQ(kept[0], AsksSecond(5, pos, 0, 0.2f));
    dropped_second += kept[0] == 0;
    EXPECT_EQ(kept[1], 1);
    DropPairs(o, 0, {.seed = 5, .pos = pos}, std::vector{1, 6}, std::vector{0.5f, 0.5f}, kept);
    dropped_first += kept[0] + kept[1] != 2;
  }
  EXPECT_GT(dropped_second, 40);
  EXPECT_EQ(dropped_first, 0);
}

TEST(ExpertCapacityTest, IsTheFactorTimesAnEvenShareAndAtLeastOne) {
  GatingOptions o = Two(8);
  EXPECT_EQ(ExpertCapacity(o), 0);
  EXPECT_EQ(RecordBytes(o), 0u);
  const auto of = [&](float factor) {
    o.capacity_factor = factor;
    return ExpertCapacity(o);
  };
  EXPECT_EQ(of(1.0f), 4);  // 2 * 16 / 8
  EXPECT_EQ(of(1.25f), 5);
  EXPECT_EQ(of(1.1f), 5);
  EXPECT_EQ(of(0.01f), 1);
  EXPECT_EQ(RecordBytes(o), 64u);
}

// The rule as one reads it, over a whole sequence of routed rows.
std::vector<std::vector<uint8_t>> Plain(const GatingOptions& o, uint64_t seed, int layer,
                                        const std::vector<std::vector<int32_t>>& ids,
                                        const std::vector<std::vector<float>>& weights) {
  std::vector<std::vector<uint8_t>> kept;
  std::map<int32_t, int> taken;
  for (size_t pos = 0; pos < ids.size(); ++pos) {
    if (pos % 16 == 0) taken.clear();
    const size_t second = weights[pos][0] >= weights[pos][1] ? 1 : 0;
    auto& row = kept.emplace_back(2);
    for (size_t i = 0; i < 2; ++i) {
      if (o.random_second && i == second &&
          !AsksSecond(seed, static_cast<int32_t>(pos), layer, weights[pos][i])) {
        continue;
      }
      const int limit = ExpertCapacity(o);
      if (limit > 0 && taken[ids[pos][i]] >= limit) continue;
      ++taken[ids[pos][i]];
      row[i] = 1;
    }
  }
  return kept;
}

TEST(DropPairsTest, IsTheRuleAsOneReadsIt) {
  std::mt19937 rng(1);
  for (int round = 0; round < 60; ++round) {
    GatingOptions o = Two(4 + round % 3);
    o.random_second = round % 2 == 0;
    o.capacity_factor = round % 5 == 0 ? 0 : 0.25f * static_cast<float>(round % 5);
    const uint64_t seed = rng();
    constexpr int kRows = 50, kLayers = 3;
    // Pages of a sequence, full of what was there before.
    std::vector<std::vector<std::byte>> pages(
        4, std::vector<std::byte>(kLayers * RecordBytes(o) + 1, std::byte{0}));
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<std::vector<int32_t>> ids;
      std::vector<std::vector<float>> weights;
      std::vector<std::vector<uint8_t>> kept;
      for (int pos = 0; pos < kRows; ++pos) {
        const auto a = static_cast<int32_t>(rng() % 3), b = a + 1;
        const float w = static_cast<float>(rng() % 101) / 100;
        ids.push_back({a, b});
        weights.push_back({w, 1 - w});
      }
      const auto run = [&](int pos) {
        std::vector<uint8_t> row(2);
        DropPairs(o, layer, {seed, pos, pages[static_cast<size_t>(pos / 16)].data()},
                  ids[static_cast<size_t>(pos)], weights[static_cast<size_t>(pos)], row);
        return row;
      };
      for (int pos = 0; pos < kRows; ++pos) kept.push_back(run(pos));
      EXPECT_EQ(kept, Plain(o, seed, layer, ids, weights)) << round;
      // Rows that were guesses and are run again, from any position on.
      for (const int from : {33, 40, 16, 7}) {
        for (int pos = from; pos < kRows; ++pos)
          EXPECT_EQ(run(pos), kept[static_cast<size_t>(pos)]) << round << " " << from;
      }
    }
  }
}

TEST(DropPairsTest, ARowThatIsNoNumberKeepsAllSoThatItsFaultShows) {
  GatingOptions o = Two(4);
  o.random_second = true;
  o.capacity_factor = 0.01f;
  std::vector<std::byte> page(RecordBytes(o));
  std::vector<uint8_t> kept(2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int pos = 0; pos < 16; ++pos) {
    DropPairs(o, 0, {1, pos, page.data()}, std::vector{0, 1}, std::vector{nan, nan}, kept);
    EXPECT_THAT(kept, ElementsAre(1, 1));
  }
}

TEST(GatingOptionsTest, ARandomSecondNeedsTwoExpertsWhoseWeightsSumToOne) {
  GatingOptions o = Two(4);
  o.random_second = true;
  EXPECT_TRUE(o.Validate().ok());
  for (auto spoil : std::vector<void (*)(GatingOptions&)>{
           [](GatingOptions& g) { g.top_k = 3; }, [](GatingOptions& g) { g.renormalize = false; },
           [](GatingOptions& g) { g.scale = 2; }}) {
    GatingOptions bad = o;
    spoil(bad);
    EXPECT_THAT(std::string(bad.Validate().message()), HasSubstr("random_second needs top_k = 2"));
  }
  o.capacity_factor = -1;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("capacity_factor"));
  o.capacity_factor = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(o.Validate().ok());
}

}  // namespace
}  // namespace tutti::moe
