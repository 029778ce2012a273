#include "shared/sampling/beam_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "shared/base/hash.h"

namespace tutti::sampling {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int kVocab = 7;

// Logits as a function of the tokens so far.
std::vector<float> LogitsAfter(std::span<const int32_t> tokens) {
  std::vector<float> logits(kVocab);
  for (uint64_t v = 0; v < kVocab; ++v) {
    logits[v] = static_cast<float>(Hash64(tokens.data(), tokens.size_bytes(), v) >> 40) *
                0x1p-22f;  // [0, 4)
  }
  return logits;
}

std::vector<Hypothesis> Search(SamplingParams params, const std::vector<int32_t>& eos,
                               int32_t max_tokens, const std::vector<int32_t>& prompt = {1, 2}) {
  params.temperature = 0;
  BeamSearch search(params, eos, max_tokens, prompt);
  EXPECT_EQ(search.num_running(), 1u);
  for (int step = 0; !search.done(); ++step) {
    EXPECT_LT(step, max_tokens);
    std::vector<float> logits;
    std::vector<std::vector<int32_t>> before;
    for (size_t b = 0; b < search.num_running(); ++b) {
      before.emplace_back(search.tokens(b).begin(), search.tokens(b).end());
      const auto row = LogitsAfter(search.tokens(b));
      logits.insert(logits.end(), row.begin(), row.end());
    }
    const auto parents = search.Step(logits);
    if (search.done()) {
      EXPECT_THAT(parents, IsEmpty());
      break;
    }
    EXPECT_EQ(parents.size(), search.num_running());
    for (size_t b = 0; b < parents.size(); ++b) {  // a beam continues the one it says it continues
      auto tokens = search.tokens(b);
      EXPECT_THAT(tokens.first(tokens.size() - 1),
                  ElementsAreArray(before[static_cast<size_t>(parents[b])]));
    }
  }
  return search.Best();
}

// ln softmax, in f64.
double LogProb(std::span<const int32_t> tokens, int32_t next) {
  const auto logits = LogitsAfter(tokens);
  double sum = 0;
  for (float x : logits) sum += std::exp(static_cast<double>(x));
  return logits[static_cast<size_t>(next)] - std::log(sum);
}

// Every sequence of `length` tokens with its score, best first.
std::vector<std::pair<double, std::vector<int32_t>>> Exhaustive(int length, double length_penalty) {
  std::vector<std::pair<double, std::vector<int32_t>>> all = {{0.0, {1, 2}}};
  for (int i = 0; i < length; ++i) {
    std::vector<std::pair<double, std::vector<int32_t>>> next;
    for (const auto& [sum, tokens] : all) {
      for (int32_t v = 0; v < kVocab; ++v) {
        auto longer = tokens;
        longer.push_back(v);
        next.emplace_back(sum + LogProb(tokens, v), std::move(longer));
      }
    }
    all = std::move(next);
  }
  for (auto& [sum, tokens] : all) {
    sum /= std::pow(length, length_penalty);
    tokens.erase(tokens.begin(), tokens.begin() + 2);
  }
  std::sort(all.begin(), all.end(), std::greater<>());
  return all;
}

TEST(BeamSearchTest, AsManyBeamsAsSequencesFindTheBestOnesOfAll) {
  const auto want = Exhaustive(3, 1.5);
  const auto got = Search({.num_beams = 49, .num_return = 5, .length_penalty = 1.5f}, {}, 3);
  ASSERT_THAT(got, SizeIs(5));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(got[i].token_ids, want[i].second);
    EXPECT_NEAR(got[i].score, want[i].first, 1e-5);  // three f32 sums near 6
  }
}

