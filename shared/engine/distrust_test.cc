// What happens to pages, sequences and answers when a shard turns out to compute wrong.
#include <random>

#include "shared/engine/test_harness.h"
#include "shared/engine/testing_engine.h"

namespace tutti::engine {
namespace {

constexpr uint64_t kGood = 1, kBad = 2;

// The toy model on "shards": each step says who made it, and while `wrong` is set its rows are
// those of other tokens.
class ShardedToy final : public model::DecoderModel {
 public:
  const model::ModelInfo& info() const override { return toy_.info(); }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override {
    ++steps;
    if (before_step) before_step();
    std::vector<std::vector<int32_t>> tokens;
    std::vector<model::SequenceSlice> said(slices.begin(), slices.end());
    for (model::SequenceSlice& s : said) {
      tokens.emplace_back(s.tokens.begin(), s.tokens.end());
      for (int32_t& t : tokens.back()) t = wrong ? (t + 1) % info().vocab_size : t;
      s.tokens = tokens.back();
    }
    const absl::Status status = toy_.Forward(said, pool, out);
    out->made_by = made_by;
    out->distrusted = std::exchange(distrusted, 0);
    return fails ? absl::DataLossError("shards differ") : status;
  }
  // The bad shard leaves in the step that finds it out.
  void Find() {
    wrong = false;
    made_by = kGood;
    distrusted = kBad;
  }

  bool wrong = false, fails = false;
  uint64_t made_by = kGood, distrusted = 0;
  int steps = 0;
  std::function<void()> before_step;

