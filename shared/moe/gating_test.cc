#include "shared/moe/gating.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace tutti::moe {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};
Routed RouteRow(const GatingOptions& o, const std::vector<float>& logits,
                const std::vector<float>& bias = {}) {
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  Routed r{std::vector<int32_t>(static_cast<size_t>(o.top_k)),
           std::vector<float>(static_cast<size_t>(o.top_k))};
  Route(o, logits, bias, r.ids, r.weights);
  return r;
}

TEST(RouteTest, TiesGoToTheLowerExpertId) {
  EXPECT_THAT(RouteRow({.num_experts = 4, .top_k = 2}, {5, 7, 7, 7}).ids, ElementsAre(1, 2));
}

TEST(RouteTest, WeightsAreASoftmaxOverAllOrOverTheChosen) {
  const std::vector<float> logits = {0, 1, 2, 3};
  const Routed all = RouteRow({.num_experts = 4, .top_k = 2}, logits);
  EXPECT_THAT(all.ids, ElementsAre(2, 3));
  const double sum = 1 + std::exp(1) + std::exp(2) + std::exp(3);
  EXPECT_NEAR(all.weights[0], std::exp(2) / sum, 1e-6);
  EXPECT_NEAR(all.weights[1], std::exp(3) / sum, 1e-6);
  const Routed chosen =
      RouteRow({.num_experts = 4, .top_k = 2, .renormalize = true, .scale = 2}, logits);
  EXPECT_NEAR(chosen.weights[0], 2 / (1 + std::exp(1)), 1e-6);
  EXPECT_NEAR(chosen.weights[0] + chosen.weights[1], 2, 1e-6);
}

TEST(RouteTest, ABiasChangesTheChoiceAndNotTheWeights) {
  const GatingOptions o = {.num_experts = 3, .top_k = 1, .score = GatingOptions::Score::kSigmoid};
  const Routed r = RouteRow(o, {0, 1, 2}, {5, 0, 0});
  EXPECT_THAT(r.ids, ElementsAre(0));
  EXPECT_FLOAT_EQ(r.weights[0], 0.5f);
}

TEST(RouteTest, OnlyExpertsOfTheBestGroupsAreLeft) {
  // The best expert is alone in its group; two good ones beat it when a group is worth two.
  const std::vector<float> logits = {3, -9, 2, 2, -9, -9};
  GatingOptions o = {.num_experts = 6, .top_k = 2, .num_groups = 3, .top_groups = 1};
  EXPECT_THAT(RouteRow(o, logits).ids, ElementsAre(0, 1));
  o.score = GatingOptions::Score::kSigmoid;
  o.group_best = 2;
  EXPECT_THAT(RouteRow(o, logits).ids, ElementsAre(2, 3));
}

TEST(RouteTest, ALogitThatIsNotANumberMakesEveryWeightOne) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Routed r = RouteRow({.num_experts = 3, .top_k = 2}, {1, nan, 2});
  EXPECT_THAT(r.ids, ElementsAre(0, 1));
  EXPECT_THAT(r.weights, Each(::testing::IsNan()));
}

TEST(GatingOptionsTest, ValuesOutOfRangeAreRefusedByName) {
  const auto message = [](const GatingOptions& o) { return std::string(o.Validate().message()); };
  EXPECT_THAT(message({.num_experts = 0, .top_k = 1}), ::testing::HasSubstr("num_experts"));
  EXPECT_THAT(message({.num_experts = 4, .top_k = 5}), ::testing::HasSubstr("top_k"));
  EXPECT_THAT(message({.num_experts = 4, .top_k = 1, .num_groups = 3}),
              ::testing::HasSubstr("num_groups"));
  EXPECT_THAT(message({.num_experts = 4, .top_k = 3, .num_groups = 2, .top_groups = 1}),
              ::testing::HasSubstr("top_k"));
}

TEST(LoadBalancingLossTest, AnEvenLoadGivesTopK) {
  const GatingOptions o = {.num_experts = 4, .top_k = 2};
  const std::vector<float> logits(16, 0.0f);
  const std::vector<int32_t> even = {0, 1, 2, 3, 0, 1, 2, 3};
  EXPECT_NEAR(LoadBalancingLoss(o, 4, logits, even), 2.0, 1e-6);
}

}  // namespace
}  // namespace tutti::moe
