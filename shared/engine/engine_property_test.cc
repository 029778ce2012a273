// One promise over many random lives: a sequence's tokens, logprob bits and digests are those of
// its run alone, whatever happens around it. Each seed is one random service; a failing one is
// printed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "shared/engine/test_harness.h"
#include "shared/testing/toy_model.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAreArray;
using testing::ToyModel;

class Random {
 public:
  explicit Random(uint64_t seed) : rng_(seed) {}
  int operator()(int low, int high) {  // inclusive
    return low + static_cast<int>(rng_() % static_cast<uint64_t>(high - low + 1));
  }
  bool OneIn(int n) { return (*this)(1, n) == 1; }
  float Unit() { return static_cast<float>((*this)(0, 1000)) / 1000.0f; }

 private:
  std::mt19937_64 rng_;
};

sampling::SamplingParams RandomParams(Random& r) {
  sampling::SamplingParams p;
  p.seed = static_cast<uint64_t>(r(0, 1 << 30)) << 20;
  p.sample_index = static_cast<uint32_t>(r(0, 3));
  p.temperature = r.OneIn(3) ? 0.0f : 0.5f + r.Unit();
  if (r.OneIn(4)) p.top_k = r(1, 70);
  if (r.OneIn(4)) p.top_p = 0.05f + 0.95f * r.Unit();
  if (r.OneIn(6)) p.min_p = 0.3f * r.Unit();
  if (r.OneIn(6)) p.typical_p = 0.1f + 0.9f * r.Unit();
  if (r.OneIn(4)) p.repetition_penalty = 0.7f + r.Unit();
  if (r.OneIn(4)) p.presence_penalty = 2 * r.Unit() - 1;
  if (r.OneIn(4)) p.frequency_penalty = r.Unit();
  if (r.OneIn(5)) p.logit_bias = {{3, 4.0f * r.Unit()}, {1, -100.0f}};
  if (r.OneIn(6)) p.no_repeat_ngram_size = r(1, 3);
  p.max_tokens = r.OneIn(12) ? 0 : r.OneIn(2) ? r(1, 20) : r(20, 120);
  if (r.OneIn(4)) p.min_tokens = r(0, p.max_tokens);
  p.ignore_eos = r.OneIn(2);
  if (r.OneIn(4)) p.stop_ids = {r(0, 63), r(0, 63)};
  if (r.OneIn(2)) p.logprobs = r(0, 5);
  if (r.OneIn(5)) p.prompt_logprobs = r(0, 3);
  if (r.OneIn(7)) {
    p.temperature = 0;
    p.top_k = 0;
    p.top_p = p.typical_p = 1;
    p.min_p = 0;
    p.logprobs = -1;
    p.num_beams = r(2, 4);
    p.num_return = r(1, p.num_beams);
    p.length_penalty = 2 * r.Unit();
    p.early_stopping = r.OneIn(2);
    p.max_tokens = r(1, 20);
    p.min_tokens = 0;
  }
  return p;
}

std::vector<int32_t> RandomPrompt(Random& r) {
  // A few common beginnings, so that pages are shared and siblings meet.
  std::vector<int32_t> prompt;
  const int base = r(0, 2);
  for (int i = 0, n = r.OneIn(3) ? 0 : r(1, 70); i < n; ++i)
    prompt.push_back((i * (base + 3) + i / 5) % 64);
  for (int i = 0, n = r(1, 25); i < n; ++i) prompt.push_back(r(0, 63));
  return prompt;
}

std::vector<Job> RandomJobs(Random& r) {
  std::vector<Job> jobs;
  for (SequenceId id = 1, n = static_cast<SequenceId>(r(2, 14)); id <= n; ++id) {
    Job job;
    job.request = {.id = id,
                   .prompt = RandomPrompt(r),
                   .params = RandomParams(r),
                   .priority = r.OneIn(4) ? r(-1, 1) : 0,
                   .client = static_cast<uint64_t>(r(0, 2))};
    if (id > 1 && r.OneIn(4)) {  // n > 1: the same prompt and seed, another sample
      job.request.prompt = jobs.back().request.prompt;
      job.request.params = jobs.back().request.params;
      ++job.request.params.sample_index;
    }
    job.arrival_step = r.OneIn(2) ? 0 : r(0, 60);
    if (r.OneIn(8)) job.cancel_step = job.arrival_step + r(0, 30);
    jobs.push_back(std::move(job));
  }
  return jobs;
}

