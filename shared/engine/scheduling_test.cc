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

// One request with many choices, and a small one beside it. Given: a full house.
class PlacesTest : public EngineTest {
 protected:
  void SubmitOf(SequenceId id, uint64_t client, uint64_t group, int max_tokens,
                int32_t priority = 0) {
    sampling::SamplingParams params = kTen;
    params.max_tokens = max_tokens;
    params.sample_index = static_cast<uint32_t>(id);
    ASSERT_TRUE(engine_
                    ->Submit({.id = id,
                              .prompt = Prompt(20),
                              .params = params,
                              .priority = priority,
                              .client = client,
                              .group = group},
                             now_)
                    .ok());
  }
  int StepsUntilEnd(SequenceId id) {
    for (int steps = 1; steps < 1000; ++steps) {
      Step();
      if (results_[id].finished) return steps;
    }
    return 1000;
  }
};

TEST_F(PlacesTest, TheChoicesOfOneRequestGiveWayToAnotherRequest) {
  for (const uint64_t client : {0, 7}) {  // the same client, and another
    results_.clear();
    Make({.num_pages = 256, .max_running = 8});
    for (SequenceId id = 1; id <= 32; ++id) SubmitOf(id, 0, 5, 60);
    for (int i = 0; i < 10; ++i) Step();
    ASSERT_EQ(Stats().num_running, 8);
    SubmitOf(100, client, 6, 2);
    EXPECT_LE(StepsUntilEnd(100), 3) << "client " << client;
    RunAll();
    EXPECT_EQ(Stats().preemptions, 1u);
    const Result probe = results_[100], choice = results_[8];
    // What gave way is the same as when nobody disturbs it.
    Make({.num_pages = 256});
    results_.clear();
    SubmitOf(8, 0, 5, 60);
    RunAll();
    EXPECT_EQ(results_[8].tokens, choice.tokens);
    EXPECT_EQ(results_[8].last.digest, choice.last.digest);
  }
}

TEST_F(PlacesTest, SoItIsWhenPagesAreShort) {
  Make({.num_pages = 24, .max_running = 64, .prefix_cache = false});
  for (SequenceId id = 1; id <= 32; ++id) SubmitOf(id, 1, 5, 60);
  for (int i = 0; i < 10; ++i) Step();
  ASSERT_LT(Stats().num_running, 32);
  SubmitOf(100, 2, 6, 2);
  EXPECT_LE(StepsUntilEnd(100), 4);
  RunAll();
  EXPECT_EQ(results_.size(), 33u);
}

TEST_F(PlacesTest, ManyRequestsOfOneClientGiveWayToAnotherClientButNotToTheirOwn) {
  Make({.num_pages = 256, .max_running = 6});
  for (SequenceId id = 1; id <= 20; ++id) SubmitOf(id, 1, id, 40);
  for (int i = 0; i < 5; ++i) Step();
  SubmitOf(100, 1, 100, 2);
  Step();
  EXPECT_EQ(Stats().preemptions, 0u) << "a client's requests are equal: first come, first served";
  SubmitOf(200, 2, 200, 2);
  EXPECT_LE(StepsUntilEnd(200), 3);
  EXPECT_FALSE(results_[100].finished);
  RunAll();
}

TEST_F(PlacesTest, AHigherPriorityKeepsAllItsPlaces) {
  Make({.num_pages = 256, .max_running = 4});
  for (SequenceId id = 1; id <= 8; ++id) SubmitOf(id, 1, 5, 20, 3);
  Step();
  SubmitOf(100, 2, 6, 2);
  for (int i = 0; i < 10; ++i) Step();
  EXPECT_TRUE(results_[100].tokens.empty());
  RunAll();
  EXPECT_EQ(Stats().preemptions, 0u);
}

