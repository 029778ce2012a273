// The promise of the house in one process: one golden continuation per request, equal in every bit
// (ids, logprobs, digests) whatever the batch, the chunks, the cache, the pages, the threads, the
// instruction set, and the index that a resume starts from. The recorded ones also hold it equal
// between machines and commits: rewrite them with `golden_exactness --rewrite` and say why.
//
// The controls at the end break one thing each on purpose and see the digests change.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "shared/testing/model_writer.h"
#include "tests/golden/exactness_cases.h"
#include "tests/golden/model_fixture.h"

namespace tutti::golden {

bool g_rewrite = false;

namespace {

using engine::EngineOptions;
using engine::EngineStats;
using engine::Job;
using engine::Outcome;
using engine::RunAlone;
using engine::RunJobs;
using engine::SequenceId;
using engine::SequenceRequest;
using ::testing::ElementsAreArray;

std::string Printed(const Outcome& o) {
  std::string all;
  for (const std::string& line : BitsOf(o)) all += line + "\n";
  return all;
}

class ExactnessTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    model_ = FindModel(GetParam());
    if (model_.path.empty()) GTEST_SKIP() << "the real model is not on this machine";
    if (loaded_ != GetParam()) {  // one load and one set of golden continuations per model
      decoder_ = LoadOrDie(model_.path, DType::kF16);
      requests_ = ExactRequests(decoder_->info(), model_.real);
      alone_.clear();
      for (const SequenceRequest& r : requests_) alone_.push_back(RunAlone(decoder_.get(), r));
      loaded_ = GetParam();
    }
  }
  static void TearDownTestSuite() {
    decoder_.reset();
    loaded_.clear();
  }

  static std::vector<Job> JobsOf(const std::vector<SequenceRequest>& requests) {
    std::vector<Job> jobs;
    for (const SequenceRequest& r : requests) jobs.push_back({.request = r});
    return jobs;
  }
  // The first `n` requests of a real model, all of a tiny one.
  std::vector<SequenceRequest> Some(size_t n) const {
    return {requests_.begin(),
            requests_.begin() + static_cast<ptrdiff_t>(model_.real ? n : requests_.size())};
  }
  // Every job comes out as its request does alone.
  void ExpectGolden(model::DecoderModel* model, const EngineOptions& options,
                    const std::vector<Job>& jobs, EngineStats* stats = nullptr) {
    std::map<SequenceId, Outcome> outcomes = RunJobs(model, options, jobs, stats);
    ASSERT_FALSE(jobs.empty());
    for (const Job& job : jobs) {
      const SequenceId id = job.request.id;
      ASSERT_TRUE(outcomes.contains(id)) << "request " << id << " gave nothing";
      EXPECT_EQ(Printed(outcomes[id]), Printed(alone_[(id - 1) % requests_.size()]))
          << "request " << id;
    }
    EXPECT_EQ(outcomes.size(), jobs.size());
  }

  ExactModel model_;
  static inline std::string loaded_;
  static inline std::unique_ptr<model::DecoderModel> decoder_;
  static inline std::vector<SequenceRequest> requests_;
  static inline std::vector<Outcome> alone_;
};

TEST_P(ExactnessTest, ContinuationsAreTheRecordedOnes) {
  std::vector<Recorded> got;
  for (const Outcome& o : alone_) got.push_back(RecordOf(o));
  if (g_rewrite) SaveRecorded(model_.name, requests_, got);
  const std::vector<Recorded> want = LoadRecorded(model_.name);
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].tokens, want[i].tokens) << i;
    EXPECT_EQ(got[i].logprob_bits, want[i].logprob_bits) << i;
    EXPECT_EQ(got[i].digest, want[i].digest) << i;
  }
}

TEST_P(ExactnessTest, InABatchWithFifteenOthersThatArriveAtRandom) {
  for (uint32_t seed = 0; seed < (model_.real ? 1u : 4u); ++seed) {
    std::vector<Job> jobs = JobsOf(requests_);
    for (Job& job : jobs)
      job.arrival_step = static_cast<int>((job.request.id * 2654435761u + seed * 977) >> 7) % 12;
    ExpectGolden(decoder_.get(), {.num_pages = 256}, jobs);
  }
}

