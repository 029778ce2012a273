// The promises of engine.h, one by one, on the toy model; who waits for whom is scheduling_test.cc.
#include "shared/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/engine/testing_engine.h"

namespace tutti::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(EngineTest, ASequenceRunsToMaxTokensAndFreesItsPages) {
  Make({.num_pages = 16, .prefix_cache = false});
  ASSERT_TRUE(Submit(1, Prompt(20), kTen).ok());
  RunAll();
  EXPECT_THAT(results_[1].tokens, SizeIs(10));
  EXPECT_EQ(results_[1].last.finish, FinishReason::kLength);
  EXPECT_EQ(results_[1].last.usage.prompt_tokens, 20);
  EXPECT_EQ(results_[1].last.usage.output_tokens, 10);
  EXPECT_EQ(Stats().num_free_pages, 16);
}

TEST_F(EngineTest, TheDigestIsTheChainOverTheRawLogits) {
  Make({.num_pages = 16});
  sampling::SamplingParams params = kTen;
  params.repetition_penalty = 1.5f;  // changes tokens, but the digest is of the logits before it
  ASSERT_TRUE(Submit(1, Prompt(5), params).ok());
  RunAll();
  // Independently: one row after the other through the model.
  kv_cache::PagePool pool(model_->info().kv, 4);
  std::vector<kv_cache::PageId> pages = {pool.Allocate().value()};
  std::vector<int32_t> tokens = Prompt(5);
  uint64_t digest = 0;
  model::StepOutput out;
  for (size_t i = 0; i < results_[1].tokens.size(); ++i) {
    const model::SequenceSlice slice = {
        .tokens = tokens, .first_pos = 0, .pages = pages, .num_logits = 1};
    ASSERT_TRUE(model_->Forward({&slice, 1}, pool, &out).ok());
    digest = ExtendDigest(digest, out.logits);
    EXPECT_EQ(results_[1].outputs[i].digest, digest) << i;
    tokens.push_back(results_[1].tokens[i]);
    if (tokens.size() == 16) pages.push_back(pool.Allocate().value());
  }
  EXPECT_EQ(results_[1].last.digest, digest);
}

TEST_F(EngineTest, RequestsOutOfRangeAreRefusedByName) {
  Make({.num_pages = 64, .max_batch_tokens = 32});
  const auto message = [](const absl::Status& s) { return std::string(ToStd(s.message())); };
  EXPECT_THAT(message(Submit(1, {})), HasSubstr("prompt is empty"));
  EXPECT_THAT(message(Submit(1, {5, 64})), HasSubstr("prompt[1] is token id 64"));
  EXPECT_THAT(message(Submit(1, {-1})), HasSubstr("prompt[0] is token id -1"));
  EXPECT_THAT(message(Submit(1, Prompt(512))), HasSubstr("the context of 512 leaves room for 511"));
  EXPECT_THAT(message(Submit(1, {5}, {.top_p = 0})), HasSubstr("top_p"));
  EXPECT_THAT(message(Submit(1, {5}, {.temperature = 0, .num_beams = 40})),
              HasSubstr("num_beams is 40"));
  EXPECT_THAT(message(engine_->Submit({.id = 1, .prompt = {5}, .generated = {64}}, 0)),
              HasSubstr("generated[0]"));
  EXPECT_THAT(message(engine_->Submit({.id = 1, .prompt = {5}, .generated = Prompt(17)}, 0)),
              HasSubstr("generated has 17 tokens"));
  EXPECT_FALSE(engine_->HasWork());
}

TEST_F(EngineTest, OptionsOutOfRangeAreRefusedByName) {
  testing::ToyModel model;
  for (const EngineOptions& bad :
       {EngineOptions{.num_pages = -1}, EngineOptions{.max_batch_tokens = 0},
        EngineOptions{.prefill_chunk_tokens = -1}, EngineOptions{.max_running = 0},
        EngineOptions{.max_waiting = -1}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Engine::Create(&model, bad).status()));
  }
  EXPECT_TRUE(Engine::Create(&model, {}).ok());
}

TEST_F(EngineTest, ALiveIdIsRefusedAndAFinishedOneIsFreeAgain) {
  Make({.num_pages = 16});
  ASSERT_TRUE(Submit(1, {5}, kTen).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Submit(1, {5}, kTen)));
  RunAll();
  results_.clear();
  EXPECT_TRUE(Submit(1, {5}, kTen).ok());
}

