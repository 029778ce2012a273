// Experts that do not run where the model does: the bits of one process, whoever runs them, when,
// and in how many micro-batches. And a backend that loses one row of one expert is caught.
#include <gtest/gtest.h>

#include <atomic>

#include "kernels/kernels.h"
#include "shared/model/testing_llama.h"
#include "shared/testing/model_writer.h"
#include "tests/golden/exactness_cases.h"
#include "tests/golden/held_experts.h"
#include "tests/golden/model_fixture.h"

namespace tutti::golden {
namespace {

using engine::EngineOptions;
using engine::Job;
using engine::Outcome;
using engine::RunAlone;
using engine::RunJobs;
using engine::SequenceId;
using engine::SequenceRequest;

// Five layers of a dense FFN, cut into three slices.
constexpr char kSliced[] = "sliced";

std::string SlicedPath() {
  static const testing::TempDir dir;
  static const std::string path = [] {
    model::TinyLlama tiny;
    tiny.layers = 5;
    tiny.ffn = 5 * 256;
    tiny.context = 128;
    return dir.Write("sliced.gguf", tiny.Image());
  }();
  return path;
}

class ExpertBackendsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    slices_ = GetParam() == kSliced ? 3 : 0;
    path_ = slices_ > 0 ? SlicedPath() : FindModel(GetParam()).path;
    const auto here = Load({});
    info_ = here->info();
    requests_ = ExactRequests(info_, false);
    for (const SequenceRequest& r : requests_) alone_.push_back(RunAlone(here.get(), r));
    if (const auto recorded = LoadRecorded(GetParam()); !recorded.empty()) {
      for (size_t i = 0; i < alone_.size(); ++i)
        ASSERT_EQ(RecordOf(alone_[i]).digest, recorded[i].digest);
    }
    held_ = std::make_unique<HeldExperts>(path_, slices_);
  }
  std::unique_ptr<model::DecoderModel> Load(model::LoadOptions options) {
    options.ffn_slices = slices_;
    auto model = model::LoadDecoder(path_, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(*model);
  }
  // All requests together, in chunks of several sizes; they arrive one after the other, so that a
  // step has rows of prompts and of outputs.
  void ExpectGolden(model::DecoderModel* model, ThreadPool* pool = nullptr) {
    EXPECT_EQ(model->info().fingerprint, info_.fingerprint);
    for (const int chunk : {1, 7, 0}) {
      SCOPED_TRACE(chunk);
      std::vector<Job> jobs;
      for (const SequenceRequest& r : requests_)
        jobs.push_back({.request = r, .arrival_step = static_cast<int>(r.id * 5 % 11)});
      auto outcomes =
          RunJobs(model, {.num_pages = 256, .prefill_chunk_tokens = chunk, .pool = pool}, jobs);
      for (size_t i = 0; i < requests_.size(); ++i)
        EXPECT_EQ(BitsOf(outcomes[requests_[i].id]), BitsOf(alone_[i])) << "request " << i + 1;
    }
  }

  int slices_ = 0;
  std::string path_;
  model::ModelInfo info_;
  std::vector<SequenceRequest> requests_;
  std::vector<Outcome> alone_;
  std::unique_ptr<HeldExperts> held_;
};

TEST_P(ExpertBackendsTest, OneBatchOrTwoMicroBatchesGiveTheSameBits) {
  const auto there = Load({.experts = held_.get()});
  ExpectGolden(there.get());
  EXPECT_EQ(held_->overlapped, 0);
  for (const int64_t rows : {2, 9}) {
    SCOPED_TRACE(rows);
    held_->overlapped = 0;
    held_->overlap_rows = rows;
    ExpectGolden(there.get());
    EXPECT_GT(held_->overlapped, 0);
  }
}

TEST_P(ExpertBackendsTest, TwoMicroBatchesOverTwoThreadsGiveTheSameBits) {
  ThreadPool pool({.num_threads = 2});
  held_->overlap_rows = 2;
  const auto there = Load({.experts = held_.get(), .pool = &pool});
  ExpectGolden(there.get(), &pool);
  EXPECT_GT(held_->overlapped, 0);
}

TEST_P(ExpertBackendsTest, AllSomeOrNoneOfThemHereGiveTheSameBits) {
  int64_t all = 0;
  for (const std::string local : {"0", "1", "0/0-1", "0-1/1,1/0", "all"}) {
    for (const int64_t rows : {INT64_MAX, int64_t{2}}) {
      SCOPED_TRACE(local + (rows == 2 ? " in two" : ""));
      held_->pairs = held_->overlapped = 0;
      held_->overlap_rows = rows;
      const auto mixed = Load({.experts = held_.get(), .local_experts = local});
      ExpectGolden(mixed.get());
      if (local == "0") {
        all = held_->pairs;
      } else if (local == "all") {
        EXPECT_EQ(held_->pairs, 0);
        EXPECT_EQ(mixed->info().weight_bytes, Load({})->info().weight_bytes);
      } else {
        EXPECT_LT(held_->pairs, all);
        EXPECT_GT(held_->pairs, 0);
        EXPECT_LT(mixed->info().weight_bytes, Load({})->info().weight_bytes);
      }
    }
  }
}

TEST_P(ExpertBackendsTest, LocalExpertsThatAreNotThereAreRefused) {
  const auto status = [&](const model::LoadOptions& options) {
    model::LoadOptions o = options;
    o.ffn_slices = slices_;
    return model::LoadDecoder(path_, o).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(status({.experts = held_.get(), .local_experts = "99"})));
  EXPECT_TRUE(absl::IsInvalidArgument(status({.experts = held_.get(), .local_experts = "99/0"})));
  EXPECT_TRUE(absl::IsInvalidArgument(status({.local_experts = "1"})));
}

// The sequences of the step fail, nothing is left under way, and the next ones are right.
TEST_P(ExpertBackendsTest, AHalfThatFailsFailsTheStepAndNothingElse) {
  held_->overlap_rows = 2;
  const auto there = Load({.experts = held_.get()});
  for (int64_t wait = 0; wait < 8; ++wait) {
    SCOPED_TRACE(wait);
    held_->waits = 0;
    held_->failing_wait = wait;
    std::vector<Job> jobs;
    for (const SequenceRequest& r : {requests_[2], requests_[5]}) jobs.push_back({.request = r});
    const auto outcomes = RunJobs(there.get(), {.num_pages = 64}, jobs);
    EXPECT_FALSE(held_->under_way());
    int failed = 0;
    for (const auto& [id, o] : outcomes) failed += absl::IsUnavailable(o.status) ? 1 : 0;
    EXPECT_GT(failed, 0);
  }
  held_->failing_wait = -1;
  ExpectGolden(there.get());
}

// The control: one row of one expert, once, at a prompt's token or at one that was sampled.
TEST_P(ExpertBackendsTest, ControlOneSkippedExpertIsCaught) {
  const auto there = Load({.experts = held_.get()});
  for (const size_t i : {2u, 5u, 6u}) {
    SCOPED_TRACE(i);
    const SequenceRequest& r = requests_[i];
    EXPECT_EQ(BitsOf(RunAlone(there.get(), r)), BitsOf(alone_[i]));
    for (const int64_t pair : {0, 3, 17}) {
      HeldExperts faulty(path_, slices_);
      faulty.skip = HeldExperts::Skip{.moe_layer = 0, .pair = pair};
      const Outcome o = RunAlone(Load({.experts = &faulty}).get(), r);
      ASSERT_EQ(faulty.skipped, 1);
      EXPECT_NE(o.digest, alone_[i].digest) << "pair " << pair;
    }
  }
}

std::atomic<int64_t> g_matmuls{0};

void CountingMatmul(const kernels::PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                    int64_t begin, int64_t end, float* y, int64_t y_stride) {
  ++g_matmuls;
  kernels::KernelsFor(kernels::Isa::kReference)
      ->matmul_float(w, x, num_x, x_stride, begin, end, y, y_stride);
}

// While rows are with shards the shared expert is computed, and the other micro-batch.
TEST(ExpertOverlapTest, TheModelWorksWhileRowsAreUnderWay) {
  kernels::KernelTable table = kernels::Kernels();
  table.matmul_float = CountingMatmul;
  const auto idle_share = [&](const std::string& name, int64_t overlap_rows) {
    const std::string path = FindModel(name).path;
    HeldExperts held(path);
    held.work = [] { return g_matmuls.load(); };
    held.overlap_rows = overlap_rows;
    kernels::UseKernelsForTesting(&table);  // the model's alone, not those of `held`
    const auto model = model::LoadDecoder(path, {.experts = &held});
    EXPECT_TRUE(model.ok()) << model.status();
    SequenceRequest r = ExactRequests((*model)->info(), false)[2];
    r.prompt.resize(8, 3);
    r.params.max_tokens = 1;  // one step
    RunAlone(model->get(), r);
    kernels::UseKernelsForTesting(nullptr);
    EXPECT_GT(held.waits, 0);
    return static_cast<double>(held.idle_waits) / static_cast<double>(held.waits);
  };
  EXPECT_EQ(idle_share("mixtral_8x2", INT64_MAX), 1);  // nothing to do
  EXPECT_EQ(idle_share("qwen2_moe_shared", INT64_MAX), 0);
  // Only the last half of the layer before the last, and the last layer, have nothing beside them.
  EXPECT_EQ(idle_share("mixtral_8x2", 2), 2.0 / 3);
  EXPECT_EQ(idle_share("qwen2_moe_shared", 2), 0);
}

INSTANTIATE_TEST_SUITE_P(Tiny, ExpertBackendsTest,
                         ::testing::Values("mixtral_8x2", "mixtral_second", "mixtral_capacity",
                                           "mixtral_both", "qwen2_moe_shared", "deepseek_v3",
                                           kSliced),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tutti::golden