TEST_P(ExactnessTest, WithPrefillChunksOfOneSevenSixtyFourAndAll) {
  for (int chunk : {1, 7, 64, 0}) {
    SCOPED_TRACE(chunk);
    ExpectGolden(decoder_.get(),
                 {.num_pages = 256,
                  .max_batch_tokens = 80,
                  .prefill_chunk_tokens = chunk,
                  .prefix_cache = false},
                 JobsOf(Some(4)));
  }
}

TEST_P(ExactnessTest, WithAColdAndAWarmPrefixCache) {
  std::vector<Job> jobs = JobsOf(Some(7));
  const size_t n = jobs.size();
  for (size_t i = 0; i < n; ++i) {  // all of them again when the first ones are long done
    Job again = jobs[i];
    again.request.id += requests_.size();
    again.arrival_step = 3000;
    jobs.push_back(std::move(again));
  }
  EngineStats stats;
  ExpectGolden(decoder_.get(), {.num_pages = 256}, jobs, &stats);
  EXPECT_GE(stats.prefix_hit_tokens, 16 * n / 2);
}

TEST_P(ExactnessTest, WithForcedPreemption) {
  EngineOptions options;
  // The largest request fits, and little beside it.
  int32_t largest = 0;
  for (const SequenceRequest& r : requests_) {
    largest = std::max(
        largest, engine::PagesFor(static_cast<int64_t>(r.prompt.size()) + r.params.max_tokens));
  }
  options.num_pages = largest + 1;
  uint64_t preemptions = 0;
  for (bool cache : {false, true}) {
    options.prefix_cache = cache;
    std::vector<Job> jobs = JobsOf(requests_);
    for (Job& job : jobs) job.request.priority = static_cast<int32_t>(job.request.id % 3);
    for (Job& job : jobs)
      job.arrival_step = 2 * static_cast<int>(job.request.id);  // better ones arrive later
    EngineStats stats;
    ExpectGolden(decoder_.get(), options, jobs, &stats);
    preemptions += stats.preemptions;
    if (model_.real) break;
  }
  EXPECT_GT(preemptions, 0u);
}

TEST_P(ExactnessTest, WithOneAndWithTwoThreads) {
  ThreadPool pool({.num_threads = 2});
  const auto model = LoadOrDie(model_.path, DType::kF16, &pool);
  EXPECT_EQ(model->info().fingerprint, decoder_->info().fingerprint);
  ExpectGolden(model.get(), {.num_pages = 256, .pool = &pool}, JobsOf(Some(8)));
}

TEST_P(ExactnessTest, ResumedFromAnyIndex) {
  for (size_t i = 0; i < requests_.size(); i += model_.real ? 7 : 5) {
    const Outcome& whole = alone_[i];
    const auto ids = whole.ids();
    std::vector<Job> jobs;
    for (size_t cut = 0; cut < ids.size(); ++cut) {
      Job job{.request = requests_[i]};
      job.request.id = cut + 1;
      job.request.generated.assign(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut));
      job.request.digest = cut == 0 ? 0 : whole.tokens[cut - 1].digest;
      jobs.push_back(std::move(job));
    }
    auto outcomes = RunJobs(decoder_.get(), {.num_pages = 512, .prefill_chunk_tokens = 7}, jobs);
    for (size_t cut = 0; cut < ids.size(); ++cut) {
      Outcome tail = whole;
      tail.tokens.erase(tail.tokens.begin(), tail.tokens.begin() + static_cast<ptrdiff_t>(cut));
      EXPECT_EQ(Printed(outcomes[cut + 1]), Printed(tail))
          << "request " << i + 1 << " from " << cut;
    }
  }
}

