// Who guesses, crossed with what a request may ask for and what a server may do to it, on a dense
// model and a mixture: every cell gives the bits of each sequence alone, without guesses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "shared/engine/test_harness.h"
#include "shared/model/load.h"
#include "shared/router/output_text.h"
#include "shared/testing/model_writer.h"
#include "tests/golden/exactness_cases.h"

namespace tutti::golden {
namespace {

using engine::Engine;
using engine::EngineOptions;
using engine::EngineStats;
using engine::Generation;
using engine::Job;
using engine::Outcome;
using engine::SequenceId;
using engine::SequenceRequest;
using ::testing::ElementsAreArray;
using Outcomes = std::map<SequenceId, Outcome>;

// ---- who guesses

enum class Guesser { kOff, kNgram, kDraftModel, kSelf, kHostile, kDies, kDelayed };
constexpr const char* kGuesserNames[] = {"off",     "ngram",           "draft",        "self",
                                         "hostile", "draft that dies", "late messages"};

// Numbers that are the same in every run.
class Draws {
 public:
  int operator()(int low, int high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + static_cast<int>((state_ >> 33) % static_cast<uint64_t>(high - low + 1));
  }

 private:
  uint64_t state_ = 9;
};

// Carries words between a target and a draft, as the router does: what the target said is confirmed
// to the draft, what the draft says beyond it is hinted to the target. Every message may be late by
// up to `most_late` steps of the target, and after `dies_after` steps the draft is gone.
class DraftPump {
 public:
  DraftPump(model::DecoderModel* draft, const std::vector<Job>& jobs, int most_late, int dies_after)
      : most_late_(most_late), dies_after_(dies_after) {
    EngineOptions options;
    options.num_pages = 512;
    draft_ = std::move(*Engine::Create(draft, options));
    for (const Job& job : jobs) {
      SequenceRequest request = job.request;
      request.lookahead = 6;
      request.digest = 0;
      request.params.logprobs = request.params.prompt_logprobs = -1;
      Stream& s = streams_[request.id];
      s.said = request.generated;
      s.resumed = request.generated.size();
      EXPECT_TRUE(draft_->Submit(std::move(request), 0).ok());
    }
  }

  void operator()(Generation* target, const Outcomes& outcomes) {
    ++step_;
    while (!on_way_.empty() && on_way_.front().due <= step_) {
      const Hint& hint = on_way_.front();
      target->Hint(hint.id, hint.position, hint.tokens);
      on_way_.pop_front();
    }
    if (step_ > dies_after_) draft_.reset();
    if (draft_ == nullptr || draw_(0, most_late_) > 0) return;  // it hears of this later
    for (auto& [id, s] : streams_) {
      const auto found = outcomes.find(id);
      if (found != outcomes.end()) Confirm(id, &s, found->second.ids());
    }
    while (draft_->HasWork()) {
      for (const auto& o : draft_->Step(0)) Hear(o);
    }
    for (auto& [id, s] : streams_) {
      if (s.said.size() <= s.confirmed) continue;
      const int last = on_way_.empty() ? step_ : on_way_.back().due;
      Hint hint{std::max(last, step_ + draw_(0, most_late_)),
                id,
                static_cast<int32_t>(s.confirmed),
                {s.said.begin() + static_cast<ptrdiff_t>(s.confirmed), s.said.end()}};
      if (hint.due > step_) {
        on_way_.push_back(std::move(hint));
      } else {
        target->Hint(id, hint.position, hint.tokens);
      }
    }
  }