TEST_F(EngineTest, MaxTokensIsCutToTheContext) {
  Make({.num_pages = 64}, {.context_tokens = 40});
  ASSERT_TRUE(Submit(1, Prompt(33), {.max_tokens = 1000000, .ignore_eos = true}).ok());
  RunAll();
  EXPECT_THAT(results_[1].tokens, SizeIs(7));
  EXPECT_EQ(results_[1].last.finish, FinishReason::kLength);
}

TEST_F(EngineTest, ASequenceThatCanNeverFitIsRefused) {
  Make({.num_pages = 2});
  const absl::Status status = Submit(1, Prompt(20), {.max_tokens = 14});
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ReasonOf(status), "KV_TOO_SMALL");
  EXPECT_TRUE(Submit(1, Prompt(20), {.max_tokens = 13, .ignore_eos = true})
                  .ok());  // the last token is not stored
  RunAll();
  EXPECT_THAT(results_[1].tokens, SizeIs(13));
}

TEST_F(EngineTest, EndTokensStopIdsAndIgnoreEosDecideTheFinish) {
  Make({.num_pages = 64});
  ASSERT_TRUE(Submit(1, Prompt(6), {.temperature = 0, .max_tokens = 20, .ignore_eos = true}).ok());
  RunAll();
  const std::vector<int32_t> free_run = results_[1].tokens;
  size_t third = 2;
  while (std::count(free_run.begin(), free_run.begin() + static_cast<ptrdiff_t>(third),
                    free_run[third]) > 0)
    ++third;
  const int32_t end = free_run[third];

  ASSERT_TRUE(Submit(2, Prompt(6),
                     {.temperature = 0, .max_tokens = 20, .ignore_eos = true, .stop_ids = {end}})
                  .ok());
  RunAll();
  EXPECT_EQ(results_[2].last.finish, FinishReason::kStopId);
  EXPECT_THAT(results_[2].tokens, SizeIs(third + 1));
  EXPECT_EQ(results_[2].tokens.back(), end);

  Make({.num_pages = 64}, {.eos_ids = {end}});
  ASSERT_TRUE(Submit(3, Prompt(6), {.temperature = 0, .max_tokens = 20}).ok());
  ASSERT_TRUE(Submit(4, Prompt(6), {.temperature = 0, .max_tokens = 20, .ignore_eos = true}).ok());
  ASSERT_TRUE(Submit(5, Prompt(6), {.temperature = 0, .max_tokens = 20, .min_tokens = 20}).ok());
  RunAll();
  EXPECT_EQ(results_[3].last.finish, FinishReason::kEos);
  EXPECT_EQ(results_[3].tokens.size(), third + 1);
  EXPECT_EQ(results_[4].tokens, free_run);
  EXPECT_THAT(results_[5].tokens, SizeIs(20));
  EXPECT_EQ(std::count(results_[5].tokens.begin(), results_[5].tokens.end() - 1, end), 0);
}

TEST_F(EngineTest, ACancelledSequenceFreesItsPagesAtOnceAndSaysNothingMore) {
  Make({.num_pages = 16, .prefix_cache = false});
  ASSERT_TRUE(Submit(1, Prompt(40), kTen).ok());
  ASSERT_TRUE(Submit(2, Prompt(40), kTen).ok());
  Step();
  EXPECT_LT(Stats().num_free_pages, 16);
  engine_->Cancel(1);
  engine_->Cancel(2);
  engine_->Cancel(99);
  EXPECT_EQ(Stats().num_free_pages, 16);
  EXPECT_FALSE(engine_->HasWork());
  EXPECT_THAT(engine_->Step(5), IsEmpty());
}

TEST_F(EngineTest, ADeadlineEndsWaitingAndRunningSequences) {
  Make({.num_pages = 16, .max_running = 1});
  ASSERT_TRUE(Submit(1, Prompt(4), {.max_tokens = 100, .ignore_eos = true}, 0, 10).ok());
  ASSERT_TRUE(Submit(2, Prompt(4), {.max_tokens = 100, .ignore_eos = true}, 0, 5).ok());
  RunAll();
  for (SequenceId id : {1, 2}) {
    EXPECT_EQ(results_[id].last.finish, FinishReason::kDeadline);
    EXPECT_TRUE(absl::IsDeadlineExceeded(results_[id].last.status));
  }
  EXPECT_THAT(results_[1].tokens, SizeIs(9));  // steps at times 1 to 9
  EXPECT_THAT(results_[2].tokens, IsEmpty());
}

