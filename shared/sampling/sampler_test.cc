#include "shared/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/kernels.h"
#include "shared/sampling/processors.h"

namespace tutti::sampling {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<float> RandomLogits(size_t n, uint32_t seed, float spread = 4.0f) {
  std::mt19937 rng(seed);
  std::vector<float> x(n);
  for (float& v : x) v = spread * (static_cast<float>(rng() >> 8) * 0x1p-23f - 1.0f);
  return x;
}

int32_t Sample(const SamplingParams& params, const std::vector<float>& logits,
               const TokenHistory& history, std::span<const int32_t> eos = {}) {
  Scratch scratch;
  return SampleToken(params, history, eos, logits, &scratch);
}

TEST(SampleTokenTest, GreedyTakesTheLargestAndTheLowerIdOfEqualOnes) {
  EXPECT_EQ(Sample({.temperature = 0}, {1, 7, 3, 7, 2}, {}), 1);
}

TEST(SampleTokenTest, TheTokenIsTheLargestNoisyScoreAmongTheSurvivors) {
  const auto logits = RandomLogits(1000, 3);
  for (const SamplingParams& base :
       {SamplingParams{}, SamplingParams{.temperature = 0.7f}, SamplingParams{.top_k = 20},
        SamplingParams{.top_p = 0.5f},
        SamplingParams{.temperature = 1.4f, .top_k = 500, .min_p = 0.01f}}) {
    SamplingParams params = base;
    params.seed = 0x123456789abcdefu;
    params.sample_index = 3;
    for (size_t length = 0; length < 50; ++length) {
      const TokenHistory history(params, std::vector<int32_t>(length, 1));
      // The definition, term by term.
      const auto p = Probabilities(params, history, {}, logits);
      std::vector<float> noise(1000);
      kernels::Kernels().gumbel(params.seed, static_cast<uint32_t>(length), 0, 3, 1000,
                                noise.data());
      int32_t want = -1;
      float best = 0;
      for (int32_t id = 0; id < 1000; ++id) {
        if (p[static_cast<size_t>(id)] == 0) continue;
        const float value =
            logits[static_cast<size_t>(id)] / params.temperature + noise[static_cast<size_t>(id)];
        if (want < 0 || value > best) want = id, best = value;
      }
      ASSERT_EQ(Sample(params, logits, history), want) << length;
    }
  }
}

TEST(SampleTokenTest, NoiseOfSomeIdsHasTheBitsOfTheKernel) {
  std::vector<float> all(5000), some;
  kernels::Kernels().gumbel(99, 7, 1, 2, 5000, all.data());
  const std::vector<int32_t> ids = {0, 1, 3, 4, 17, 18, 19, 20, 2047, 4999};
  GumbelFor(99, 7, 1, 2, ids, &some);
  for (size_t i = 0; i < ids.size(); ++i)
    EXPECT_EQ(some[i], all[static_cast<size_t>(ids[i])]) << ids[i];
}

TEST(SampleTokenTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f, 1.5f};
  SamplingParams params{.temperature = 0.8f, .top_k = 5};
  const auto p = Probabilities(params, {}, {}, logits);
  std::vector<double> count(logits.size());
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    params.seed = static_cast<uint64_t>(i);
    ++count[static_cast<size_t>(Sample(params, logits, {}))];
  }
  for (size_t v = 0; v < p.size(); ++v) {
    // 5 standard deviations of a binomial share.
    EXPECT_NEAR(count[v] / draws, p[v], 5 * std::sqrt(p[v] * (1 - p[v]) / draws) + 1e-12) << v;
  }
}

TEST(SampleTokenTest, SeedSampleIndexAndPositionEachChangeTheNoise) {
  const std::vector<float> flat(5000, 0.0f);
  const int32_t base = Sample({.seed = 1}, flat, {});
  EXPECT_EQ(Sample({.seed = 1}, flat, {}), base);
  EXPECT_NE(Sample({.seed = 2}, flat, {}), base);
  EXPECT_NE(Sample({.seed = 1 + (uint64_t{1} << 32)}, flat, {}), base);
  EXPECT_NE(Sample({.seed = 1, .sample_index = 1}, flat, {}), base);
  EXPECT_NE(Sample({.seed = 1}, flat, TokenHistory({}, std::vector<int32_t>{5})), base);
}