 private:
  struct Hint {
    int due;
    SequenceId id;
    int32_t position;
    std::vector<int32_t> tokens;
  };
  struct Stream {
    std::vector<int32_t> said;  // output so far: what is confirmed, and what the draft said beyond
    size_t resumed = 0, confirmed = 0;
  };
  void Confirm(SequenceId id, Stream* s, const std::vector<int32_t>& output) {
    s->confirmed = std::max(s->confirmed, s->resumed);
    const size_t have = s->resumed + output.size();
    if (have == s->confirmed) return;
    const std::vector<int32_t> news(
        output.begin() + static_cast<ptrdiff_t>(s->confirmed - s->resumed), output.end());
    const size_t known = std::min(s->said.size() - s->confirmed, news.size());
    const bool right = std::equal(news.begin(), news.begin() + static_cast<ptrdiff_t>(known),
                                  s->said.begin() + static_cast<ptrdiff_t>(s->confirmed));
    if (!right || s->said.size() < have) {
      s->said.resize(s->confirmed);
      s->said.insert(s->said.end(), news.begin(), news.end());
    }
    draft_->Confirm(id, 0, static_cast<int32_t>(s->confirmed), news);
    s->confirmed = have;
  }
  void Hear(const engine::SequenceOutput& o) {
    EXPECT_EQ(o.finish, engine::FinishReason::kNone) << o.status;
    Stream& s = streams_[o.id];
    ASSERT_EQ(static_cast<size_t>(o.first_index), s.said.size());
    for (const auto& t : o.tokens) s.said.push_back(t.token_id);
  }

  const int most_late_, dies_after_;
  int step_ = 0;
  Draws draw_;
  std::deque<Hint> on_way_;
  std::unique_ptr<Engine> draft_;
  std::map<SequenceId, Stream> streams_;
};

// Says anything, at any place.
class Liar {
 public:
  Liar(std::vector<Job> jobs, int vocab_size) : jobs_(std::move(jobs)), vocab_size_(vocab_size) {}
  void operator()(Generation* target, const Outcomes& outcomes) {
    for (const Job& job : jobs_) {
      const auto found = outcomes.find(job.request.id);
      const size_t said = found == outcomes.end() ? 0 : found->second.tokens.size();
      std::vector<int32_t> tokens;
      for (int i = 0; i < 6; ++i) tokens.push_back(draw_(0, vocab_size_));
      if (draw_(0, 5) == 0) tokens[2] = -draw_(1, 9);
      const auto now = static_cast<int32_t>(job.request.generated.size() + said);
      target->Hint(job.request.id, draw_(0, 4) == 0 ? draw_(-3, 90) : now, tokens);
    }
  }