TEST_F(EngineTest, AFaultySequenceFailsAlone) {
  Make({.num_pages = 64}, {.fault_token = 63});
  ASSERT_TRUE(Submit(1, Prompt(20), kTen).ok());
  ASSERT_TRUE(Submit(2, {5, 63, 7}, kTen).ok());
  RunAll();
  EXPECT_EQ(results_[2].last.finish, FinishReason::kError);
  EXPECT_EQ(ReasonOf(results_[2].last.status), "NUMERIC_FAULT");
  EXPECT_THAT(results_[2].tokens, IsEmpty());
  EXPECT_THAT(results_[1].tokens, SizeIs(10));
}

TEST_F(EngineTest, AForwardThatFailsAsAWholeFailsItsSequencesAndTheEngineGoesOn) {
  Make({.num_pages = 64});
  bool broken = true;
  model_->on_forward = [&](auto) { return broken ? absl::InternalError("no") : absl::OkStatus(); };
  ASSERT_TRUE(Submit(1, Prompt(20), kTen).ok());
  Step();
  EXPECT_EQ(results_[1].last.finish, FinishReason::kError);
  broken = false;
  ASSERT_TRUE(Submit(2, Prompt(20), kTen).ok());
  RunAll();
  EXPECT_THAT(results_[2].tokens, SizeIs(10));
}

TEST_F(EngineTest, AResumeContinuesFromAnyIndexWithTheSameDigests) {
  Make({.num_pages = 64});
  sampling::SamplingParams params{.seed = 3,
                                  .temperature = 0.9f,
                                  .repetition_penalty = 1.3f,
                                  .presence_penalty = 0.4f,
                                  .frequency_penalty = 0.2f,
                                  .max_tokens = 30,
                                  .ignore_eos = true,
                                  .logprobs = 2};
  ASSERT_TRUE(Submit(1, Prompt(20), params).ok());
  RunAll();
  const Result whole = results_[1];
  for (size_t cut = 0; cut <= 30; ++cut) {
    Make({.num_pages = 64, .prefill_chunk_tokens = 7});
    results_.clear();
    base_[2] = static_cast<int32_t>(cut);
    ASSERT_TRUE(engine_
                    ->Submit({.id = 2,
                              .prompt = Prompt(20),
                              .generated = {whole.tokens.begin(),
                                            whole.tokens.begin() + static_cast<ptrdiff_t>(cut)},
                              .digest = cut == 0 ? 0 : whole.outputs[cut - 1].digest,
                              .params = params},
                             0)
                    .ok());
    RunAll();
    ASSERT_EQ(results_[2].tokens.size(), 30 - cut);
    for (size_t i = cut; i < 30; ++i) {
      EXPECT_EQ(results_[2].outputs[i - cut].token_id, whole.outputs[i].token_id);
      EXPECT_EQ(results_[2].outputs[i - cut].digest, whole.outputs[i].digest);
      EXPECT_EQ(results_[2].outputs[i - cut].logprob, whole.outputs[i].logprob);
    }
    EXPECT_EQ(results_[2].last.finish, FinishReason::kLength);
    EXPECT_EQ(results_[2].last.usage.output_tokens, 30);
    EXPECT_EQ(results_[2].last.digest, whole.last.digest);
  }
}

TEST_F(EngineTest, AResumeThatHadEndedIsVerifiedAndEndsWithoutAFurtherToken) {
  Make({.num_pages = 64});
  ASSERT_TRUE(Submit(1, Prompt(20), kTen).ok());
  RunAll();
  const Result whole = results_[1];
  for (const bool by_stop : {false, true}) {
    sampling::SamplingParams params = kTen;
    size_t num = whole.tokens.size();
    if (by_stop) {
      num = 4;
      params.stop_ids = {whole.tokens[3]};
    }
    results_.clear();
    ASSERT_TRUE(engine_
                    ->Submit({.id = 2,
                              .prompt = Prompt(20),
                              .generated = {whole.tokens.begin(),
                                            whole.tokens.begin() + static_cast<ptrdiff_t>(num)},
                              .digest = whole.outputs[num - 1].digest,
                              .params = params},
                             0)
                    .ok());
    RunAll();
    EXPECT_EQ(results_[2].last.finish, by_stop ? FinishReason::kStopId : FinishReason::kLength);
    EXPECT_TRUE(results_[2].last.status.ok()) << results_[2].last.status;
    EXPECT_TRUE(results_[2].tokens.empty());
    EXPECT_EQ(results_[2].last.digest, whole.outputs[num - 1].digest);
  }
  EXPECT_EQ(Stats().verified_tokens, 14u);
}