EngineOptions RandomOptions(Random& r) {
  static ThreadPool pool({.num_threads = 3});
  const int chunks[] = {1, 7, 64, 0};
  EngineOptions options;
  options.num_pages = r.OneIn(4) ? 200 : r(17, 22);  // one search of 4 beams may need 5 + 4 * 3
  options.max_batch_tokens = r.OneIn(3) ? r(4, 20) : r(20, 300);
  options.prefill_chunk_tokens = chunks[r(0, 3)];
  options.max_running = r.OneIn(4) ? r(1, 4) : 64;
  options.max_waiting = r.OneIn(4) ? 2 : 256;
  options.prefix_cache = !r.OneIn(3);
  options.pool = r.OneIn(2) ? &pool : nullptr;
  return options;
}

// Compares with the runs alone (of `reference`); returns the number of sequences that differ.
int CountDifferences(model::DecoderModel* reference, const std::vector<Job>& jobs,
                     std::map<SequenceId, Outcome>& outcomes, bool report) {
  int differences = 0;
  for (const Job& job : jobs) {
    const Outcome alone = RunAlone(reference, job.request);
    std::vector<std::string> want = BitsOf(alone), got = BitsOf(outcomes[job.request.id]);
    const bool cancelled =
        outcomes[job.request.id].finish == FinishReason::kNone && job.cancel_step >= 0;
    if (cancelled) want.resize(std::min(want.size(), got.size()));  // what it gave is a prefix
    if (got != want) {
      ++differences;
      if (report) {
        EXPECT_THAT(got, ElementsAreArray(want))
            << "sequence " << job.request.id << " " << outcomes[job.request.id].status;
      }
    }
  }
  return differences;
}

TEST(EnginePropertyTest, EverySequenceGivesTheBitsOfItsRunAlone) {
  ToyModel model;
  uint64_t preemptions = 0, hits = 0;
  int beams = 0, cancelled = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed);
    const EngineOptions options = RandomOptions(r);
    const std::vector<Job> jobs = RandomJobs(r);
    EngineStats stats;
    auto outcomes = RunJobs(&model, options, jobs, &stats);
    CountDifferences(&model, jobs, outcomes, true);
    if (HasFailure()) return;
    preemptions += stats.preemptions;
    hits += stats.prefix_hit_tokens;
    for (const auto& [id, o] : outcomes) {
      beams += o.beams.empty() ? 0 : 1;
      cancelled += o.finish == FinishReason::kNone ? 1 : 0;
    }
  }
  // The random services did meet what they are about.
  EXPECT_GT(preemptions, 100u);
  EXPECT_GT(hits, 1000u);
  EXPECT_GT(beams, 50);
  EXPECT_GT(cancelled, 20);
}

TEST(EnginePropertyTest, AResumeAtEveryIndexInARandomServiceContinuesTheSame) {
  ToyModel model;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed * 1000);
    const EngineOptions options = RandomOptions(r);
    std::vector<Job> jobs = RandomJobs(r);
    std::map<SequenceId, Outcome> whole;
    std::map<SequenceId, size_t> cuts;
    for (Job& job : jobs) {
      job.cancel_step = -1;
      job.request.params.prompt_logprobs = -1;
      const Outcome& alone = whole[job.request.id] = RunAlone(&model, job.request);
      if (alone.tokens.empty()) continue;
      const size_t cut = static_cast<size_t>(r(0, static_cast<int>(alone.tokens.size()) - 1));
      cuts[job.request.id] = cut;
      const auto ids = alone.ids();
      job.request.generated.assign(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut));
      job.request.digest = cut == 0 ? 0 : alone.tokens[cut - 1].digest;
    }
    auto outcomes = RunJobs(&model, options, jobs);
    for (auto& [id, alone] : whole) {
      alone.tokens.erase(alone.tokens.begin(),
                         alone.tokens.begin() + static_cast<ptrdiff_t>(cuts[id]));
      ASSERT_THAT(BitsOf(outcomes[id]), ElementsAreArray(BitsOf(alone))) << id;
    }
  }
}

