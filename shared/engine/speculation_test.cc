// Guesses may save steps and never change a bit: tokens, logprobs and digests with speculation are
// those without, whoever guesses what and when, in services of every kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/engine/random_service.h"
#include "shared/testing/toy_model.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::SizeIs;
using testing::ToyModel;

// Who guesses, and how well.
enum class Hints { kOff, kNone, kPerfect, kHostile, kErring, kDelayed, kLost };

// Knows what each sequence will say, and tells it as its kind does.
class Hinter {
 public:
  Hinter(Hints kind, uint64_t seed, ToyModel* model, const std::vector<Job>& jobs)
      : kind_(kind), random_(seed) {
    if (kind == Hints::kOff || kind == Hints::kNone) return;
    for (const Job& job : jobs) {
      truth_[job.request.id] = job.request.generated;
      const std::vector<int32_t> rest = RunAlone(model, job.request).ids();
      auto& all = truth_[job.request.id];
      all.insert(all.end(), rest.begin(), rest.end());
      resumed_[job.request.id] = job.request.generated.size();
    }
  }

  void operator()(Generation* engine, const std::map<SequenceId, Outcome>& outcomes) {
    ++step_;
    if (kind_ == Hints::kLost && step_ > 20) return;  // the draft died
    for (const auto& [id, truth] : truth_) {
      const auto found = outcomes.find(id);
      if (found == outcomes.end() || found->second.finish != FinishReason::kNone) continue;
      const auto now = static_cast<int>(resumed_[id] + found->second.tokens.size());
      Say(engine, id, now, truth);
    }
  }

 private:
  void Say(Generation* engine, SequenceId id, int now, const std::vector<int32_t>& truth) {
    const int ahead = random_(0, 12);
    // Also of the past, and sometimes with a gap.
    int first = std::max(0, now + random_(-3, 1));
    if (kind_ == Hints::kDelayed) first = std::max(0, now - random_(0, 15));
    std::vector<int32_t> tokens;
    for (int i = first; i < std::min(static_cast<int>(truth.size()), first + ahead); ++i)
      tokens.push_back(truth[static_cast<size_t>(i)]);
    if (kind_ == Hints::kErring && !tokens.empty()) {
      tokens[static_cast<size_t>(random_(0, static_cast<int>(tokens.size()) - 1))] = random_(0, 63);
    }
    if (kind_ == Hints::kHostile) {
      first = random_.OneIn(3) ? random_(-5, 200) : now;
      tokens.clear();
      for (int i = 0; i < ahead; ++i) tokens.push_back(random_.OneIn(9) ? random_(-9, 99) : 63);
    }
    engine->Hint(id, first, tokens);
    engine->Hint(id + 1000, first, tokens);  // nobody
  }

  const Hints kind_;
  Random random_;
  int step_ = 0;
  std::map<SequenceId, std::vector<int32_t>> truth_;
  std::map<SequenceId, size_t> resumed_;
};

void Speculate(Random& r, Hints kind, EngineOptions* options) {
  options->max_draft_tokens = kind == Hints::kOff ? 0 : r.OneIn(3) ? r(1, 4) : r(5, 40);
  options->ngram_drafts = kind == Hints::kNone || r.OneIn(2);
  options->recent_output_tokens = r.OneIn(3) ? 0 : r(1, 300);
  options->adapt_drafts = r.OneIn(3);
}

class SpeculationPropertyTest : public ::testing::TestWithParam<Hints> {};