// Two that want all places end with half each, and change no more.
TEST_F(PlacesTest, SharesBecomeEvenAndStaySo) {
  Make({.num_pages = 400, .max_running = 8});
  for (SequenceId id = 1; id <= 8; ++id) SubmitOf(id, 1, 5, 100);
  for (int i = 0; i < 3; ++i) Step();
  ASSERT_EQ(Stats().num_running, 8);
  for (SequenceId id = 101; id <= 108; ++id) SubmitOf(id, 2, 6, 100);
  for (int i = 0; i < 30; ++i) Step();
  EXPECT_EQ(Stats().num_running, 8);
  EXPECT_EQ(Stats().preemptions, 4u);
  for (int i = 0; i < 30; ++i) Step();
  EXPECT_EQ(Stats().preemptions, 4u);
  RunAll();
}

// 4 places, each sequence holds its one for 10 steps of 1 ms: a place every 2.5 ms.
class QueueTest : public EngineTest {
 protected:
  absl::Status SubmitAt(SequenceId id, uint64_t group) {
    return engine_->Submit(
        {.id = id, .prompt = Prompt(5), .params = kTen, .client = group, .group = group}, now_us_);
  }
  void StepMs() {
    for (const auto& o : engine_->Step(now_us_)) {
      if (o.finish != FinishReason::kNone) ended_[o.id] = o.status;
    }
    now_us_ += 1000;
  }
  int64_t now_us_ = 1'000'000'000;
  std::map<SequenceId, absl::Status> ended_;
};

TEST_F(QueueTest, ASequenceThatWouldWaitTooLongIsRefusedAtOnceAndToldWhenToComeAgain) {
  Make({.num_pages = 256, .max_running = 4, .max_waiting = 1000, .start_within_us = 50'000});
  SequenceId id = 0;
  absl::Status refusal;
  // Given a queue that moves, whose rate is known after a while,
  for (int i = 0; i < 60; ++i) {
    (void)SubmitAt(++id, id);
    StepMs();
  }
  // then it is never longer than what can be started in time.
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    const absl::Status s = SubmitAt(++id, id);
    if (!s.ok()) {
      ++refused;
      refusal = s;
    }
    StepMs();
    EXPECT_LE(Stats().num_waiting, 40);
  }
  EXPECT_GT(refused, 100);
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refusal), "QUEUE_TOO_SLOW");
  EXPECT_GE(RetryAfterMs(refusal), 500);
  // An hour later the queue of then is forgotten.
  while (engine_->HasWork()) StepMs();
  now_us_ += int64_t{3600} * 1'000'000;
  for (int i = 0; i < 12; ++i) EXPECT_TRUE(SubmitAt(++id, id).ok());
}

TEST_F(QueueTest, TheChoicesThatWaitCountAsOneRequest) {
  Make({.num_pages = 256, .max_running = 4, .max_waiting = 1000, .start_within_us = 20'000});
  SequenceId id = 0;
  for (int i = 0; i < 60; ++i) {  // the rate is known
    (void)SubmitAt(++id, id);
    StepMs();
  }
  while (engine_->HasWork()) StepMs();
  for (int i = 0; i < 100; ++i) (void)SubmitAt(++id, 1);  // one request
  StepMs();
  EXPECT_TRUE(SubmitAt(++id, 2).ok());
}

TEST_F(QueueTest, ASequenceThatWaitedTooLongIsRefusedAndAResumeIsNot) {
  Make({.num_pages = 256, .max_running = 1, .max_queue_us = 25'000});
  for (SequenceId id = 1; id <= 6; ++id) ASSERT_TRUE(SubmitAt(id, 3).ok());
  while (engine_->HasWork()) StepMs();
  EXPECT_TRUE(ended_[1].ok());
  EXPECT_TRUE(ended_[2].ok());
  EXPECT_TRUE(ended_[3].ok()) << "it had its place when the time was over";
  for (SequenceId id = 4; id <= 6; ++id) EXPECT_EQ(ReasonOf(ended_[id]), "QUEUE_TOO_SLOW") << id;
}

}  // namespace
}  // namespace tutti::engine
