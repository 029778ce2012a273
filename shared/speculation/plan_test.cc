#include "shared/speculation/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/speculation/draft.h"

namespace tutti::speculation {
namespace {

using ::testing::ElementsAre;

// A machine on which four rows cost as much as one, and each further four as much again.
StepCost Tiles(int rows_max = 64) {
  StepCost cost;
  for (int r = 1; r <= rows_max; ++r) cost.Observe(r, 1000 * ((r + 3) / 4));
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
  cost.Observe(5, 2000);
  EXPECT_EQ(cost.Estimate(3), 1500);
  EXPECT_EQ(cost.Estimate(1), 1000);
  EXPECT_GT(cost.Estimate(9), 2000);
  EXPECT_LT(cost.Estimate(9), 3000);  // a low guess, so that it is tried
  EXPECT_TRUE(cost.Knows(5));
  EXPECT_FALSE(cost.Knows(4));
  EXPECT_GT(cost.Estimate(1000), cost.Estimate(StepCost::kMaxRows));
}

TEST(StepCostTest, FewerRowsNeverCostMore) {
  StepCost cost;
  cost.Observe(4, 5000);
  cost.Observe(8, 3000);
  EXPECT_EQ(cost.Estimate(4), 3000);
}

TEST(StepCostTest, OneSlowStepMovesItLittleAndManyMoveIt) {
  StepCost cost;
  cost.Observe(1, 1000);
  cost.Observe(1, 60000000);
  EXPECT_LE(cost.Estimate(1), 1126);
  for (int i = 0; i < 30; ++i) cost.Observe(1, 3000);
  EXPECT_NEAR(cost.Estimate(1), 3000, 100);
}

TEST(StepCostTest, WhatWasNotSeenForLongIsForgotten) {
  StepCost cost;
  cost.Observe(8, 100000);
  for (int i = 0; i < 2000; ++i) cost.Observe(1, 1000);
  EXPECT_FALSE(cost.Knows(8));
  EXPECT_LT(cost.Estimate(8), 2000);
}

TEST(AcceptanceTest, CountsUpToTheFirstMiss) {
  Acceptance acceptance;
  Draft draft;
  draft.tokens = {1, 2, 3, 4};
  draft.kinds = {1, 2, 3, 4};
  for (int i = 0; i < 50; ++i) acceptance.Observe(draft, std::vector<int32_t>{1, 2, 9, 4}, 0.9f);
  EXPECT_GT(acceptance.Chance(1, 0, 1), 0.9f);
  EXPECT_GT(acceptance.Chance(2, 0, 1), 0.9f);
  EXPECT_LT(acceptance.Chance(3, 1, 1), 0.1f);
  EXPECT_EQ(acceptance.Chance(4, 0.5f, 1), 0.5f);  // never reached
}

TEST(AcceptanceTest, KindsGrowWithTheMatch) {
  int last = 0;
  for (int length = 2; length <= 64; ++length) {
    const int kind = KindOfMatch(length, false);
    EXPECT_TRUE(kind == last || kind == last + 1) << length;
    EXPECT_EQ(KindOfMatch(length, true), kind + 8);
    last = kind;
  }
  EXPECT_EQ(KindOfMatch(2, false), 1);
  EXPECT_EQ(last, 8);
  EXPECT_LT(KindOfMatch(64, true), kNumKinds);
}

}  // namespace
}  // namespace tutti::speculation