TEST_P(SpeculationPropertyTest, EverySequenceGivesTheBitsOfItsRunAlone) {
  ToyModel model;
  EngineStats sum;
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed * 7);
    EngineOptions options = RandomOptions(r);
    Speculate(r, GetParam(), &options);
    const std::vector<Job> jobs = RandomJobs(r);
    EngineStats stats;
    auto outcomes =
        RunJobs(&model, options, jobs, &stats, 100000, Hinter(GetParam(), seed, &model, jobs));
    CountDifferences(&model, jobs, outcomes, true);
    if (HasFailure()) return;
    sum.preemptions += stats.preemptions;
    sum.proposed_tokens += stats.proposed_tokens;
    sum.accepted_tokens += stats.accepted_tokens;
  }
  // The services did meet what they are about.
  EXPECT_GT(sum.preemptions, 30u);
  switch (GetParam()) {
    case Hints::kOff:
      EXPECT_EQ(sum.proposed_tokens, 0u);
      break;
    case Hints::kPerfect:
    case Hints::kDelayed:
      EXPECT_GT(sum.accepted_tokens, 3000u);
      break;
    case Hints::kErring:
      EXPECT_GT(sum.accepted_tokens, 1000u);
      EXPECT_GT(sum.proposed_tokens - sum.accepted_tokens, 1000u);
      break;
    case Hints::kLost:
      EXPECT_GT(sum.accepted_tokens, 500u);
      break;
    case Hints::kNone:
    case Hints::kHostile:
      EXPECT_GT(sum.proposed_tokens - sum.accepted_tokens, 1000u);
      break;
  }
}

TEST_P(SpeculationPropertyTest, AResumeAtEveryIndexContinuesTheSame) {
  ToyModel model;
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed * 1001);
    EngineOptions options = RandomOptions(r);
    Speculate(r, GetParam(), &options);
    std::vector<Job> jobs = RandomJobs(r);
    std::map<SequenceId, Outcome> whole;
    for (Job& job : jobs) {
      job.cancel_step = -1;
      job.request.params.prompt_logprobs = -1;
      Outcome& alone = whole[job.request.id] = RunAlone(&model, job.request);
      if (alone.tokens.empty()) continue;
      const auto cut = r(0, static_cast<int>(alone.tokens.size()) - 1);
      const auto ids = alone.ids();
      job.request.generated.assign(ids.begin(), ids.begin() + cut);
      job.request.digest = cut == 0 ? 0 : alone.tokens[static_cast<size_t>(cut) - 1].digest;
      alone.tokens.erase(alone.tokens.begin(), alone.tokens.begin() + cut);
    }
    auto outcomes =
        RunJobs(&model, options, jobs, nullptr, 100000, Hinter(GetParam(), seed, &model, jobs));
    for (const auto& [id, alone] : whole) {
      ASSERT_THAT(BitsOf(outcomes[id]), ElementsAreArray(BitsOf(alone))) << id;
    }
  }
}