TEST_F(EngineTest, LogprobsAndAlternativesComeWithEachToken) {
  Make({.num_pages = 64});
  ASSERT_TRUE(
      Submit(1, Prompt(5), {.temperature = 0, .max_tokens = 4, .ignore_eos = true, .logprobs = 3})
          .ok());
  ASSERT_TRUE(Submit(2, Prompt(5), {.temperature = 0, .max_tokens = 4, .ignore_eos = true}).ok());
  RunAll();
  for (const TokenOutput& t : results_[1].outputs) {
    ASSERT_THAT(t.top, SizeIs(3));
    EXPECT_EQ(t.top[0].token_id, t.token_id);  // greedy
    EXPECT_EQ(t.top[0].logprob, t.logprob);
    EXPECT_GE(t.top[1].logprob, t.top[2].logprob);
  }
  EXPECT_THAT(results_[2].outputs[0].top, IsEmpty());
}

TEST_F(EngineTest, PromptLogprobsComeOnceWhateverTheChunksAndTheCache) {
  std::vector<TokenOutput> want;
  for (int chunk : {0, 1, 7, 16}) {
    for (bool warm : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "chunk " << chunk << (warm ? " warm" : " cold"));
      Make({.num_pages = 64, .prefill_chunk_tokens = chunk});
      results_.clear();
      if (warm) {
        ASSERT_TRUE(Submit(9, Prompt(100), kTen).ok());
        RunAll();
      }
      ASSERT_TRUE(
          Submit(1, Prompt(100),
                 {.temperature = 0, .max_tokens = 3, .ignore_eos = true, .prompt_logprobs = 2})
              .ok());
      RunAll();
      const auto& got = results_[1].prompt;
      ASSERT_THAT(got, SizeIs(100));
      EXPECT_TRUE(std::isnan(got[0].logprob));
      EXPECT_THAT(got[0].top, IsEmpty());
      if (want.empty()) want = got;
      for (size_t i = 1; i < 100; ++i) {
        EXPECT_EQ(got[i].token_id, Prompt(100)[i]);
        EXPECT_EQ(got[i].logprob, want[i].logprob);
        EXPECT_EQ(got[i].top[0].token_id, want[i].top[0].token_id);
      }
      EXPECT_THAT(results_[1].tokens, SizeIs(3));
    }
  }
}

TEST_F(EngineTest, MaxTokensZeroScoresThePromptOnly) {
  Make({.num_pages = 64}, {.context_tokens = 48});
  ASSERT_TRUE(Submit(1, Prompt(48), {.max_tokens = 0, .prompt_logprobs = 0}).ok());
  ASSERT_TRUE(Submit(2, {5}, {.max_tokens = 0, .prompt_logprobs = 0}).ok());
  ASSERT_TRUE(Submit(3, {5, 6}, {.max_tokens = 0}).ok());
  RunAll();
  EXPECT_THAT(results_[1].prompt, SizeIs(48));
  EXPECT_THAT(results_[1].tokens, IsEmpty());
  EXPECT_EQ(results_[1].last.finish, FinishReason::kLength);
  EXPECT_THAT(results_[2].prompt, SizeIs(1));
  EXPECT_THAT(results_[3].prompt, IsEmpty());
  EXPECT_EQ(results_[3].last.finish, FinishReason::kLength);
  EXPECT_EQ(model_->num_rows(), 47);
}

TEST_F(EngineTest, DurationsComeFromTheCallersClock) {
  int64_t clock = 1000;
  EngineOptions options{.num_pages = 16, .prefill_chunk_tokens = 16, .max_running = 1};
  options.clock_us = [&] { return clock; };
  Make(options);
  model_->on_forward = [&](auto) { return clock += 100, absl::OkStatus(); };
  ASSERT_TRUE(engine_->Submit({.id = 1, .prompt = Prompt(40), .params = kTen}, 900).ok());
  while (engine_->HasWork()) {
    for (const auto& o : engine_->Step(clock)) results_[o.id].last = o;
  }
  EXPECT_EQ(results_[1].last.usage.queue_us, 100);
  EXPECT_EQ(results_[1].last.usage.prefill_us, 300);
  EXPECT_EQ(results_[1].last.usage.decode_us, 900);
}

}  // namespace
}  // namespace tutti::engine