// Negative controls: the comparison above must notice each of these.

int DifferencesOf(model::DecoderModel* broken) {
  ToyModel reference;
  int differences = 0;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    Random r(seed);
    const EngineOptions options = RandomOptions(r);
    const std::vector<Job> jobs = RandomJobs(r);
    auto outcomes = RunJobs(broken, options, jobs);
    differences += CountDifferences(&reference, jobs, outcomes, false);
  }
  return differences;
}

TEST(EnginePropertyTest, ControlAnUntouchedModelShowsNoDifference) {
  ToyModel model;
  EXPECT_EQ(DifferencesOf(&model), 0);
}

TEST(EnginePropertyTest, ControlOneFlippedWeightBitIsCaught) {
  ToyModel model;
  model.FlipWeightBit(100, 4);
  EXPECT_GT(DifferencesOf(&model), 10);
}

// Reads the wrong page now and then, or runs a step in another floating-point mode.
class BrokenModel : public model::DecoderModel {
 public:
  enum class Kind { kSwapPages, kFlushDenormals, kWrongToken };
  explicit BrokenModel(Kind kind) : kind_(kind) {}
  const model::ModelInfo& info() const override { return model_.info(); }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override {
    if (kind_ == Kind::kFlushDenormals) {
#if defined(__x86_64__)
      const unsigned saved = __builtin_ia32_stmxcsr();
      __builtin_ia32_ldmxcsr(saved | 0x8040);
      const absl::Status status = model_.Forward(slices, pool, out);
      __builtin_ia32_ldmxcsr(saved);
      return status;
#endif
    }
    std::vector<model::SequenceSlice> changed(slices.begin(), slices.end());
    std::vector<std::vector<kv_cache::PageId>> pages(slices.size());
    std::vector<std::vector<int32_t>> tokens(slices.size());
    for (size_t i = 0; i < slices.size(); ++i) {
      const bool hit = ++calls_ % 50 == 0;
      if (kind_ == Kind::kSwapPages && hit && slices[i].first_pos >= 32) {
        pages[i].assign(slices[i].pages.begin(), slices[i].pages.end());
        std::swap(pages[i][0], pages[i][1]);
        changed[i].pages = pages[i];
      }
      if (kind_ == Kind::kWrongToken && hit) {
        tokens[i].assign(slices[i].tokens.begin(), slices[i].tokens.end());
        tokens[i][0] ^= 1;
        changed[i].tokens = tokens[i];
      }
    }
    return model_.Forward(changed, pool, out);
  }

 private:
  Kind kind_;
  ToyModel model_;
  int64_t calls_ = 0;
};

TEST(EnginePropertyTest, ControlTwoSwappedPagesAreCaught) {
  BrokenModel model(BrokenModel::Kind::kSwapPages);
  EXPECT_GT(DifferencesOf(&model), 3);
}

TEST(EnginePropertyTest, ControlAWrongTokenInThePagesIsCaught) {
  BrokenModel model(BrokenModel::Kind::kWrongToken);
  EXPECT_GT(DifferencesOf(&model), 10);
}

TEST(EnginePropertyTest, ControlFlushedDenormalsAreCaught) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "sets MXCSR";
#endif
  BrokenModel model(BrokenModel::Kind::kFlushDenormals);
  EXPECT_GT(DifferencesOf(&model), 10);
}

}  // namespace
}  // namespace tutti::engine
