#include "shared/speculation/recent_outputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace tutti::speculation {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int32_t> Count(int32_t from, int32_t n) {
  std::vector<int32_t> v;
  for (int32_t i = 0; i < n; ++i) v.push_back(from + i);
  return v;
}

std::vector<int32_t> After(const RecentOutputs& recent, const std::vector<int32_t>& tokens, int n) {
  std::vector<int32_t> out;
  const NgramMatch match = recent.Find(tokens);
  if (match.length > 0) recent.Continue(match.next, n, &out);
  return out;
}

TEST(RecentOutputsTest, TellsWhatFollowedInAnotherOutput) {
  RecentOutputs recent(100);
  recent.Add(Count(10, 20));
  const std::vector<int32_t> tokens = {99, 15, 16, 17, 18};
  EXPECT_EQ(recent.Find(tokens).length, 4);
  EXPECT_THAT(After(recent, tokens, 3), ElementsAre(19, 20, 21));
}

TEST(RecentOutputsTest, OneOutputDoesNotGoOnInTheNext) {
  RecentOutputs recent(100);
  recent.Add(Count(10, 10));
  recent.Add(Count(50, 10));
  EXPECT_THAT(After(recent, {14, 15, 16, 17}, 9), ElementsAre(18, 19));
  EXPECT_THAT(After(recent, {16, 17, 18, 19}, 9), IsEmpty());
  EXPECT_EQ(recent.Find(std::vector<int32_t>{18, 19, 50, 51}).length, 0);
}

TEST(RecentOutputsTest, TheOldestAreForgotten) {
  RecentOutputs recent(32);
  recent.Add(Count(10, 20));
  recent.Add(Count(50, 20));
  EXPECT_EQ(recent.Find(Count(10, 6)).length, 0);
  EXPECT_THAT(After(recent, Count(50, 6), 2), ElementsAre(56, 57));
}

TEST(RecentOutputsTest, WithoutCapacityNothingIsKept) {
  RecentOutputs recent(0);
  recent.Add(Count(10, 20));
  EXPECT_EQ(recent.Find(Count(10, 6)).length, 0);
}

TEST(RecentOutputsTest, WhatItTellsWasSaidWhateverWasOverwritten) {
  std::mt19937 random(5);
  for (const size_t capacity : {1, 5, 6, 17, 64, 256}) {
    RecentOutputs recent(capacity);
    std::vector<int32_t> all;
    for (int round = 0; round < 300; ++round) {
      std::vector<int32_t> output;
      for (size_t i = 0, n = random() % 40; i < n; ++i)
        output.push_back(static_cast<int32_t>(random() % 3));
      recent.Add(output);
      if (output.size() <= 4) continue;
      all.insert(all.end(), output.begin(), output.end());
      all.push_back(-1);
      std::vector<int32_t> tail;
      for (size_t i = 0, n = 4 + random() % 9; i < n; ++i)
        tail.push_back(static_cast<int32_t>(random() % 3));
      const NgramMatch match = recent.Find(tail);
      if (match.length == 0) continue;
      const std::vector<int32_t> next = After(recent, tail, 5);
      std::vector<int32_t> said(tail.end() - std::min<ptrdiff_t>(match.length, std::ssize(tail)),
                                tail.end());
      said.insert(said.end(), next.begin(), next.end());
      EXPECT_NE(std::search(all.begin(), all.end(), said.begin(), said.end()), all.end());
    }
  }
}

}  // namespace
}  // namespace tutti::speculation
