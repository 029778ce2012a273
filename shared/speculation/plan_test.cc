#include "shared/speculation/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "shared/speculation/draft.h"

namespace tutti::speculation {
namespace {

using ::testing::ElementsAre;

// A machine on which four rows cost as much as one, and each further four as much again.
StepCost Tiles(int rows_max = 64) {
  StepCost cost;
  for (int i = 0; i < 5; ++i) {
    for (int r = 1; r <= rows_max; ++r) cost.Observe(r, 1000 * ((r + 3) / 4));
  }
  return cost;
}

std::vector<float> Gains(float chance, int n) {
  std::vector<float> gains;
  float gain = 1;
  for (int i = 0; i < n; ++i) gains.push_back(gain *= chance);
  return gains;
}

TEST(PlanDraftsTest, GuessesFillTheRowsThatCostNothing) {
  const auto gains = Gains(0.5f, 12);
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{gains}}, 1, 64, Tiles()), ElementsAre(3));
}

TEST(PlanDraftsTest, SureGuessesArePaidFor) {
  const auto gains = Gains(0.99f, 15);
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{gains}}, 1, 64, Tiles()), ElementsAre(3));
  // Not so where the first rows are not free: 1 + 0.1 for each row more.
  StepCost linear;
  for (int r = 1; r <= 64; ++r) linear.Observe(r, 900 + 100 * r);
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{gains}}, 1, 64, linear), ElementsAre(15));
  const auto poor = Gains(0.3f, 15);
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{poor}}, 1, 64, linear), ElementsAre(1));
}

TEST(PlanDraftsTest, RowsGoToWhoGainsMost) {
  const auto good = Gains(0.9f, 8), bad = Gains(0.2f, 8);
  // Two rows run anyway; two more are free.
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{bad}, {good}}, 2, 64, Tiles()), ElementsAre(0, 2));
}

TEST(PlanDraftsTest, NoneWhenItDoesNotPay) {
  StepCost dear;
  for (int r = 1; r <= 64; ++r) dear.Observe(r, 1000 * r);
  const auto gains = Gains(0.9f, 8);
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{gains}}, 1, 64, dear), ElementsAre(0));
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{gains}}, 1, 0, Tiles()), ElementsAre(0));
  EXPECT_THAT(PlanDrafts(std::vector<Offer>{{}}, 1, 64, Tiles()), ElementsAre(0));
}

TEST(StepCostTest, WhatIsNotKnownLiesBetweenItsNeighbours) {
  StepCost cost;
  cost.Observe(1, 1000);
  cost.Observe(7, 3000);
  const double one = cost.Estimate(1), seven = cost.Estimate(7);
  EXPECT_NEAR(seven / one, 3, 1e-9);
  EXPECT_GT(cost.Estimate(4), one);
  EXPECT_LT(cost.Estimate(4), seven);
  EXPECT_GT(cost.Estimate(9), seven);
  EXPECT_LT(cost.Estimate(9), 2 * seven);  // a low guess, so that it is tried
  EXPECT_TRUE(cost.Knows(7));
  EXPECT_FALSE(cost.Knows(4));
  EXPECT_GT(cost.Estimate(1000), cost.Estimate(StepCost::kMaxRows));
}

TEST(StepCostTest, FewerRowsNeverCostMore) {
  StepCost cost;
  cost.Observe(4, 5000);
  cost.Observe(8, 3000);
  EXPECT_EQ(cost.Estimate(4), cost.Estimate(8));
}

TEST(StepCostTest, APaceThatChangesForAllIsNoDifferenceBetweenThem) {
  StepCost cost;
  // Steps of 1 and 4 rows in turn, 1 to 1.2, while the machine slows down to a third and recovers,
  // and a step sleeps now and then.
  for (int i = 0; i < 3000; ++i) {
    const double pace = 1000 * (1 + 2 * std::abs(std::sin(i / 100.0)));
    const double sleep = i % 50 == 7 ? 100000 : 0;
    const int rows = i % 3 == 0 ? 1 : 4;
    cost.Observe(rows, static_cast<int64_t>(pace * (rows == 1 ? 1 : 1.2) + sleep));
    if (i > 100) {
      ASSERT_NEAR(cost.Estimate(4) / cost.Estimate(1), 1.2, 0.15) << i;
    }
  }
}

TEST(StepCostTest, WhatIsTrulyDifferentIsLearned) {
  StepCost cost;
  for (int i = 0; i < 64; ++i) cost.Observe(i % 8 == 0 ? 1 : 4, i % 8 == 0 ? 1000 : 1100);
  EXPECT_NEAR(cost.Estimate(4) / cost.Estimate(1), 1.1, 0.05);
  for (int i = 0; i < 640; ++i) cost.Observe(i % 8 == 0 ? 1 : 4, i % 8 == 0 ? 1000 : 2000);
  EXPECT_NEAR(cost.Estimate(4) / cost.Estimate(1), 2, 0.2);
}

