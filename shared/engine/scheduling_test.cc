// Who gets pages and rows, and who waits: prefixes that are shared, queues, priorities, chunks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/engine/testing_engine.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

using SchedulingTest = EngineTest;

TEST_F(SchedulingTest, AFullQueueRefuses) {
  Make({.num_pages = 64, .max_running = 2, .max_waiting = 1});
  for (SequenceId id : {1, 2, 3})
    ASSERT_TRUE(Submit(id, Prompt(20, static_cast<int32_t>(id)), kTen).ok());
  const absl::Status status = Submit(4, {5}, kTen);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  Step();
  EXPECT_EQ(Stats().num_running, 2);
  EXPECT_EQ(Stats().num_waiting, 1);
  RunAll();
  EXPECT_TRUE(Submit(4, {5}, kTen).ok());
}

TEST_F(SchedulingTest, ASecondRequestReadsThePrefixOfTheFirst) {
  Make({.num_pages = 64});
  ASSERT_TRUE(Submit(1, Prompt(40), kTen).ok());
  RunAll();
  const int64_t rows = model_->num_rows();
  ASSERT_TRUE(Submit(2, Prompt(40), kTen).ok());
  RunAll();
  EXPECT_EQ(results_[2].last.usage.cached_tokens, 32);
  EXPECT_EQ(model_->num_rows() - rows, 8 + 9);  // what is left of the prompt, and 9 more
  EXPECT_EQ(results_[1].tokens, results_[2].tokens);
  EXPECT_EQ(results_[1].last.digest, results_[2].last.digest);
  EXPECT_EQ(Stats().prefix_hit_tokens, 32u);
}

TEST_F(SchedulingTest, ACachedPrefixNeverHoldsTheLastPromptToken) {
  Make({.num_pages = 64});
  for (SequenceId id : {1, 2}) {
    ASSERT_TRUE(Submit(id, Prompt(32), kTen).ok());
    RunAll();
  }
  EXPECT_EQ(results_[2].last.usage.cached_tokens, 16);
  EXPECT_EQ(results_[1].last.digest, results_[2].last.digest);
}

TEST_F(SchedulingTest, AnswersAreAPrefixOfTheNextTurn) {
  Make({.num_pages = 64});
  ASSERT_TRUE(Submit(1, Prompt(30), {.max_tokens = 40, .ignore_eos = true}).ok());
  RunAll();
  std::vector<int32_t> turn = Prompt(30);
  turn.insert(turn.end(), results_[1].tokens.begin(), results_[1].tokens.end());
  turn.push_back(9);
  ASSERT_TRUE(Submit(2, turn, kTen).ok());
  RunAll();
  EXPECT_EQ(results_[2].last.usage.cached_tokens, 64);  // of 69 stored positions
}

TEST_F(SchedulingTest, SimultaneousSiblingsComputeTheirPromptOnce) {
  Make({.num_pages = 64, .max_batch_tokens = 64, .prefill_chunk_tokens = 16});
  sampling::SamplingParams params = kTen;
  for (uint32_t i = 0; i < 4; ++i) {
    params.sample_index = i;
    ASSERT_TRUE(Submit(1 + i, Prompt(100), params).ok());
  }
  RunAll();
  // 100 rows once, then 4 rows of the last partial page for the three others; 9 decodes each.
  EXPECT_EQ(model_->num_rows(), 100 + 3 * 4 + 4 * 9);
  EXPECT_NE(results_[1].tokens, results_[2].tokens);
}

TEST_F(SchedulingTest, TheQueueIsFirstInFirstOutWithinAPriority) {
  Make({.num_pages = 64, .max_running = 1});
  std::vector<SequenceId> order;
  ASSERT_TRUE(Submit(1, {5}, {.max_tokens = 1}, 0).ok());
  ASSERT_TRUE(Submit(2, {6}, {.max_tokens = 1}, 0).ok());
  ASSERT_TRUE(Submit(3, {7}, {.max_tokens = 1}, 5).ok());
  ASSERT_TRUE(Submit(4, {8}, {.max_tokens = 1}, 5).ok());
  while (engine_->HasWork()) {
    for (const auto& o : Step()) order.push_back(o.id);
  }
  EXPECT_THAT(order, ElementsAre(3, 4, 1, 2));
}