TEST(BeamSearchTest, AnEndTokenClosesAHypothesisAndStaysInIt) {
  for (const Hypothesis& h : Search({.num_beams = 3, .num_return = 3}, {4}, 12)) {
    const auto end = std::find(h.token_ids.begin(), h.token_ids.end(), 4);
    EXPECT_TRUE(end == h.token_ids.end() || end + 1 == h.token_ids.end());
    EXPECT_TRUE(end != h.token_ids.end() || h.token_ids.size() == 12);
    // The score is that of the tokens.
    std::vector<int32_t> tokens = {1, 2};
    double sum = 0;
    for (int32_t token : h.token_ids) {
      sum += LogProb(tokens, token);
      tokens.push_back(token);
    }
    EXPECT_NEAR(h.score, sum / static_cast<double>(h.token_ids.size()), 1e-5);
  }
}

TEST(BeamSearchTest, StopIdsEndHypothesesAndIgnoreEosLetsTheModelsPass) {
  for (const Hypothesis& h :
       Search({.ignore_eos = true, .stop_ids = {3}, .num_beams = 3, .num_return = 3}, {4}, 10)) {
    const auto end = std::find(h.token_ids.begin(), h.token_ids.end(), 3);
    EXPECT_TRUE(end == h.token_ids.end() || end + 1 == h.token_ids.end());
  }
  for (const Hypothesis& h :
       Search({.ignore_eos = true, .num_beams = 2}, {0, 1, 2, 3, 4, 5, 6}, 6)) {
    EXPECT_THAT(h.token_ids, SizeIs(6));
  }
}

TEST(BeamSearchTest, EarlyStoppingEndsWithTheFirstFullSetAndIsNeverLonger) {
  SamplingParams params{.num_beams = 3, .num_return = 3, .length_penalty = 3.0f};
  const auto patient = Search(params, {4, 5}, 20);
  params.early_stopping = true;
  const auto early = Search(params, {4, 5}, 20);
  size_t longest_early = 0, longest_patient = 0;
  for (const auto& h : early) longest_early = std::max(longest_early, h.token_ids.size());
  for (const auto& h : patient) longest_patient = std::max(longest_patient, h.token_ids.size());
  EXPECT_LE(longest_early, longest_patient);
  EXPECT_GE(patient[0].score, early[0].score);
}

TEST(BeamSearchTest, MinTokensKeepsTheEndAway) {
  for (const Hypothesis& h :
       Search({.min_tokens = 6, .num_beams = 3, .num_return = 3}, {4, 5, 6}, 9)) {
    EXPECT_GE(h.token_ids.size(), 7u);
  }
}

TEST(BeamSearchTest, NoNgramComesTwiceInAnyBeam) {
  for (const Hypothesis& h :
       Search({.no_repeat_ngram_size = 2, .num_beams = 4, .num_return = 4}, {}, 16)) {
    std::vector<int32_t> tokens = {1, 2};
    tokens.insert(tokens.end(), h.token_ids.begin(), h.token_ids.end());
    std::map<std::pair<int32_t, int32_t>, int> count;
    for (size_t i = 0; i + 1 < tokens.size(); ++i)
      EXPECT_EQ(++count[std::make_pair(tokens[i], tokens[i + 1])], 1);
  }
}

TEST(BeamSearchTest, WhenEveryContinuationIsBannedTheSearchEnds) {
  // Bigrams of 7 tokens run out before 60; what is done by then is returned, and nothing hangs.
  BeamSearch search({.temperature = 0, .no_repeat_ngram_size = 1, .num_beams = 2, .num_return = 2},
                    {}, 60, std::vector<int32_t>{1, 2});
  for (int step = 0; !search.done(); ++step) {
    ASSERT_LT(step, 60);
    std::vector<float> logits;
    for (size_t b = 0; b < search.num_running(); ++b) {
      const auto row = LogitsAfter(search.tokens(b));
      logits.insert(logits.end(), row.begin(), row.end());
    }
    search.Step(logits);
  }
  ASSERT_THAT(search.Best(), SizeIs(2));
  EXPECT_THAT(search.Best()[0].token_ids, SizeIs(5));  // each of the other five once
}

}  // namespace
}  // namespace tutti::sampling