TEST(StepCostTest, WhatWasNotSeenForLongIsForgotten) {
  StepCost cost;
  cost.Observe(1, 1000);
  cost.Observe(8, 100000);
  EXPECT_GT(cost.Estimate(8), 50 * cost.Estimate(1));
  for (int i = 0; i < 2000; ++i) cost.Observe(1, 1000);
  EXPECT_FALSE(cost.Knows(8));
  EXPECT_LT(cost.Estimate(8), 2 * cost.Estimate(1));
}

TEST(AcceptanceTest, IsWhatWasSeenLately) {
  Acceptance acceptance;
  EXPECT_EQ(acceptance.Chance(4, 0.5f, 1), 0.5f);
  for (int i = 0; i < 50; ++i) {
    acceptance.Observe(1, true, 0.9f);
    acceptance.Observe(3, false, 0.9f);
  }
  EXPECT_GT(acceptance.Chance(1, 0, 1), 0.9f);
  EXPECT_LT(acceptance.Chance(3, 1, 1), 0.1f);
  EXPECT_EQ(acceptance.Chance(4, 0.5f, 1), 0.5f);
  for (int i = 0; i < 50; ++i) acceptance.Observe(1, false, 0.9f);
  EXPECT_LT(acceptance.Chance(1, 0, 1), 0.1f);
}

TEST(SequenceOddsTest, OneKindTeachesTheOthersButNotHints) {
  const Kind short_match = KindOfMatch(2, Source::kPrompt),
             long_match = KindOfMatch(12, Source::kPrompt);
  SequenceOdds good, bad;
  const float at_first = good.Chance(long_match, 0.8f);
  EXPECT_LT(at_first, 0.8f);
  EXPECT_FLOAT_EQ(good.Chance(kHintKind, 0.8f), 0.8f);
  for (int i = 0; i < 30; ++i) {
    good.Observe(short_match, true, good.Chance(short_match, 0.6f));
    bad.Observe(short_match, false, bad.Chance(short_match, 0.6f));
  }
  EXPECT_GT(good.Chance(long_match, 0.8f), 0.85f);
  EXPECT_LT(bad.Chance(long_match, 0.8f), 0.5f);
  EXPECT_FLOAT_EQ(good.Chance(kHintKind, 0.8f), 0.8f);
  EXPECT_FLOAT_EQ(bad.Chance(kHintKind, 0.8f), 0.8f);
}

TEST(SequenceOddsTest, ComesToTheChanceThatItSees) {
  SequenceOdds odds;
  double sum = 0;
  for (int i = 0; i < 2000; ++i) {
    const float chance = odds.Chance(1, 0.6f);
    if (i >= 1000) sum += static_cast<double>(chance);
    odds.Observe(1, i % 10 < 3, chance);  // three of ten
  }
  EXPECT_NEAR(sum / 1000, 0.3, 0.02);
}

TEST(SequenceOddsTest, StaysBetweenNeverAndAlways) {
  SequenceOdds odds;
  for (int i = 0; i < 10000; ++i) odds.Observe(1, false, 1);
  EXPECT_GT(odds.Chance(1, 0.5f), 0.01f);
  for (int i = 0; i < 10000; ++i) odds.Observe(1, true, 0);
  EXPECT_LT(odds.Chance(1, 0.5f), 0.99f);
}

TEST(AcceptanceTest, KindsGrowWithTheMatch) {
  int last = 0;
  for (int length = 1; length <= 64; ++length) {
    const int kind = KindOfMatch(length, Source::kPrompt);
    EXPECT_TRUE(kind == last || kind == last + 1) << length;
    EXPECT_EQ(KindOfMatch(length, Source::kOutput), kind + 9);
    EXPECT_EQ(KindOfMatch(length, Source::kContested), kind + 18);
    EXPECT_EQ(KindOfMatch(length, Source::kRecentOutputs), kind + 27);
    last = kind;
  }
  EXPECT_EQ(KindOfMatch(1, Source::kPrompt), 1);
  EXPECT_EQ(last, 9);
  EXPECT_EQ(KindAfterMiss(0), 37);
  EXPECT_EQ(KindAfterMiss(1), 38);
  EXPECT_EQ(KindAfterMiss(2), KindOfMatch(2, Source::kPrompt));
  EXPECT_EQ(KindOfNearMatch(1), 39);
  EXPECT_EQ(KindOfStaleHint(9), kNumKinds - 1);
}

TEST(AcceptanceTest, EveryKindHasAPriorChance) {
  for (int kind = 0; kind < kNumKinds; ++kind) {
    EXPECT_GT(PriorChance(static_cast<Kind>(kind)), 0.1f) << kind;
    EXPECT_LT(PriorChance(static_cast<Kind>(kind)), 1.0f) << kind;
    EXPECT_EQ(IsHint(static_cast<Kind>(kind)), kind == 0 || kind >= 42) << kind;
  }
  EXPECT_LT(PriorChance(KindOfMatch(2, Source::kContested)),
            PriorChance(KindOfMatch(2, Source::kPrompt)));
}

}  // namespace
}  // namespace tutti::speculation