std::string NameOf(const ::testing::TestParamInfo<Hints>& info) {
  constexpr const char* kNames[] = {"Off",    "NgramAlone", "Perfect",  "Hostile",
                                    "Erring", "Delayed",    "DraftDies"};
  return kNames[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Hints, SpeculationPropertyTest,
                         ::testing::Values(Hints::kOff, Hints::kNone, Hints::kPerfect,
                                           Hints::kHostile, Hints::kErring, Hints::kDelayed,
                                           Hints::kLost),
                         NameOf);

// ---- one promise at a time

std::vector<int32_t> Prompt(int n) {
  std::vector<int32_t> p;
  for (int i = 0; i < n; ++i) p.push_back(2 + (i * 7 + i * i % 5) % 60);
  return p;
}

SequenceRequest Request(int max_tokens) {
  return {.id = 1,
          .prompt = Prompt(20),
          .params = {.seed = 7, .max_tokens = max_tokens, .ignore_eos = true}};
}

std::unique_ptr<Engine> Make(ToyModel* model, EngineOptions options = {.num_pages = 64}) {
  auto engine = Engine::Create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return std::move(*engine);
}

TEST(SpeculationTest, OneStepYieldsTheAgreedTokensAndOneMore) {
  ToyModel model;
  const std::vector<int32_t> truth = RunAlone(&model, Request(12)).ids();
  auto engine = Make(&model, {.num_pages = 64, .adapt_drafts = false});
  ASSERT_TRUE(engine->Submit(Request(12), 0).ok());
  ASSERT_THAT(engine->Step(0)[0].tokens, SizeIs(1));  // the prompt's
  std::vector<int32_t> hint(truth.begin() + 1, truth.begin() + 6);
  hint[3] ^= 1;
  engine->Hint(1, 1, hint);
  const auto out = engine->Step(1);
  ASSERT_THAT(out, SizeIs(1));
  EXPECT_EQ(out[0].first_index, 1);
  EXPECT_THAT(out[0].tokens, SizeIs(4));  // three that agreed, and its own
  EXPECT_EQ(engine->Stats().proposed_tokens, 5u);
  EXPECT_EQ(engine->Stats().accepted_tokens, 3u);
}

TEST(SpeculationTest, AHintBeyondAGapIsDropped) {
  ToyModel model;
  const std::vector<int32_t> truth = RunAlone(&model, Request(12)).ids();
  auto engine = Make(&model, {.num_pages = 64, .adapt_drafts = false});
  ASSERT_TRUE(engine->Submit(Request(12), 0).ok());
  engine->Step(0);
  engine->Hint(1, 2, std::vector<int32_t>(truth.begin() + 2, truth.begin() + 6));
  EXPECT_THAT(engine->Step(1)[0].tokens, SizeIs(1));
  engine->Hint(1, 0, std::span(truth).first(8));
  EXPECT_THAT(engine->Step(2)[0].tokens, SizeIs(7));  // 2 to 7 as hinted, and 8
}

// Two texts that part for a word often go on alike: what a hint said beyond its mistake is tried
// while nothing better has come.
TEST(SpeculationTest, BehindAMistakeTheRestOfAHintIsStillTried) {
  ToyModel model;
  const std::vector<int32_t> truth = RunAlone(&model, Request(20)).ids();
  const auto from = [&](int first, int last) {
    return std::vector<int32_t>(truth.begin() + first, truth.begin() + last);
  };
  auto engine = Make(&model, {.num_pages = 64, .adapt_drafts = false});
  ASSERT_TRUE(engine->Submit(Request(20), 0).ok());
  engine->Step(0);
  std::vector<int32_t> hint = from(1, 8);
  hint[2] ^= 1;
  engine->Hint(1, 1, hint);
  EXPECT_THAT(engine->Step(1)[0].tokens, SizeIs(3));  // 1 and 2, and its own word for 3
  engine->Hint(1, 8, from(8, 9));  // of the same breath, under way when the mistake was found
  auto out = engine->Step(2);
  EXPECT_THAT(out[0].tokens, SizeIs(6));  // 4 to 8 as was said, and 9
  EXPECT_EQ(out[0].usage.accepted_hint_tokens, 2 + 5);

  // A newer hint counts before an older one, which goes on behind its end.
  hint = from(10, 17);
  hint[0] ^= 1;
  hint[1] ^= 1;
  engine->Hint(1, 10, hint);
  EXPECT_THAT(engine->Step(3)[0].tokens, SizeIs(1));  // 10
  engine->Hint(1, 11, from(11, 13));
  EXPECT_THAT(engine->Step(4)[0].tokens, SizeIs(7));  // 11, 12 of the newer, 13 to 16, and 17
}

TEST(SpeculationTest, AHintThatIsWrongAgainAndAgainIsLeft) {
  ToyModel model;
  const std::vector<int32_t> truth = RunAlone(&model, Request(20)).ids();
  auto engine = Make(&model, {.num_pages = 64, .adapt_drafts = false});
  ASSERT_TRUE(engine->Submit(Request(20), 0).ok());
  engine->Step(0);
  std::vector<int32_t> wrong(truth.begin() + 1, truth.begin() + 16);
  for (int32_t& token : wrong) token ^= 1;
  engine->Hint(1, 1, wrong);
  int steps = 0;
  for (uint64_t proposed = 0; steps < 10; ++steps) {
    engine->Step(1 + steps);
    if (engine->Stats().proposed_tokens == proposed) break;
    proposed = engine->Stats().proposed_tokens;
  }
  EXPECT_EQ(steps, 4);
  EXPECT_EQ(engine->Stats().accepted_tokens, 0u);
}

TEST(SpeculationTest, TheEndInsideARunOfAgreedTokensIsTheEnd) {
  ToyModel model;
  SequenceRequest request = Request(12);
  const std::vector<int32_t> truth = RunAlone(&model, request).ids();
  request.params.stop_ids = {truth[4]};
  auto engine = Make(&model, {.num_pages = 64, .adapt_drafts = false});
  ASSERT_TRUE(engine->Submit(request, 0).ok());
  engine->Hint(1, 0, truth);
  std::vector<int32_t> got;
  SequenceOutput last;
  while (engine->HasWork()) {
    for (auto& o : engine->Step(0)) {
      for (const auto& t : o.tokens) got.push_back(t.token_id);
      last = o;
    }
  }
  EXPECT_THAT(got, ElementsAreArray(std::span(truth).first(5)));
  EXPECT_EQ(last.finish, FinishReason::kStopId);
  EXPECT_EQ(last.usage.accepted_tokens, 3);
  EXPECT_GT(last.usage.proposed_tokens, 3);
}

TEST(SpeculationTest, AGuessThatMakesTheModelFaultCostsAStepAndNothingElse) {
  ToyModel honest;
  const Outcome alone = RunAlone(&honest, Request(12));
  int32_t absent = 0;
  const auto ids = alone.ids();
  while (std::find(ids.begin(), ids.end(), absent) != ids.end()) ++absent;
  SequenceRequest request = Request(12);
  std::erase(request.prompt, absent);
  const Outcome want = RunAlone(&honest, request);
  const auto want_ids = want.ids();
  ASSERT_EQ(std::find(want_ids.begin(), want_ids.end(), absent), want_ids.end());

  ToyModel model(testing::ToyOptions{.fault_token = absent});
  EngineStats stats;
  auto outcomes = RunJobs(&model, {.num_pages = 64, .adapt_drafts = false}, {Job{request}}, &stats,
                          1000, [&](Generation* engine, const auto& so_far) {
                            const auto n =
                                so_far.empty() ? 0 : so_far.begin()->second.tokens.size();
                            engine->Hint(1, static_cast<int32_t>(n), std::vector<int32_t>{absent});
                          });
  EXPECT_THAT(BitsOf(outcomes[1]), ElementsAreArray(BitsOf(want)));
}

TEST(SpeculationTest, GuessesTakeNobodysPages) {
  ToyModel model;
  // Two sequences of 2 pages each fill the cache; a guess of 15 would need a third.
  const std::vector<int32_t> truth = RunAlone(&model, Request(12)).ids();
  auto engine = Make(&model, {.num_pages = 4, .prefix_cache = false, .adapt_drafts = false});
  SequenceRequest second = Request(12);
  second.id = 2;
  ASSERT_TRUE(engine->Submit(Request(12), 0).ok());
  ASSERT_TRUE(engine->Submit(second, 0).ok());
  while (engine->HasWork()) {
    engine->Hint(1, 0, truth);
    engine->Step(0);
  }
  EXPECT_EQ(engine->Stats().preemptions, 0u);
  EXPECT_GT(engine->Stats().accepted_tokens, 5u);
}

// A service whose time is virtual: a step costs 1000 us and `row_us` for each row more.
struct Timed {
  int64_t now_us = 0;
  int64_t row_us = 0;
  int pause_at_step = -1;  // that one takes a second more
  int num_steps = 0;
  double TokensPerMs(ToyModel* model, EngineOptions options, int num_tokens,
                     const BeforeStep& hint) {
    model->on_forward = [&](std::span<const model::SequenceSlice> slices) {
      int64_t rows = 0;
      for (const auto& s : slices) rows += static_cast<int64_t>(s.tokens.size());
      now_us += 1000 + (rows - 1) * row_us + (num_steps++ == pause_at_step ? 1000000 : 0);
      return absl::OkStatus();
    };
    options.clock_us = [this] { return now_us; };
    auto engine = Make(model, options);
    EXPECT_TRUE(engine->Submit(Request(num_tokens), 0).ok());
    std::map<SequenceId, Outcome> outcomes;
    outcomes[1];
    engine->Step(now_us);
    const int64_t start = now_us;
    while (engine->HasWork()) {
      hint(static_cast<Generation*>(engine.get()), outcomes);
      for (auto& o : engine->Step(now_us))
        outcomes[1].tokens.insert(outcomes[1].tokens.end(), o.tokens.begin(), o.tokens.end());
    }
    model->on_forward = nullptr;
    return 1e3 * num_tokens / static_cast<double>(now_us - start);
  }
};

TEST(SpeculationTest, GoodGuessesAreUsedWhereRowsAreCheapAndNotWhereTheyAreDear) {
  ToyModel model;
  constexpr int kTokens = 400;
  const std::vector<int32_t> truth = RunAlone(&model, Request(kTokens)).ids();
  const auto perfect = [&](Generation* engine, const auto&) { engine->Hint(1, 0, truth); };
  Timed cheap{.row_us = 50};
  EXPECT_GT(cheap.TokensPerMs(&model, {.num_pages = 64}, kTokens, perfect), 5.0);
  // A row as dear as a step: nothing is won, and no more than a few per cent lost.
  Timed dear{.row_us = 1000};
  EXPECT_GT(dear.TokensPerMs(&model, {.num_pages = 64}, kTokens, perfect), 0.97);
  Random random(1);
  const auto erring = [&](Generation* engine, const auto& o) {
    std::vector<int32_t> tokens = truth;
    for (int i = 0; i < 100; ++i) tokens[static_cast<size_t>(random(0, kTokens - 1))] = 1;
    engine->Hint(1, static_cast<int32_t>(o.at(1).tokens.size()) + 1,
                 std::span(tokens).subspan(o.at(1).tokens.size() + 1));
  };
  EXPECT_GT(dear.TokensPerMs(&model, {.num_pages = 64}, kTokens, erring), 0.97);
}

TEST(SpeculationTest, BadGuessesAreSoonNotFollowed) {
  ToyModel model;
  constexpr int kTokens = 400;
  Random random(1);
  const auto hostile = [&](Generation* engine, const std::map<SequenceId, Outcome>& o) {
    const std::vector<int32_t> noise = {random(0, 63), random(0, 63), random(0, 63)};
    engine->Hint(1, static_cast<int32_t>(o.at(1).tokens.size()) + 1, noise);
  };
  Timed timed{.row_us = 100};
  EXPECT_GT(timed.TokensPerMs(&model, {.num_pages = 64}, kTokens, hostile), 0.97);
}

TEST(SpeculationTest, APauseOfTheProcessDoesNotStopGuessingForLong) {
  ToyModel model;
  constexpr int kTokens = 400;
  const std::vector<int32_t> truth = RunAlone(&model, Request(kTokens)).ids();
  const auto perfect = [&](Generation* engine, const auto&) { engine->Hint(1, 0, truth); };
  Timed quiet{.row_us = 50};
  quiet.TokensPerMs(&model, {.num_pages = 64}, kTokens, perfect);
  Timed paused{.row_us = 50, .pause_at_step = 8};
  paused.TokensPerMs(&model, {.num_pages = 64}, kTokens, perfect);
  EXPECT_LT(paused.num_steps, quiet.num_steps + 10);
}

}  // namespace
}  // namespace tutti::engine
