// One promise over many random lives: a sequence's tokens, logprob bits and digests are those of
// its run alone, whatever happens around it. Each seed is one random service; a failing one is
// printed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/engine/random_service.h"
#include "shared/testing/toy_model.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAreArray;
using testing::ToyModel;

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
