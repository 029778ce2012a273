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
  for (const char* address : {"127.0.0.1:1", "http://127.0.0.1:1"}) {
    o.address = address;
    const auto r = RunBench(
        o, [](int) {}, stop);
    EXPECT_EQ(r.status().code(), absl::StatusCode::kUnavailable) << r.status();
  }
  o.address = "https://127.0.0.1:1";
  EXPECT_EQ(RunBench(
                o, [](int) {}, stop)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti::cli