 private:
  testing::ToyModel toy_;
};

class DistrustTest : public ::testing::Test {
 protected:
  static SequenceRequest Request(SequenceId id, std::vector<int32_t> prompt, int max_tokens = 40) {
    return {
        .id = id,
        .prompt = std::move(prompt),
        .params = {.seed = 9, .temperature = 0.9f, .max_tokens = max_tokens, .ignore_eos = true}};
  }
  Outcome Golden(SequenceRequest request) {
    testing::ToyModel toy;
    return RunAlone(&toy, std::move(request));
  }
  void Make(EngineOptions options = {}) {
    options.num_pages = 64;
    auto engine = Engine::Create(&model_, options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  void Submit(SequenceRequest request) {
    const absl::Status status = engine_->Submit(std::move(request), now_);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Step() {
    for (SequenceOutput& o : engine_->Step(now_++)) {
      Outcome& r = outcomes_[o.id];
      if (!o.tokens.empty()) {
        EXPECT_EQ(o.first_index, static_cast<int32_t>(r.tokens.size())) << "sent twice, or a gap";
      }
      r.tokens.insert(r.tokens.end(), o.tokens.begin(), o.tokens.end());
      r.prompt_tokens.insert(r.prompt_tokens.end(), o.prompt_tokens.begin(), o.prompt_tokens.end());
      r.finish = o.finish;
      r.status = o.status;
      r.beams = std::move(o.beams);
      r.digest = o.digest;
      r.usage = o.usage;
    }
    const absl::Status invariants = static_cast<Generation*>(engine_.get())->CheckInvariants();
    ASSERT_TRUE(invariants.ok()) << invariants;
  }
  void RunAll() {
    for (int i = 0; i < 2000 && engine_->HasWork(); ++i) Step();
    EXPECT_FALSE(engine_->HasWork());
  }
  void RunUntilTokens(SequenceId id, size_t num) {
    for (int i = 0; i < 2000 && outcomes_[id].tokens.size() < num; ++i) Step();
    ASSERT_GE(outcomes_[id].tokens.size(), num);
  }
  void ExpectGolden(const SequenceRequest& request) {
    const Outcome& got = outcomes_[request.id];
    EXPECT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(BitsOf(got), BitsOf(Golden(request)));
  }

  ShardedToy model_;
  std::unique_ptr<Engine> engine_;
  std::map<SequenceId, Outcome> outcomes_;
  int64_t now_ = 1;
};

TEST_F(DistrustTest, CachedPagesMadeWithTheShardGoAndOthersStay) {
  Make();
  Submit(Request(1, Prompt(40)));  // right, before the bad shard came
  RunAll();
  ExpectGolden(Request(1, Prompt(40)));
  model_.made_by = kGood | kBad;
  model_.wrong = true;
  Submit(Request(2, Prompt(50, 3)));
  RunAll();
  EXPECT_NE(outcomes_[2].ids(), Golden(Request(2, Prompt(50, 3))).ids()) << "nothing was wrong";
  Submit(Request(3, Prompt(30, 5)));
  model_.Find();
  RunAll();
  ExpectGolden(Request(3, Prompt(30, 5)));
  EXPECT_GT(engine_->Stats().distrusted_pages, 3u);
  EXPECT_EQ(engine_->Stats().distrusted_sequences, 0u);
  // The poisoned prompt is computed again; the good one is found.
  Submit(Request(4, Prompt(50, 3)));
  RunAll();
  ExpectGolden(Request(4, Prompt(50, 3)));
  EXPECT_EQ(outcomes_[4].usage.cached_tokens, 0);
  Submit(Request(5, Prompt(40)));
  RunAll();
  ExpectGolden(Request(5, Prompt(40)));
  EXPECT_GT(outcomes_[5].usage.cached_tokens, 0);
}

// It computed right, or wrong where no answer could show it: tokens sent so far come again.
TEST_F(DistrustTest, SequencesInFlightStartOverAndSayNothingTwice) {
  for (const int draft_tokens : {0, 15}) {
    for (const size_t found_after : {1u, 7u, 30u}) {
      Make({.max_draft_tokens = draft_tokens});
      outcomes_.clear();
      model_.made_by = kGood | kBad;
      SequenceRequest resumed = Request(2, Prompt(20, 2));
      const Outcome whole = Golden(resumed);
      Submit(Request(1, Prompt(60, 1)));
      RunUntilTokens(1, found_after);
      model_.Find();
      RunAll();
      ExpectGolden(Request(1, Prompt(60, 1)));
      EXPECT_EQ(engine_->Stats().distrusted_sequences, 1u);
      // Twice is as good as once.
      model_.made_by = kGood | kBad;
      Submit(Request(3, Prompt(33, 8)));
      RunUntilTokens(3, 20);
      model_.Find();
      Step();
      Step();
      model_.distrusted = kGood;
      RunAll();
      ExpectGolden(Request(3, Prompt(33, 8)));
      // One that a router resumed here.
      model_.made_by = kGood | kBad;
      for (size_t i = 0; i < 10; ++i) resumed.generated.push_back(whole.tokens[i].token_id);
      resumed.digest = whole.tokens[9].digest;
      Submit(resumed);
      for (int i = 0; i < 4; ++i) {
        for (SequenceOutput& o : engine_->Step(now_++))
          for (auto& t : o.tokens) outcomes_[2].tokens.push_back(t);
      }
      model_.Find();
      while (engine_->HasWork()) {
        for (SequenceOutput& o : engine_->Step(now_++)) {
          EXPECT_TRUE(o.status.ok()) << o.status;
          for (auto& t : o.tokens) outcomes_[2].tokens.push_back(t);
        }
      }
      ASSERT_EQ(outcomes_[2].tokens.size(), 30u);
      for (size_t i = 0; i < 30; ++i)
        EXPECT_EQ(BitsOf(outcomes_[2].tokens[i]), BitsOf(whole.tokens[i + 10]));
    }
  }
}

TEST_F(DistrustTest, APoisonedPromptOfWhichNothingWasSentCostsTimeAlone) {
  Make({.prefill_chunk_tokens = 16});
  model_.made_by = kGood | kBad;
  model_.wrong = true;
  Submit(Request(1, Prompt(100, 1)));
  for (int i = 0; i < 3; ++i) Step();
  ASSERT_TRUE(outcomes_[1].tokens.empty());
  model_.Find();
  RunAll();
  ExpectGolden(Request(1, Prompt(100, 1)));
}

TEST_F(DistrustTest, WrongTokensThatWereSentEndInDataLoss) {
  Make();
  model_.made_by = kGood | kBad;
  Submit(Request(1, Prompt(60, 1)));
  RunUntilTokens(1, 5);
  model_.wrong = true;
  RunUntilTokens(1, 12);
  const std::vector<int32_t> sent = outcomes_[1].ids();
  ASSERT_NE(sent, [&] {
    auto all = Golden(Request(1, Prompt(60, 1))).ids();
    all.resize(sent.size());
    return all;
  }()) << "nothing was wrong";
  model_.Find();
  RunAll();
  EXPECT_EQ(outcomes_[1].finish, FinishReason::kError);
  EXPECT_TRUE(absl::IsDataLoss(outcomes_[1].status)) << outcomes_[1].status;
  EXPECT_EQ(ReasonOf(outcomes_[1].status), "COMPUTED_WRONG");
  EXPECT_EQ(outcomes_[1].ids(), sent) << "nothing may follow";
}

// Tokens that are right by chance, with logits that are not: their digests were sent.
TEST_F(DistrustTest, WrongLogitsOfRightTokensEndInDataLossToo) {
  Make();
  SequenceRequest request = Request(1, Prompt(60, 1));
  request.params.temperature = 0;
  for (int32_t id = 0; id < 64; ++id) {
    if (id != 17) request.params.logit_bias.push_back({id, -100.0f});
  }
  model_.made_by = kGood | kBad;
  Submit(request);
  RunUntilTokens(1, 5);
  model_.wrong = true;
  RunUntilTokens(1, 8);
  model_.Find();
  RunAll();
  EXPECT_TRUE(absl::IsDataLoss(outcomes_[1].status)) << outcomes_[1].status;
}

// The bad shard's rows may be in the step that found it.
TEST_F(DistrustTest, AStepMadeWithTheShardIsRunAgain) {
  Make();
  Submit(Request(1, Prompt(60, 1)));
  Submit(Request(2, Prompt(30, 2)));
  RunUntilTokens(1, 3);
  bool done = false;
  model_.before_step = [&] {
    model_.wrong = !done;
    model_.made_by = done ? kGood : kGood | kBad;
    model_.distrusted = done ? 0 : kBad;
    done = true;
  };
  RunAll();
  ExpectGolden(Request(1, Prompt(60, 1)));
  ExpectGolden(Request(2, Prompt(30, 2)));
  EXPECT_EQ(engine_->Stats().distrusted_steps, 1u);
  EXPECT_EQ(engine_->Stats().distrusted_sequences, 0u) << "their pages were good";
}

TEST_F(DistrustTest, AStepThatFailsDropsWhatElseWasMadeWithThem) {
  Make();
  model_.made_by = kGood | kBad;
  Submit(Request(1, Prompt(60, 1)));
  RunAll();
  Submit(Request(2, Prompt(30, 2)));
  model_.fails = true;
  model_.distrusted = kGood | kBad;
  Step();
  model_.fails = false;
  EXPECT_TRUE(absl::IsDataLoss(outcomes_[2].status));
  EXPECT_EQ(engine_->Stats().num_cached_pages, 0);
  EXPECT_EQ(engine_->Stats().num_free_pages, 64);
}

TEST_F(DistrustTest, BeamsAndScoredPromptsAreRightOrSaySo) {
  SequenceRequest beams = Request(1, Prompt(40, 1), 12);
  beams.params.temperature = 0;
  beams.params.num_beams = 3;
  SequenceRequest scored = Request(2, Prompt(70, 2), 20), late = Request(3, Prompt(10, 3), 20);
  scored.params.prompt_logprobs = late.params.prompt_logprobs = 2;
  Make({.prefill_chunk_tokens = 16});
  model_.made_by = kGood | kBad;
  model_.wrong = true;
  Submit(beams);
  Submit(scored);
  Submit(late);
  for (int i = 0; i < 3; ++i) Step();
  ASSERT_TRUE(outcomes_[2].prompt_tokens.empty());
  ASSERT_FALSE(outcomes_[3].prompt_tokens.empty());
  model_.Find();
  RunAll();
  ExpectGolden(beams);
  ExpectGolden(scored);
  EXPECT_TRUE(absl::IsDataLoss(outcomes_[3].status)) << outcomes_[3].status;
}

// Random shards go wrong at random, and are found some steps later.
TEST_F(DistrustTest, WhateverIsWrongWhenEveryAnswerIsRightOrAnError) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto below = [&](uint64_t n) { return static_cast<int>(random() % n); };
    Make({.max_batch_tokens = 8 + below(64), .prefill_chunk_tokens = 8 + below(32)});
    outcomes_.clear();
    std::map<SequenceId, SequenceRequest> requests;
    int right = 0, failed = 0;
    for (SequenceId id = 1; id <= 30; ++id) {
      SequenceRequest request = Request(id, Prompt(5 + below(80), below(4)), 1 + below(30));
      requests[id] = request;
      Submit(request);
      const int steps = below(25);
      for (int i = 0; i < steps && engine_->HasWork(); ++i) {
        const bool bad = (model_.made_by & kBad) != 0;
        if (!bad && below(30) == 0) {
          model_.made_by = kGood | kBad;
          model_.wrong = below(3) > 0;
        } else if (bad && below(6) == 0) {
          model_.Find();
        }
        Step();
      }
    }
    const bool unfound = (model_.made_by & kBad) != 0;
    if (unfound) model_.Find();
    RunAll();
    for (const auto& [id, request] : requests) {
      const Outcome& got = outcomes_[id];
      if (!got.status.ok()) {
        EXPECT_TRUE(absl::IsDataLoss(got.status)) << got.status;
        ++failed;
      } else if (BitsOf(got) == BitsOf(Golden(request))) {
        ++right;
      }  // else it ended while the shard was not found out
    }
    EXPECT_GT(right, 0);
    // What comes afterwards is right.
    for (SequenceId id = 1; id <= 30; id += 3) {
      SequenceRequest again = requests[id];
      again.id = 100 + id;
      Submit(again);
      RunAll();
      ExpectGolden(again);
    }
    EXPECT_LT(failed, 30);
  }
}

}  // namespace
}  // namespace tutti::engine
