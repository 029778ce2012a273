// Output that an engine was given, or has to compute again, is believed only when it agrees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/engine/random_service.h"
#include "shared/engine/testing_engine.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr int kTokens = 50;

class VerificationTest : public EngineTest {
 protected:
  void SetUp() override {
    params_ = {.seed = 3, .temperature = 0.8f, .repetition_penalty = 1.2f, .max_tokens = kTokens};
    params_.ignore_eos = true;
    Make({.num_pages = 64});
    ASSERT_TRUE(Submit(1, Prompt(37), params_).ok());
    RunAll();
    whole_ = results_[1];
    ASSERT_EQ(whole_.tokens.size(), size_t{kTokens});
  }
  SequenceRequest Resume(size_t cut, bool all_digests = true) {
    SequenceRequest r{.id = 2, .prompt = Prompt(37), .params = params_};
    for (size_t i = 0; i < cut; ++i) {
      r.generated.push_back(whole_.tokens[i]);
      if (all_digests) r.digests.push_back(whole_.outputs[i].digest);
    }
    r.digest = cut == 0 ? 0 : whole_.outputs[cut - 1].digest;
    base_[2] = static_cast<int32_t>(cut);
    return r;
  }
  absl::Status Run(SequenceRequest request) {
    results_.erase(2);
    EXPECT_TRUE(engine_->Submit(std::move(request), now_).ok());
    RunAll();
    EXPECT_TRUE(results_[2].finished);
    return results_[2].last.status;
  }

  sampling::SamplingParams params_;
  Result whole_;
};

TEST_F(VerificationTest, EveryTokenThatIsNotTheEnginesOwnIsNamed) {
  for (const bool all_digests : {false, true}) {
    for (size_t wrong = 0; wrong < 40; wrong += 3) {
      SequenceRequest r = Resume(40, all_digests);
      r.generated[wrong] = r.generated[wrong] == 5 ? 6 : 5;
      const absl::Status status = Run(std::move(r));
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(ReasonOf(status), "RESUME_MISMATCH");
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("generated[" + std::to_string(wrong) + "] is token"));
      EXPECT_TRUE(results_[2].tokens.empty()) << "nothing goes on from what is wrong";
    }
  }
  EXPECT_EQ(Stats().resume_mismatches, 28u);
}

// The right tokens of other logits: a wrong engine whose choice happened to be the same so far.
TEST_F(VerificationTest, ADigestThatIsNotTheEnginesOwnIsNamed) {
  SequenceRequest r = Resume(40);
  for (size_t i = 17; i < 40; ++i) r.digests[i] ^= 1;
  r.digest ^= 1;
  EXPECT_THAT(std::string(Run(std::move(r)).message()), HasSubstr("after generated[17]"));
  r = Resume(40, false);
  r.digest ^= 1;
  EXPECT_THAT(std::string(Run(std::move(r)).message()), HasSubstr("after generated[39]"));
  r = Resume(kTokens, false);  // complete
  r.digest ^= 1;
  EXPECT_THAT(std::string(Run(std::move(r)).message()), HasSubstr("after generated[49]"));
}

// The pages of the output are in the cache; what is in them is not what the digests are about.
TEST_F(VerificationTest, CachedPagesOfTheOutputAreNoProof) {
  const uint64_t hits = Stats().prefix_hit_tokens;
  ASSERT_TRUE(Run(Resume(40)).ok());
  EXPECT_EQ(Stats().verified_tokens, 40u);
  EXPECT_EQ(Stats().prefix_hit_tokens - hits, 32u)
      << "of the prompt the whole pages before its end";
  std::vector<int32_t> rest(whole_.tokens.begin() + 40, whole_.tokens.end());
  EXPECT_EQ(results_[2].tokens, rest);
}

TEST_F(VerificationTest, AWrongEngineDoesNotTakeOver) {
  Make({.num_pages = 64});
  model_->FlipWeightBit(100, 4);
  const absl::Status status = Run(Resume(40));
  EXPECT_EQ(ReasonOf(status), "RESUME_MISMATCH") << status;
}

TEST_F(VerificationTest, DigestsAreAsManyAsTokens) {
  SequenceRequest r = Resume(40);
  r.digests.pop_back();
  const absl::Status status = engine_->Submit(std::move(r), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("digests has 39"));
}

// Random services, in which all is computed again now and then: the same bits, and a model that
// changes in between is found by every sequence that had said something other.
TEST(VerificationPropertyTest, WhatIsComputedAgainIsTheSame) {
  testing::ToyModel model;
  uint64_t verified = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed * 77);
    const EngineOptions options = RandomOptions(r);
    std::vector<Job> jobs = RandomJobs(r);
    for (Job& job : jobs) {  // a resume among them, with a whole list of digests
      if (!r.OneIn(3) || job.request.params.num_beams > 1) continue;
      job.request.params.prompt_logprobs = -1;
      SequenceRequest alone = job.request;
      const Outcome outcome = RunAlone(&model, alone);
      const auto cut = static_cast<size_t>(r(0, static_cast<int>(outcome.tokens.size())));
      for (size_t i = 0; i < cut; ++i) {
        job.request.generated.push_back(outcome.tokens[i].token_id);
        job.request.digests.push_back(outcome.tokens[i].digest);
        job.request.digest = outcome.tokens[i].digest;
      }
    }
    const int every = r(2, 30);
    int step = 0;
    EngineStats stats;
    auto outcomes = RunJobs(&model, options, jobs, &stats, 100000,
                            [&](Generation* engine, const std::map<SequenceId, Outcome>&) {
                              if (++step % every == 0 && step < 40 * every) engine->RecomputeAll();
                            });
    for (const Job& job : jobs) {
      if (job.cancel_step >= 0) continue;
      SequenceRequest from_start = job.request;
      from_start.generated.clear();
      from_start.digests.clear();
      from_start.digest = 0;
      Outcome alone = RunAlone(&model, from_start);
      alone.tokens.erase(
          alone.tokens.begin(),
          alone.tokens.begin() + static_cast<ptrdiff_t>(job.request.generated.size()));
      ASSERT_THAT(BitsOf(outcomes[job.request.id]), ElementsAreArray(BitsOf(alone)))
          << job.request.id << " " << outcomes[job.request.id].status;
    }
    verified += stats.verified_tokens;
    ASSERT_EQ(stats.resume_mismatches, 0u);
  }
  EXPECT_GT(verified, 5000u);
}

TEST_F(EngineTest, OutputThatWasWrongEndsWhenItIsComputedAgain) {
  Make({.num_pages = 64, .prefix_cache = false});
  sampling::SamplingParams params = kTen;
  params.max_tokens = 60;
  ASSERT_TRUE(Submit(1, Prompt(20), params).ok());
  sampling::SamplingParams later = params;
  model_->FlipWeightBit(100, 4);
  for (int i = 0; i < 9; ++i) Step();
  model_->FlipWeightBit(100, 4);  // right again
  ASSERT_TRUE(Submit(2, Prompt(20), later).ok());
  engine_->RecomputeAll();
  RunAll();
  EXPECT_EQ(results_[1].last.finish, FinishReason::kError);
  EXPECT_EQ(ReasonOf(results_[1].last.status), "RESUME_MISMATCH") << results_[1].last.status;
  EXPECT_EQ(results_[2].last.finish, FinishReason::kLength);
  EXPECT_EQ(results_[2].tokens.size(), 60u);
}

}  // namespace
}  // namespace tutti::engine