TEST_P(ExactnessTest, WithEveryInstructionSetOfTheMachine) {
  for (kernels::Isa isa : {kernels::Isa::kReference, kernels::Isa::kAvx2, kernels::Isa::kAvx512,
                           kernels::Isa::kAmx, kernels::Isa::kNeon}) {
    const std::string name(kernels::IsaName(isa));
    if (kernels::KernelsFor(isa) == nullptr) continue;
    SCOPED_TRACE(name);
    ASSERT_TRUE(kernels::SelectIsa(name).ok());
    const auto model = LoadOrDie(model_.path, DType::kF16);
    EXPECT_EQ(model->info().fingerprint, decoder_->info().fingerprint);
    if (model_.real) {  // the scalar reference is slow: the shortest request, and a batch of two
      std::vector<size_t> order(requests_.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::sort(order.begin(), order.end(), [](size_t a, size_t b) {
        return requests_[a].prompt.size() < requests_[b].prompt.size();
      });
      ExpectGolden(model.get(), {.num_pages = 64},
                   JobsOf({requests_[order[0]], requests_[order[1]]}));
    } else {
      ExpectGolden(model.get(), {.num_pages = 256}, JobsOf(requests_));
    }
  }
  kernels::UseKernelsForTesting(nullptr);
}

TEST_P(ExactnessTest, WithACacheOfInt8AsWell) {
  // Given continuations of one request at a time over the int8 cache, which are others,
  const auto model = LoadOrDie(model_.path, DType::kQ8_0);
  EXPECT_NE(model->info().fingerprint, decoder_->info().fingerprint);
  const std::vector<SequenceRequest> requests = Some(4);
  std::vector<Outcome> alone;
  int others = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    alone.push_back(RunAlone(model.get(), requests[i]));
    others += alone[i].digest != alone_[i].digest ? 1 : 0;
  }
  EXPECT_GT(others, 0);
  const auto expect_same = [&](std::map<SequenceId, Outcome> outcomes) {
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(Printed(outcomes[requests[i].id]), Printed(alone[i])) << requests[i].id;
    }
  };
  // then batches, chunks, threads and instruction sets give the same.
  ThreadPool pool({.num_threads = 2});
  const auto threaded = LoadOrDie(model_.path, DType::kQ8_0, &pool);
  for (int chunk : {1, 7, 64, 0}) {
    SCOPED_TRACE(chunk);
    std::vector<Job> jobs = JobsOf(requests);
    for (Job& job : jobs) job.arrival_step = static_cast<int>(job.request.id * 5 % 7);
    expect_same(RunJobs(threaded.get(),
                        {.num_pages = 256, .prefill_chunk_tokens = chunk, .pool = &pool}, jobs));
  }
  if (model_.real) return;  // the scalar reference is slow
  for (const auto& [name, table] : kernels::RunnableTables()) {
    SCOPED_TRACE(name);
    kernels::UseKernelsForTesting(table);
    expect_same(
        RunJobs(LoadOrDie(model_.path, DType::kQ8_0).get(), {.num_pages = 256}, JobsOf(requests)));
  }
  kernels::UseKernelsForTesting(kernels::KernelsFor(kernels::Isa::kReference));
  expect_same(
      RunJobs(LoadOrDie(model_.path, DType::kQ8_0).get(), {.num_pages = 256}, JobsOf(requests)));
  kernels::UseKernelsForTesting(nullptr);
}

// Options that leave experts out change the answer and the fingerprint, each its own way.
TEST(ExactnessOptionsTest, EveryOptionOfAMixtureIsAnotherModel) {
  std::set<uint64_t> fingerprints;
  std::set<uint64_t> digests;
  for (const char* name : {"mixtral_8x2", "mixtral_second", "mixtral_capacity", "mixtral_both"}) {
    const auto model = LoadOrDie(FindModel(name).path, DType::kF16);
    fingerprints.insert(model->info().fingerprint);
    digests.insert(RunAlone(model.get(), ExactRequests(model->info(), false)[2]).digest);
    EXPECT_EQ(model->info().kv_depends_on_seed, model->config().gating.random_second);
  }
  EXPECT_EQ(fingerprints.size(), 4u);
  EXPECT_EQ(digests.size(), 4u);
}

// Controls. Each counts the requests whose bits changed; none may hide.

int CountChanged(model::DecoderModel* model, const std::vector<SequenceRequest>& requests,
                 const std::vector<Outcome>& want) {
  int changed = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    changed += RunAlone(model, requests[i]).digest != want[i].digest ? 1 : 0;
  }
  return changed;
}

// rms_norm and layer_norm with the sum in plain order instead of 16 lanes: what a compiler with
// -ffast-math, or another library, would do.
void FreeOrderRmsNorm(const float* x, const float* gain, float gain_offset, float eps, int64_t n,
                      float* y) {
  float ss = 0;
  for (int64_t i = 0; i < n; ++i) ss = std::fma(x[i], x[i], ss);
  const float r = 1.0f / std::sqrt(ss / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] * r) * (gain[i] + gain_offset);
}

void FreeOrderRmsNormQuantize(const float* x, const float* gain, float gain_offset, float eps,
                              int64_t n, float* y, int8_t* q, kernels::BlockScale* scales) {
  FreeOrderRmsNorm(x, gain, gain_offset, eps, n, y);
  kernels::KernelsFor(kernels::Isa::kReference)->quantize_rows(y, 1, n, q, scales);
}

void FreeOrderLayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t n,
                        float* y) {
  float sum = 0, ss = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) ss = std::fma(x[i] - mean, x[i] - mean, ss);
  const float r = 1.0f / std::sqrt(ss / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    const float scaled = ((x[i] - mean) * r) * gain[i];
    y[i] = bias != nullptr ? scaled + bias[i] : scaled;
  }
}

TEST_P(ExactnessTest, ControlAKernelWithFreeOrderIsCaught) {
  kernels::KernelTable table = kernels::Kernels();
  table.rms_norm = FreeOrderRmsNorm;
  table.rms_norm_quantize = FreeOrderRmsNormQuantize;
  table.layer_norm = FreeOrderLayerNorm;
  kernels::UseKernelsForTesting(&table);
  const auto model = LoadOrDie(model_.path, DType::kF16);
  const auto some = Some(3);
  EXPECT_EQ(CountChanged(model.get(), some, alone_), static_cast<int>(some.size()));
  kernels::UseKernelsForTesting(nullptr);
}

TEST_P(ExactnessTest, ControlOneFlippedWeightBitIsCaught) {
  const testing::TempDir dir;
  const auto model = LoadOrDie(WriteFlippedBit(model_, dir.path()), DType::kF16);
  const auto some = Some(3);
  EXPECT_EQ(CountChanged(model.get(), some, alone_), static_cast<int>(some.size()));
  EXPECT_NE(model->info().fingerprint, decoder_->info().fingerprint);
}

#if defined(__x86_64__)
const kernels::KernelTable* g_strict = nullptr;

// Runs one kernel with flush-to-zero and denormals-are-zero, as a process that set them would.
void FlushingMatmul(const kernels::PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                    int64_t begin, int64_t end, float* y, int64_t y_stride) {
  const unsigned saved = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(saved | 0x8040);
  g_strict->matmul_float(w, x, num_x, x_stride, begin, end, y, y_stride);
  __builtin_ia32_ldmxcsr(saved);
}

TEST(ExactnessControlTest, FlushedDenormalsAreCaught) {
  const ExactModel tiny = FindModel("llama_gqa");
  const testing::TempDir dir;
  const std::string path = WriteDenormal(tiny, dir.path());
  const auto model = LoadOrDie(path, DType::kF32);
  const auto requests = ExactRequests(model->info(), false);
  std::vector<Outcome> want;
  for (const SequenceRequest& r : requests) want.push_back(RunAlone(model.get(), r));
  EXPECT_EQ(CountChanged(model.get(), requests, want), 0);

  g_strict = &kernels::Kernels();
  kernels::KernelTable table = *g_strict;
  table.matmul_float = FlushingMatmul;
  kernels::UseKernelsForTesting(&table);
  const auto flushing = LoadOrDie(path, DType::kF32);
  EXPECT_EQ(CountChanged(flushing.get(), requests, want), static_cast<int>(requests.size()));
  kernels::UseKernelsForTesting(nullptr);
}

// The forward pass sets the mode itself, so a caller that flushes does no harm.
TEST(ExactnessControlTest, AFlushingCallerIsCorrected) {
  const ExactModel tiny = FindModel("llama_gqa");
  const testing::TempDir dir;
  const auto model = LoadOrDie(WriteDenormal(tiny, dir.path()), DType::kF32);
  const SequenceRequest request = ExactRequests(model->info(), false)[1];
  const Outcome want = RunAlone(model.get(), request);
  const unsigned saved = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(saved | 0x8040);
  const Outcome got = RunAlone(model.get(), request);
  __builtin_ia32_ldmxcsr(saved);
  EXPECT_EQ(Printed(got), Printed(want));
}
#endif

INSTANTIATE_TEST_SUITE_P(Tiny, ExactnessTest,
                         ::testing::Values("llama_gqa", "mistral_sliding", "gemma2", "qwen3_qknorm",
                                           "gpt2_prenorm", "openai_gpt_postnorm", "deepseek_v3",
                                           "mixtral_8x2", "mixtral_second", "mixtral_capacity",
                                           "mixtral_both"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Real, ExactnessTest, ::testing::Values("smollm2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tutti::golden

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  for (int i = 1; i < argc; ++i) tutti::golden::g_rewrite |= std::string(argv[i]) == "--rewrite";
  return RUN_ALL_TESTS();
}
