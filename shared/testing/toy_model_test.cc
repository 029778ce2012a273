#include "shared/testing/toy_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti::testing {
namespace {

using kv_cache::PageId;
using kv_cache::PagePool;

const std::vector<int32_t> kTokens = {5,  9,  2, 5, 40, 7, 7,  7, 3, 12,
                                      33, 60, 5, 9, 2,  5, 40, 8, 21};

// Last row's logits after running kTokens in slices of `chunk` over `pages`.
std::vector<float> RunInChunks(ToyModel& model, PagePool& pool, const std::vector<PageId>& pages,
                               size_t chunk, const std::vector<int32_t>& tokens = kTokens) {
  model::StepOutput out;
  for (size_t first = 0; first < tokens.size(); first += chunk) {
    const size_t n = std::min(chunk, tokens.size() - first);
    const model::SequenceSlice slice = {.tokens = std::span(tokens).subspan(first, n),
                                        .first_pos = static_cast<int32_t>(first),
                                        .pages = pages,
                                        .num_logits = 1};
    EXPECT_TRUE(model.Forward({&slice, 1}, pool, &out).ok());
    EXPECT_TRUE(out.slice_status[0].ok());
  }
  return out.logits;
}

class ToyModelTest : public ::testing::Test {
 protected:
  ToyModel model_;
  PagePool pool_{model_.info().kv, 8};
  std::vector<PageId> pages_ = {pool_.Allocate().value(), pool_.Allocate().value()};
};

TEST_F(ToyModelTest, LogitsDoNotDependOnTheCut) {
  const auto whole = RunInChunks(model_, pool_, pages_, 99);
  ASSERT_EQ(whole.size(), 64u);
  for (size_t chunk : {1, 7, 16}) EXPECT_EQ(RunInChunks(model_, pool_, pages_, chunk), whole);
  const std::vector<PageId> reversed = {pages_[1], pages_[0]};
  EXPECT_EQ(RunInChunks(model_, pool_, reversed, 5), whole);
}

TEST_F(ToyModelTest, EveryTokenPositionAndPageShowsInTheLogits) {
  const auto want = RunInChunks(model_, pool_, pages_, 99);
  for (size_t i = 0; i < kTokens.size(); ++i) {
    auto tokens = kTokens;
    tokens[i] ^= 1;
    EXPECT_NE(RunInChunks(model_, pool_, pages_, 99, tokens), want) << i;
  }
  // The last row alone, over pages whose content belongs to somebody else.
  model::StepOutput out;
  const std::vector<PageId> other = {pool_.Allocate().value(), pages_[1]};
  const model::SequenceSlice slice = {
      .tokens = std::span(kTokens).last(1), .first_pos = 18, .pages = other, .num_logits = 1};
  ASSERT_TRUE(model_.Forward({&slice, 1}, pool_, &out).ok());
  EXPECT_NE(out.logits, want);
}

TEST_F(ToyModelTest, OneFlippedWeightBitShows) {
  const auto want = RunInChunks(model_, pool_, pages_, 99);
  model_.FlipWeightBit(17, 8);  // (bit 0 can vanish in the rounding of one position)
  EXPECT_NE(RunInChunks(model_, pool_, pages_, 99), want);
}

TEST_F(ToyModelTest, WritingToASharedPageIsRefused) {
  pool_.Ref(pages_[1]);
  model::StepOutput out;
  const model::SequenceSlice first = {
      .tokens = std::span(kTokens).first(16), .first_pos = 0, .pages = pages_};
  EXPECT_TRUE(model_.Forward({&first, 1}, pool_, &out).ok());
  const model::SequenceSlice all = {.tokens = kTokens, .first_pos = 0, .pages = pages_};
  EXPECT_TRUE(absl::IsInvalidArgument(model_.Forward({&all, 1}, pool_, &out)));
}

TEST_F(ToyModelTest, AFaultTokenFailsItsSliceAlone) {
  ToyModel model({.fault_token = 33});
  model::StepOutput out;
  const std::vector<PageId> other = {pool_.Allocate().value()};
  const model::SequenceSlice slices[] = {
      {.tokens = kTokens, .first_pos = 0, .pages = pages_, .num_logits = 1},
      {.tokens = std::span(kTokens).first(5), .first_pos = 0, .pages = other, .num_logits = 1}};
  ASSERT_TRUE(model.Forward(slices, pool_, &out).ok());
  EXPECT_EQ(ReasonOf(out.slice_status[0]), "NUMERIC_FAULT");
  EXPECT_TRUE(out.slice_status[1].ok());
}

}  // namespace
}  // namespace tutti::testing