TEST(SampleTokenTest, PromptAndOutputTokensCountTheSameForThePosition) {
  // A resume may not move the noise: 3 + 2 tokens draw what 5 + 0 draw.
  const auto logits = RandomLogits(500, 1);
  TokenHistory a({}, std::vector<int32_t>{1, 2, 3}), b({}, std::vector<int32_t>{1, 2, 3, 4, 5});
  a.Append(4);
  a.Append(5);
  EXPECT_EQ(Sample({.seed = 5}, logits, a), Sample({.seed = 5}, logits, b));
}

TEST(SampleTokenTest, ATinyTemperatureIsGreedyAndAHugeOneIsFlat) {
  const auto logits = RandomLogits(300, 8);
  const int32_t best = Sample({.temperature = 0}, logits, {});
  EXPECT_EQ(Sample({.temperature = 1e-30f}, logits, {}), best);
  EXPECT_EQ(Sample({.temperature = 1e-44f}, logits, {}), best);  // overflows to infinity
  const auto p = Probabilities({.temperature = 1e6f}, {}, {}, logits);
  EXPECT_NEAR(*std::max_element(p.begin(), p.end()), 1.0 / 300, 1e-6);
}

TEST(SampleTokenTest, EndTokensAreMaskedUntilMinTokens) {
  const std::vector<float> logits = {9, 8, 7, 6};
  const std::vector<int32_t> eos = {0};
  SamplingParams params{.temperature = 0, .min_tokens = 2, .stop_ids = {1}};
  TokenHistory history(params, std::vector<int32_t>{3});
  EXPECT_EQ(Sample(params, logits, history, eos), 2);
  history.Append(2);
  EXPECT_EQ(Sample(params, logits, history, eos), 2);
  history.Append(2);
  EXPECT_EQ(Sample(params, logits, history, eos), 0);
  params.ignore_eos = true;
  EXPECT_EQ(Sample(params, logits, TokenHistory(params, std::vector<int32_t>{3}), eos), 0);
}

TEST(ProcessorsTest, NothingToDoMeansNoCopy) {
  const SamplingParams plain;
  EXPECT_FALSE(NeedsProcessing(plain, TokenHistory(plain, std::vector<int32_t>{1, 2})));
  const SamplingParams penalty{.presence_penalty = 0.5f};
  EXPECT_TRUE(NeedsProcessing(penalty, TokenHistory(penalty, std::vector<int32_t>{1, 2})));
}

TEST(ProcessorsTest, RepeatedNgramsAreBannedOverPromptAndOutput) {
  const SamplingParams params{.no_repeat_ngram_size = 3};
  TokenHistory history(params, std::vector<int32_t>{1, 2, 3, 1, 2, 4, 1});
  history.Append(2);
  std::vector<float> scores(6, 0.0f);
  ProcessScores(params, history, {}, scores);
  const float banned = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(scores, ElementsAre(0, 0, 0, banned, banned, 0));
}

TEST(ProcessorsTest, AnNgramSizeOfOneBansEveryTokenSeen) {
  const SamplingParams params{.no_repeat_ngram_size = 1};
  std::vector<float> scores(4, 0.0f);
  ProcessScores(params, TokenHistory(params, std::vector<int32_t>{1, 3}), {}, scores);
  const float banned = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(scores, ElementsAre(0, banned, 0, banned));
}

TEST(ProcessorsTest, RepetitionSeesThePromptAndPresenceDoesNot) {
  const SamplingParams params{
      .repetition_penalty = 2, .presence_penalty = 0.5f, .frequency_penalty = 0.25f};
  TokenHistory history(params, std::vector<int32_t>{0, 1});
  history.Append(2);
  history.Append(2);
  std::vector<float> scores = {4, -4, 4, 4};
  ProcessScores(params, history, {}, scores);
  EXPECT_THAT(scores, ElementsAre(2, -8, 2 - 0.5f - 0.5f, 4));
}

TEST(FilterTest, TopKKeepsTiesAtTheBorder) {
  const auto p = Probabilities({.top_k = 2}, {}, {}, std::vector<float>{1, 3, 2, 2, 0});
  EXPECT_EQ(p[0], 0);
  EXPECT_GT(p[2], 0);
  EXPECT_EQ(p[2], p[3]);
  EXPECT_EQ(p[4], 0);
}

TEST(FilterTest, TopPTakesTheLowerIdOfEqualOnes) {
  const auto p = Probabilities({.top_p = 0.5f}, {}, {}, std::vector<float>(8, 1.0f));
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(p[i], i < 4 ? 0.25 : 0.0) << i;
}