TEST_F(SchedulingTest, WhenPagesRunOutTheNewestIsComputedAgainWithTheSameResult) {
  for (bool cache : {false, true}) {
    Make({.num_pages = 64, .prefix_cache = cache});
    for (SequenceId id : {1, 2, 3}) {
      ASSERT_TRUE(
          Submit(id, Prompt(20, static_cast<int32_t>(id)), {.max_tokens = 60, .ignore_eos = true})
              .ok());
      RunAll();
    }
    const auto alone = results_;
    results_.clear();
    Make({.num_pages = 8, .prefix_cache = cache});
    for (SequenceId id : {1, 2, 3}) {
      ASSERT_TRUE(
          Submit(id, Prompt(20, static_cast<int32_t>(id)), {.max_tokens = 60, .ignore_eos = true})
              .ok());
    }
    RunAll();
    EXPECT_GT(Stats().preemptions, 0u);
    EXPECT_EQ(results_[1].last.usage.preemptions, 0);
    EXPECT_GT(results_[3].last.usage.preemptions, 0);
    for (const auto& [id, result] : alone) {
      EXPECT_EQ(results_[id].tokens, result.tokens);
      EXPECT_EQ(results_[id].last.digest, result.last.digest);
    }
    results_.clear();
  }
}

TEST_F(SchedulingTest, AClientWithManyRequestsDoesNotMakeAnotherOneWait) {
  Make({.num_pages = 64, .max_running = 1, .prefix_cache = false});
  const auto submit = [&](SequenceId id, uint64_t client) {
    ASSERT_TRUE(
        engine_->Submit({.id = id, .prompt = Prompt(20), .params = kTen, .client = client}, now_)
            .ok());
  };
  // Given a client with twenty requests, one of which is running,
  for (SequenceId id = 1; id <= 20; ++id) submit(id, 7);
  Step();
  // when two others come with three each,
  for (SequenceId id = 101; id <= 103; ++id) submit(id, 8);
  for (SequenceId id = 201; id <= 203; ++id) submit(id, 9);
  std::vector<SequenceId> ended;
  while (engine_->HasWork()) {
    for (const auto& o : Step()) {
      if (o.finish != FinishReason::kNone) ended.push_back(o.id);
    }
  }
  // then all have their turns, each client its own requests in order.
  ended.resize(10);
  EXPECT_THAT(ended, ElementsAre(1, 101, 201, 2, 102, 202, 3, 103, 203, 4));
}

TEST_F(SchedulingTest, AHigherPriorityTakesThePagesOfALowerOne) {
  Make({.num_pages = 8, .prefix_cache = false});
  ASSERT_TRUE(Submit(1, Prompt(60), {.max_tokens = 60, .ignore_eos = true}, 0).ok());
  Step();
  ASSERT_TRUE(Submit(2, Prompt(90, 1), kTen, 1).ok());
  Step();
  EXPECT_THAT(results_[2].tokens, SizeIs(1));
  EXPECT_EQ(Stats().num_running, 1);
  EXPECT_EQ(Stats().num_waiting, 1);
  RunAll();
  EXPECT_EQ(results_[1].last.usage.preemptions, 1);
  EXPECT_THAT(results_[1].tokens, SizeIs(60));
}

TEST_F(SchedulingTest, DecodingGoesOnWhileALongPromptIsPrefilled) {
  Make({.num_pages = 64, .max_batch_tokens = 20, .prefill_chunk_tokens = 16});
  ASSERT_TRUE(Submit(1, Prompt(4), {.max_tokens = 100, .ignore_eos = true}).ok());
  Step();
  ASSERT_TRUE(Submit(2, Prompt(200, 1), kTen).ok());
  for (int i = 0; i < 10; ++i) {
    const auto out = Step();
    ASSERT_THAT(out, SizeIs(1));
    EXPECT_EQ(out[0].id, 1u);
  }
  RunAll();
  EXPECT_THAT(results_[2].tokens, SizeIs(10));
}

TEST_F(SchedulingTest, MoreDecodingRowsThanAStepMayHaveTakeTurns) {
  Make({.num_pages = 128, .max_batch_tokens = 5});
  const sampling::SamplingParams beams{
      .temperature = 0, .max_tokens = 30, .ignore_eos = true, .num_beams = 4};
  for (SequenceId id = 1; id <= 3; ++id) {
    ASSERT_TRUE(Submit(id, {static_cast<int32_t>(5 + id)}, beams).ok());
  }
  ASSERT_TRUE(Submit(4, {4}, {.max_tokens = 30, .ignore_eos = true}).ok());
  std::map<SequenceId, int> end;
  for (int step = 1; step < 200 && engine_->HasWork(); ++step) {
    for (const auto& o : Step()) {
      if (o.finish != FinishReason::kNone) end[o.id] = step;
    }
  }
  // 30 steps each; at most one of the three searches and the single one fit a step.
  for (SequenceId id : {1, 2, 3, 4}) {
    EXPECT_GE(end[id], 30) << id;
    EXPECT_LE(end[id], 110) << id;
  }
  EXPECT_LE(std::max({end[1], end[2], end[3]}) - std::min({end[1], end[2], end[3]}), 8);
}

}  // namespace
}  // namespace tutti::engine
