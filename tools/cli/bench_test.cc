#include "tools/cli/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace tutti::cli {
namespace {

TEST(BenchTest, PercentilesAreNearestRanks) {
  std::vector<double> v;
  for (int i = 100; i >= 1; --i) v.push_back(i);
  const Percentiles p = Summarise(v);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p95, 95);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(p.max, 100);
  EXPECT_EQ(p.mean, 50.5);
  EXPECT_EQ(Summarise({7}).p50, 7);
  EXPECT_EQ(Summarise({7}).p99, 7);
  EXPECT_EQ(Summarise({}).max, 0);
}

TEST(BenchTest, PromptsRepeatWithTheSeedAndDifferBetweenRequests) {
  BenchOptions o;
  o.prompt_words = 16;
  std::set<std::string> prompts;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(BenchPrompt(o, i), BenchPrompt(o, i));
    prompts.insert(BenchPrompt(o, i));
  }
  EXPECT_EQ(prompts.size(), 50u);
  BenchOptions other = o;
  other.seed = 2;
  EXPECT_NE(BenchPrompt(o, 0), BenchPrompt(other, 0));
  // With a shared prefix the first half is the same, the second is not.
  o.shared_prefix = true;
  const std::string a = BenchPrompt(o, 0), b = BenchPrompt(o, 1);
  size_t common = 0, words = 0;
  while (a[common] == b[common]) words += a[common++] == ' ' ? 1 : 0;
  EXPECT_GE(words, 8u);
  EXPECT_NE(a, b);
}

TEST(BenchTest, NobodyThereIsAnErrorAndNotAHang) {
  BenchOptions o;
  std::atomic<bool> stop{false};
  for (const char* address : {"127.0.0.1:1", "http://127.0.0.1:1", "https://127.0.0.1:1"}) {
    o.endpoint = *ParseEndpoint(address, {});
    const auto r = RunBench(
        o, [](int) {}, stop);
    EXPECT_EQ(r.status().code(), absl::StatusCode::kUnavailable) << address << " " << r.status();
  }
}

TEST(BenchTest, LatenciesAreOfTokensNotOfMessages) {
  RequestFigures f;
  f.arrivals = {{1.0, 1}, {1.5, 1}, {2.1, 3}};
  f.output_tokens = 5;
  const std::vector<double> gaps = TokenGaps(f);
  ASSERT_EQ(gaps.size(), 4u);
  EXPECT_DOUBLE_EQ(gaps[0], 0.5);
  for (int i = 1; i < 4; ++i) EXPECT_NEAR(gaps[i], 0.2, 1e-12);
  // A server that does not count: the mean, once for each token after the first.
  f.arrivals = {{1.0, 0}, {1.5, 0}, {3.0, 0}};
  EXPECT_EQ(TokenGaps(f), std::vector<double>(4, 0.5));
  f.arrivals.resize(1);
  EXPECT_TRUE(TokenGaps(f).empty());
}

TEST(BenchTest, TheTemperatureHasTheRangeThatAllSurfacesHave) {
  BenchOptions o;
  o.temperature = 1e6;
  EXPECT_TRUE(o.Validate().ok());
  o.temperature = 2e6;
  EXPECT_THAT(std::string(o.Validate().message()), ::testing::HasSubstr("in [0, 1e+06]"));
}

}  // namespace
}  // namespace tutti::cli