// The definition by a full sort, against the bucketed selection.
TEST(FilterTest, TopPEqualsItsDefinitionOnManyVectors) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    auto logits = RandomLogits(1 + seed * 37, seed, seed % 3 == 0 ? 0.05f : 12.0f);
    if (seed % 4 == 0) {  // many exact ties
      for (float& v : logits) v = std::floor(v);
    }
    for (float top_p : {0.01f, 0.3f, 0.9f, 0.999999f}) {
      const float max = *std::max_element(logits.begin(), logits.end());
      std::vector<float> w(logits.size());
      for (size_t i = 0; i < w.size(); ++i) w[i] = logits[i] - max;
      kernels::Kernels().exp(w.data(), static_cast<int64_t>(w.size()), w.data());
      std::vector<size_t> order(w.size());
      uint64_t total = 0;
      for (size_t i = 0; i < w.size(); ++i)
        order[i] = i, total += static_cast<uint64_t>(w[i] * 0x1p40f);
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return w[a] > w[b]; });
      std::vector<bool> kept(w.size());
      uint64_t sum = 0;
      for (size_t i : order) {
        if (static_cast<double>(sum) >= static_cast<double>(top_p) * static_cast<double>(total))
          break;
        kept[i] = true;
        sum += static_cast<uint64_t>(w[i] * 0x1p40f);
      }
      const auto p = Probabilities({.top_p = top_p}, {}, {}, logits);
      for (size_t i = 0; i < p.size(); ++i)
        ASSERT_EQ(p[i] > 0, kept[i]) << seed << " " << top_p << " " << i;
    }
  }
}

TEST(FilterTest, LargeAndSmallTopKAgreeWithASort) {
  for (int k : {1, 2, 50, 511, 512, 513, 900, 2000}) {
    const auto logits = RandomLogits(1000, static_cast<uint32_t>(k));
    auto sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const float border = k >= 1000 ? sorted.back() : sorted[static_cast<size_t>(k - 1)];
    const auto p = Probabilities({.top_k = k}, {}, {}, logits);
    for (size_t i = 0; i < p.size(); ++i) ASSERT_EQ(p[i] > 0, logits[i] >= border) << k;
  }
}

TEST(FilterTest, TypicalPKeepsTheLeastSurprisingUntilTheMassIsReached) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const auto logits = RandomLogits(3 + seed * 29, seed, 5.0f);
    for (float typical_p : {0.05f, 0.5f, 0.95f}) {
      // The definition in f64, by a full sort.
      double total = 0, entropy = 0;
      for (float x : logits) total += std::exp(static_cast<double>(x));
      std::vector<std::pair<double, size_t>> order;
      for (float x : logits)
        entropy -= std::exp(static_cast<double>(x)) / total * (x - std::log(total));
      for (size_t i = 0; i < logits.size(); ++i) {
        order.emplace_back(std::fabs(-(logits[i] - std::log(total)) - entropy), i);
      }
      std::sort(order.begin(), order.end());
      std::vector<bool> kept(logits.size());
      double mass = 0;
      for (const auto& [distance, i] : order) {
        if (mass >= static_cast<double>(typical_p)) break;
        kept[i] = true;
        mass += std::exp(static_cast<double>(logits[i])) / total;
      }
      const auto p = Probabilities({.typical_p = typical_p}, {}, {}, logits);
      for (size_t i = 0; i < p.size(); ++i)
        ASSERT_EQ(p[i] > 0, kept[i]) << seed << " " << typical_p << " " << i;
    }
  }
}

TEST(TopIndicesTest, BestFirstAndTiesToTheLowerIndex) {
  const std::vector<float> x = {1, 5, 3, 5, 3, 3, -INFINITY};
  EXPECT_THAT(TopIndices(x, 4), ElementsAre(1, 3, 2, 4));
  EXPECT_THAT(TopIndices(x, 99), ElementsAre(1, 3, 2, 4, 5, 0));
  EXPECT_THAT(TopIndices(x, 0), IsEmpty());
}

TEST(LogprobsTest, AreTheLogSoftmaxOfTheRawLogits) {
  const auto logits = RandomLogits(777, 5);
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x));
  const TokenLogprobs got = ComputeLogprobs(logits, 42, 3);
  EXPECT_NEAR(got.logprob, logits[42] - std::log(sum), 2e-6);  // a few ulp of numbers near 8
  ASSERT_THAT(got.top, SizeIs(3));
  const auto best = TopIndices(logits, 3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(got.top[i].first, best[i]);
    EXPECT_EQ(got.top[i].second, ComputeLogprobs(logits, best[i], 0).logprob);
  }
}

}  // namespace
}  // namespace tutti::sampling