 private:
  const std::vector<Job> jobs_;
  const int vocab_size_;
  Draws draw_;
};

// ---- what is asked for, and what a server does

struct Case {
  const char* name;
  std::vector<Job> jobs;
  EngineOptions options;
  std::vector<std::string> stops;
  bool preempts = false, caches = false;  // it must have come to that
};

SequenceRequest Request(SequenceId id, float temperature) {
  SequenceRequest r{.id = id};
  // A prompt that repeats itself, so that n-grams are found in it.
  for (int i = 0; i < 24; ++i)
    r.prompt.push_back(3 + static_cast<int32_t>(id % 3) * 50 + (i % 8) * (i % 8) % 40);
  r.params = {.seed = 0x5EEDu + id, .temperature = temperature, .max_tokens = 28};
  r.params.ignore_eos = true;
  return r;
}

EngineOptions Roomy() {
  EngineOptions o;
  o.num_pages = 256;
  o.prefill_chunk_tokens = 7;
  o.prefix_cache = false;
  return o;
}

std::vector<Job> Jobs(int n, float temperature) {
  std::vector<Job> jobs;
  for (int i = 0; i < n; ++i) {
    jobs.push_back({.request = Request(static_cast<SequenceId>(i) + 1, temperature)});
    jobs.back().arrival_step = 2 * (i % 3);
  }
  return jobs;
}

void FilterAndPenalise(sampling::SamplingParams* p) {
  p->temperature = 0.9f;
  p->top_k = 200;
  p->top_p = 0.97f;
  p->min_p = 0.001f;
  p->typical_p = 0.95f;
  p->repetition_penalty = 1.1f;
  p->presence_penalty = 0.4f;
  p->frequency_penalty = 0.2f;
  p->logit_bias = {{7, 2.0f}, {11, -50.0f}};
  p->no_repeat_ngram_size = 3;
  p->min_tokens = 5;
}

std::vector<Case> Cases(model::DecoderModel* model) {
  std::vector<Case> cases;
  cases.push_back({"temperature 0", Jobs(5, 0), Roomy()});
  cases.push_back({"filters and penalties", Jobs(5, 1), Roomy()});
  for (Job& job : cases.back().jobs) FilterAndPenalise(&job.request.params);
  cases.push_back({"stop strings", Jobs(6, 0.8f), Roomy(), {"0k", "3c", "7f", "e5"}});
  cases.push_back({"logprobs", Jobs(5, 0.8f), Roomy()});
  for (Job& job : cases.back().jobs) {
    job.request.params.logprobs = 5;
    job.request.params.prompt_logprobs = 3;
  }
  cases.push_back({"n > 1", Jobs(4, 0.8f), Roomy()});
  for (Job& job : cases.back().jobs) {
    job.request.prompt = cases.back().jobs[0].request.prompt;
    job.request.params.seed = 77;
    job.request.params.sample_index = static_cast<uint32_t>(job.request.id) - 1;
  }
  cases.push_back({"prefix cache", Jobs(4, 0.8f), Roomy()});
  cases.back().options.prefix_cache = cases.back().caches = true;
  for (Job& job : cases.back().jobs) {
    job.request.prompt = cases.back().jobs[0].request.prompt;
    job.arrival_step = static_cast<int>(job.request.id) * 12;
  }
  cases.push_back({"preemption", Jobs(6, 0.8f), Roomy()});
  cases.back().options.num_pages = 8;
  for (Job& job : cases.back().jobs) job.arrival_step = 0;
  cases.back().preempts = true;
  cases.push_back({"resume", Jobs(5, 0.8f), Roomy()});
  for (Job& job : cases.back().jobs) {
    const Outcome whole = RunAlone(model, job.request);
    const size_t cut = 3 + 4 * job.request.id;
    const auto ids = whole.ids();
    job.request.generated.assign(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut));
    job.request.digest = whole.tokens[cut - 1].digest;
  }
  return cases;
}

// ---- stop strings, as the router cuts them

std::shared_ptr<const tokenizer::TokenDecoder> Letters(int vocab_size) {
  tokenizer::DecoderTable table;
  for (int i = 0; i < vocab_size; ++i) {
    table.bytes.push_back({static_cast<char>('a' + i % 13), static_cast<char>('0' + i / 13 % 10)});
    table.special.push_back(false);
  }
  return tokenizer::MakeByteDecoder(std::move(table));
}

// Tokens up to the one that completes a stop string; all when none does.
size_t CutAt(const std::vector<int32_t>& ids, const Case& c, int vocab_size) {
  router::OutputText text(Letters(vocab_size), {.stops = c.stops});
  for (size_t i = 0; i < ids.size(); ++i) {
    if (text.Push(ids[i], false).matched >= 0) return i + 1;
  }
  return ids.size();
}

std::vector<std::string> BitsUpTo(const Outcome& o, size_t cut) {
  std::vector<std::string> bits = BitsOf(o);
  if (cut < o.tokens.size()) bits.resize(o.prompt_tokens.size() + cut);
  return bits;
}

// ---- the cells

struct TargetModel {
  const char* name;
  const char* skip;  // layers that the self draft goes without
};

class SpeculationMatrixTest : public ::testing::TestWithParam<TargetModel> {
 protected:
  void SetUp() override {
    const ExactModel found = FindModel(GetParam().name);
    target_ = Load(found.path, "");
    self_ = Load(found.path, GetParam().skip);
    other_ = Load(WriteFlippedBit(found, dir_.path() + "/"), "");
    ASSERT_TRUE(target_ != nullptr && self_ != nullptr && other_ != nullptr);
  }
  std::unique_ptr<model::DecoderModel> Load(const std::string& path, const std::string& skip) {
    auto model = model::LoadDecoder(path, {.skip_layers = skip});
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  engine::BeforeStep MakeGuesser(Guesser kind, const std::vector<Job>& jobs) {
    switch (kind) {
      case Guesser::kDraftModel:
      case Guesser::kSelf:
      case Guesser::kDies:
      case Guesser::kDelayed: {
        const auto pump = std::make_shared<DraftPump>(
            kind == Guesser::kSelf ? self_.get() : other_.get(), jobs,
            kind == Guesser::kDelayed ? 4 : 0, kind == Guesser::kDies ? 6 : 1000000);
        return [pump](Generation* g, const Outcomes& o) { (*pump)(g, o); };
      }
      case Guesser::kHostile:
        return Liar(jobs, target_->info().vocab_size);
      case Guesser::kOff:
      case Guesser::kNgram:
        return {};
    }
    return {};
  }
  void Check(const Case& c, Guesser guesser, EngineStats* sum) {
    SCOPED_TRACE(std::string(c.name) + ", " + kGuesserNames[static_cast<int>(guesser)]);
    const int vocab = target_->info().vocab_size;
    EngineOptions options = c.options;
    options.ngram_drafts = guesser == Guesser::kNgram;
    options.adapt_drafts = false;  // every guess is verified
    if (guesser == Guesser::kOff) options.max_draft_tokens = 0;
    const engine::BeforeStep guess = MakeGuesser(guesser, c.jobs);
    EngineStats stats;
    Outcomes outcomes = RunJobs(target_.get(), options, c.jobs, &stats, 10000,
                                [&](Generation* g, const Outcomes& o) {
                                  for (const auto& [id, outcome] : o) {
                                    if (c.stops.empty()) break;
                                    const auto ids = outcome.ids();
                                    if (CutAt(ids, c, vocab) < ids.size()) g->Cancel(id);
                                  }
                                  if (guess) guess(g, o);
                                });
    int cuts = 0;
    for (const Job& job : c.jobs) {
      const Outcome alone = RunAlone(target_.get(), job.request);
      const Outcome& got = outcomes[job.request.id];
      const size_t cut = CutAt(alone.ids(), c, vocab);
      cuts += cut < alone.tokens.size() ? 1 : 0;
      EXPECT_EQ(CutAt(got.ids(), c, vocab), cut);
      EXPECT_THAT(BitsUpTo(got, cut), ElementsAreArray(BitsUpTo(alone, cut))) << job.request.id;
      // Guesses count as what they are; the tokens are all somebody's.
      EXPECT_LE(got.usage.accepted_tokens, got.usage.proposed_tokens);
    }
    EXPECT_EQ(cuts > 0, !c.stops.empty()) << "no stop string came up";
    EXPECT_EQ(stats.preemptions > 0, c.preempts);
    EXPECT_EQ(stats.prefix_hit_tokens > 0, c.caches);
    sum->proposed_tokens += stats.proposed_tokens;
    sum->accepted_tokens += stats.accepted_tokens;
  }

  testing::TempDir dir_;
  std::unique_ptr<model::DecoderModel> target_, self_, other_;
};

TEST_P(SpeculationMatrixTest, EveryCellGivesTheBitsOfEachSequenceAlone) {
  const std::vector<Case> cases = Cases(target_.get());
  for (const Guesser guesser :
       {Guesser::kOff, Guesser::kNgram, Guesser::kDraftModel, Guesser::kSelf, Guesser::kHostile,
        Guesser::kDies, Guesser::kDelayed}) {
    SCOPED_TRACE(kGuesserNames[static_cast<int>(guesser)]);
    EngineStats sum;
    for (const Case& c : cases) Check(c, guesser, &sum);
    const uint64_t wrong = sum.proposed_tokens - sum.accepted_tokens;
    std::printf("%s, %s: %d of %d guesses right\n", GetParam().name,
                kGuesserNames[static_cast<int>(guesser)], static_cast<int>(sum.accepted_tokens),
                static_cast<int>(sum.proposed_tokens));
    // Each guesser did what it is there for.
    switch (guesser) {
      case Guesser::kOff:
        EXPECT_EQ(sum.proposed_tokens, 0u);
        break;
      case Guesser::kNgram:
        EXPECT_GT(wrong, 100u);
        break;
      case Guesser::kDraftModel:
        EXPECT_GT(sum.accepted_tokens, 500u);
        break;
      case Guesser::kDies:
      case Guesser::kDelayed:
        EXPECT_GT(sum.accepted_tokens, 100u);
        EXPECT_LT(sum.accepted_tokens, 700u);  // of 1100 or so
        break;
      case Guesser::kSelf:
        EXPECT_GT(sum.accepted_tokens, 30u);
        EXPECT_GT(wrong, 500u);
        break;
      case Guesser::kHostile:
        EXPECT_GT(wrong, 500u);
        break;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SpeculationMatrixTest,
                         ::testing::Values(TargetModel{"llama_gqa", "1"},
                                           TargetModel{"mixtral_8x2", "1"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tutti::golden
