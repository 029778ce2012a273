#include "shared/speculation/ngram_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace tutti::speculation {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

NgramMatch FindIn(const std::vector<int32_t>& tokens) {
  NgramIndex index;
  index.Extend(tokens);
  std::vector<int64_t> nexts;
  return index.Find(tokens, &nexts);
}

TEST(NgramIndexTest, FindsWhatFollowedTheSameTokens) {
  const NgramMatch match = FindIn({9, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4});
  EXPECT_EQ(match.length, 4);
  EXPECT_EQ(match.next, 5);
}

TEST(NgramIndexTest, ALongerMatchIsBetterThanALaterOne) {
  // "2 3 4 5" occurred as part of "1 2 3 4 5" first, and later after another token.
  const NgramMatch match = FindIn({1, 2, 3, 4, 5, 70, 8, 2, 3, 4, 5, 80, 1, 2, 3, 4, 5});
  EXPECT_EQ(match.length, 5);
  EXPECT_EQ(match.next, 5);
}

TEST(NgramIndexTest, OfEqualMatchesTheLaterOneCounts) {
  EXPECT_EQ(FindIn({1, 2, 70, 1, 2, 80, 1, 2}).next, 5);
}

TEST(NgramIndexTest, OneTokenIsAMatchAndNoneIsNone) {
  EXPECT_EQ(FindIn({1, 2, 1, 4, 1}).length, 1);
  EXPECT_EQ(FindIn({1, 2, 1, 4, 1}).next, 3);
  EXPECT_EQ(FindIn({1, 2, 3, 4, 5}).length, 0);
  EXPECT_EQ(FindIn({}).length, 0);
  EXPECT_EQ(FindIn({5}).length, 0);
}

TEST(NgramIndexTest, ALoopGoesOnInTheContinuation) {
  const std::vector<int32_t> tokens = {7, 1, 2, 3, 1, 2, 3, 1, 2, 3};
  const NgramMatch match = FindIn(tokens);
  EXPECT_EQ(match.length, 6);
  std::vector<int32_t> out;
  Continue(tokens, match.next, 7, &out);
  EXPECT_THAT(out, ElementsAre(1, 2, 3, 1, 2, 3, 1));
  Continue(tokens, 10, 7, &out);
  EXPECT_THAT(out, IsEmpty());
}

TEST(NgramIndexTest, PlacesThatGoOnOtherwiseContestADraft) {
  //                                   5  after 1 2      7       8
  const std::vector<int32_t> tokens = {1, 2, 5, 6, 7, 1, 2, 5, 6, 8, 3, 1, 2, 4, 1, 2};
  NgramIndex index;
  index.Extend(tokens);
  std::vector<int64_t> nexts;
  const NgramMatch match = index.Find(tokens, &nexts);
  EXPECT_EQ(match.next, 13);  // the latest
  EXPECT_THAT(nexts, ElementsAre(13, 7, 2));
  // The draft "5 6 8 3": "4" came after "1 2", too; nobody says other than "6"; then "7" was said.
  const std::vector<int32_t> draft = {5, 6, 8, 3};
  EXPECT_TRUE(IsContested(tokens, draft, 0, &nexts));
  EXPECT_THAT(nexts, ElementsAre(7, 2));
  EXPECT_FALSE(IsContested(tokens, draft, 1, &nexts));
  EXPECT_TRUE(IsContested(tokens, draft, 2, &nexts));
  EXPECT_FALSE(IsContested(tokens, draft, 3, &nexts));
}

TEST(NgramIndexTest, ALoopDoesNotContestItself) {
  const std::vector<int32_t> tokens = {7, 1, 2, 3, 1, 2, 3, 1, 2, 3};
  NgramIndex index;
  index.Extend(tokens);
  std::vector<int64_t> nexts;
  const NgramMatch match = index.Find(tokens, &nexts);
  std::vector<int32_t> draft;
  Continue(tokens, match.next, 9, &draft);
  for (size_t i = 0; i < draft.size(); ++i) EXPECT_FALSE(IsContested(tokens, draft, i, &nexts));
}

// The longest earlier occurrence of the end, by trying every place.
NgramMatch Reference(const std::vector<int32_t>& tokens) {
  NgramMatch best;
  const int64_t n = static_cast<int64_t>(tokens.size());
  for (int64_t end = n - 1; end > 0; --end) {
    int32_t length = 0;
    while (length < kMaxMatch && length < end &&
           tokens[static_cast<size_t>(end - 1 - length)] ==
               tokens[static_cast<size_t>(n - 1 - length)]) {
      ++length;
    }
    if (length >= 1 && length > best.length) best = {length, end};
  }
  return best;
}

TEST(NgramIndexTest, TokenByTokenItFindsWhatASearchOfEverythingFinds) {
  std::mt19937 random(3);
  int found = 0;
  std::vector<int64_t> nexts;
  for (int round = 0; round < 20; ++round) {
    NgramIndex index;
    std::vector<int32_t> tokens;
    for (int i = 0; i < 400; ++i) {
      // Mostly new tokens, and copies of what was there: no more places than a walk looks at.
      if (tokens.size() > 40 && random() % 30 == 0) {
        const size_t from = random() % (tokens.size() - 20);
        for (size_t k = 0; k < 12; ++k) tokens.push_back(tokens[from + k]);
      } else {
        tokens.push_back(static_cast<int32_t>(random() % 3000));
      }
      index.Extend(tokens);
      const NgramMatch got = index.Find(tokens, &nexts), want = Reference(tokens);
      ASSERT_EQ(got.length, want.length) << round << " " << i;
      ASSERT_EQ(got.next, want.next);
      found += got.length > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(found, 100);
}

TEST(NgramIndexTest, WithinAFewPlacesTheLongestMatchCountsAndThenTheEarliest) {
  //                                  1  2  3  4  5  6  7  8  9 10
  const std::vector<int32_t> tokens = {7, 1, 7, 2, 9, 1, 7, 4, 1, 7};
  EXPECT_EQ(FindWithin(tokens, -5, 100).next, 3);  // 1 7, as at 7
  EXPECT_EQ(FindWithin(tokens, -5, 100).length, 2);
  EXPECT_EQ(FindWithin(tokens, 4, 100).next, 7);
  EXPECT_EQ(FindWithin(tokens, 1, 3).next, 1);
  EXPECT_EQ(FindWithin(tokens, 1, 3).length, 1);
  EXPECT_EQ(FindWithin(tokens, 4, 7).length, 0);    // before 7, not with it
  EXPECT_EQ(FindWithin(tokens, 8, 100).length, 0);  // nor the end itself
}

}  // namespace
}  // namespace tutti::speculation
