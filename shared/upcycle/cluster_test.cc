// Directions, their clusters, and the routers made of them.
#include "shared/upcycle/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "shared/upcycle/router_rows.h"

namespace tutti::upcycle {
namespace {

using ::testing::HasSubstr;
constexpr int64_t kDim = 40;

// `sizes[c]` rows around the axis of each cluster c, `spread` off it at the most per coordinate.
std::vector<float> Bundles(const std::vector<int>& sizes, float spread, float common = 0) {
  std::mt19937 rng(5);
  std::vector<float> rows;
  for (size_t c = 0; c < sizes.size(); ++c) {
    for (int i = 0; i < sizes[c]; ++i) {
      for (int64_t d = 0; d < kDim; ++d) {
        const float noise = (static_cast<float>(rng() % 2001) / 1000 - 1) * spread;
        rows.push_back(noise + (d == static_cast<int64_t>(c) ? 1.0f : 0.0f) +
                       (d == kDim - 1 ? common : 0.0f));
      }
    }
  }
  return rows;
}
std::vector<float> OfLengthOne(std::vector<float> rows) {
  for (size_t at = 0; at < rows.size(); at += kDim) Normalize(std::span(rows).subspan(at, kDim));
  return rows;
}

TEST(ClusterTest, BundlesOfRowsAreFoundWhateverTheirSizes) {
  const std::vector<int> sizes = {50, 8, 90, 20};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Clusters c = ClusterDirections(OfLengthOne(Bundles(sizes, 0.02f)), kDim, 4, seed, 0);
    ASSERT_EQ(c.centers.size(), 4u * kDim);
    size_t row = 0;
    std::vector<int32_t> names;
    for (int size : sizes) {
      names.push_back(c.of[row]);
      EXPECT_EQ(c.sizes[static_cast<size_t>(c.of[row])], size) << seed;
      for (int i = 0; i < size; ++i) EXPECT_EQ(c.of[row++], names.back()) << seed;
    }
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, (std::vector<int32_t>{0, 1, 2, 3}));
  }
}

TEST(ClusterTest, EveryRowIsWithTheCenterThatIsMostLikeIt) {
  const auto rows = OfLengthOne(Bundles({30, 30}, 0.8f));
  const Clusters c = ClusterDirections(rows, kDim, 6, 3, 1);
  ASSERT_EQ(c.centers.size(), 6u * kDim);
  for (size_t r = 0; r < 60; ++r) {
    double best = -2, own = -2;
    for (size_t e = 0; e < 6; ++e) {
      double like = 0;
      for (size_t d = 0; d < kDim; ++d)
        like += static_cast<double>(rows[r * kDim + d]) * c.centers[e * kDim + d];
      best = std::max(best, like);
      if (static_cast<int32_t>(e) == c.of[r]) own = like;
    }
    EXPECT_NEAR(own, best, 1e-6);
  }
}

TEST(ClusterTest, NoClusterIsNextToNothing) {
  // 300 rows on one side and an outlier: what k-means would give a center of its own.
  const auto rows = OfLengthOne(Bundles({300, 1}, 0.4f));
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Clusters c = ClusterDirections(rows, kDim, 4, seed, 0);
    ASSERT_EQ(c.sizes.size(), 4u);
    for (int64_t size : c.sizes) EXPECT_GT(size, 301 / (4 * 16)) << seed;
  }
}

TEST(ClusterTest, OneSeedGivesOneClustering) {
  const auto rows = OfLengthOne(Bundles({40, 40, 40}, 0.7f));
  const auto centers = [&](uint64_t seed, uint32_t stream) {
    return ClusterDirections(rows, kDim, 5, seed, stream).centers;
  };
  EXPECT_EQ(centers(1, 2), centers(1, 2));
  EXPECT_NE(centers(1, 2), centers(2, 2));
  EXPECT_NE(centers(1, 2), centers(1, 3));
}

TEST(ClusterTest, FewerDirectionsThanClustersAreNotMadeUp) {
  EXPECT_TRUE(ClusterDirections(OfLengthOne(Bundles({9, 9}, 0)), kDim, 3, 0, 0).centers.empty());
  EXPECT_FALSE(ClusterDirections(OfLengthOne(Bundles({9, 9}, 0)), kDim, 2, 0, 0).centers.empty());
  EXPECT_TRUE(ClusterDirections(std::vector<float>(kDim * 3), kDim, 1, 0, 0).centers.empty());
}

TEST(RouterRowsTest, WhatAllRowsShareSaysNothing) {
  // Without the common part taken out, the cosines between all rows would be about 0.999.
  const std::vector<int> sizes = {40, 40, 40};
  const auto inputs = Bundles(sizes, 0.1f, 30);
  const auto router = MakeRouterRows(inputs, kDim, {.num_experts = 3, .top_k = 2});
  ASSERT_TRUE(router.ok()) << router.status();
  std::vector<float> gaps;
  std::vector<ptrdiff_t> of_bundle;
  for (size_t r = 0; r < 120; ++r) {
    std::vector<float> logits;
    for (size_t e = 0; e < 3; ++e)
      logits.push_back(Dot(std::span(inputs).subspan(r * kDim, kDim),
                           std::span(*router).subspan(e * kDim, kDim)));
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    if (r % 40 == 0) of_bundle.push_back(best);
    EXPECT_EQ(best, of_bundle.back()) << r;
    std::sort(logits.begin(), logits.end());
    gaps.push_back(logits[2] - logits[1]);
  }
  // Half of the rows have more, half less.
  std::sort(gaps.begin(), gaps.end());
  EXPECT_NEAR(gaps[60], std::log(3.0), 1e-4);  // logits of about 30 in f32
  double along = 0, length = 0;
  for (size_t d = 0; d < kDim; ++d) {
    along += (*router)[d] * (d == kDim - 1 ? 30.0 : d < 3 ? 1.0 / 3 : 0.0) / 30;
    length += (*router)[d] * (*router)[d];
  }
  EXPECT_LT(std::fabs(along), 1e-3 * std::sqrt(length));
}

TEST(RouterRowsTest, TooFewKindsOfRowsAreAnErrorThatNamesTheLayer) {
  const auto router =
      MakeRouterRows(Bundles({5, 5}, 0), kDim, {.num_experts = 4, .top_k = 2, .layer = 7});
  EXPECT_TRUE(absl::IsInvalidArgument(router.status()));
  EXPECT_THAT(std::string(router.status().message()),
              HasSubstr("layer 7: the 10 rows of the texts have fewer than 4 directions"));
}

}  // namespace
}  // namespace tutti::upcycle
