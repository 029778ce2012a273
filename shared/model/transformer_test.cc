#include "shared/model/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <new>

#include "shared/model/single_sequence.h"
#include "shared/model/testing_llama.h"

namespace {
std::atomic<int64_t> num_allocations = 0;
}  // namespace

// Counts what the steps of one test allocate. (The compiler sees malloc and free through the
// replaced operators and takes them for a mismatch.)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t bytes) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes == 0 ? 1 : bytes)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace tutti::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TransformerTest : public ::testing::Test {
 protected:
  void Load(const TinyLlama& tiny, ThreadPool* threads = nullptr) {
    const tutti::testing::TempDir dir;
    auto model = LoadTransformer(dir.Write("model.gguf", tiny.Image()), {.pool = threads});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    pool_ = std::make_unique<kv_cache::PagePool>(model_->info().kv, 16);
    for (int i = 0; i < 16; ++i) pages_.push_back(*pool_->Allocate());
  }
  // Four pages for each of four sequences.
  std::span<const kv_cache::PageId> Pages(int sequence) const {
    return std::span(pages_).subspan(static_cast<size_t>(4 * sequence), 4);
  }
  absl::Status Run(std::vector<SequenceSlice> slices) {
    return model_->Forward(slices, *pool_, &out_);
  }

  std::unique_ptr<Transformer> model_;
  std::unique_ptr<kv_cache::PagePool> pool_;
  std::vector<kv_cache::PageId> pages_;
  StepOutput out_;
};

TEST_F(TransformerTest, WrongSlicesAreRefusedByName) {
  Load({});
  const std::vector<int32_t> good = {1, 2, 3}, bad_id = {1, 48, 3}, negative = {-1};
  const auto message = [&](const SequenceSlice& slice) {
    const absl::Status status = Run({slice});
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(message({.tokens = {}, .pages = Pages(0)}), HasSubstr("no tokens"));
  EXPECT_THAT(message({.tokens = bad_id, .pages = Pages(0)}),
              AllOf(HasSubstr("token id 48 at position 1"), HasSubstr("[0, 48)")));
  EXPECT_THAT(message({.tokens = negative, .pages = Pages(0)}), HasSubstr("token id -1"));
  EXPECT_THAT(message({.tokens = good, .first_pos = 62, .pages = Pages(0)}), HasSubstr("[62, 65)"));
  EXPECT_THAT(message({.tokens = good, .first_pos = -1, .pages = Pages(0)}), HasSubstr("[-1, 2)"));
  EXPECT_THAT(message({.tokens = good, .first_pos = 15, .pages = Pages(0).first(1)}),
              HasSubstr("do not cover 18"));
  EXPECT_THAT(message({.tokens = good, .pages = Pages(0), .num_logits = 4}),
              HasSubstr("num_logits is 4"));
  const std::vector<kv_cache::PageId> wild = {99};
  EXPECT_THAT(message({.tokens = good, .pages = wild}), HasSubstr("page 99"));
}

TEST_F(TransformerTest, OnlyWantedRowsGetLogitsInOrder) {
  Load({});
  const std::vector<int32_t> a = {1, 2, 3, 4}, b = {9, 8};
  ASSERT_TRUE(Run({{.tokens = a, .pages = Pages(0), .num_logits = 4}}).ok());
  const std::vector<float> all_a = out_.logits;
  ASSERT_TRUE(Run({{.tokens = b, .pages = Pages(1), .num_logits = 2}}).ok());
  const std::vector<float> all_b = out_.logits;

  ASSERT_TRUE(Run({{.tokens = a, .pages = Pages(0), .num_logits = 2},
                   {.tokens = b, .pages = Pages(1), .num_logits = 0},
                   {.tokens = b, .pages = Pages(2), .num_logits = 1}})
                  .ok());
  ASSERT_EQ(out_.logits.size(), 3u * 48);
  EXPECT_EQ(std::memcmp(out_.logits.data(), all_a.data() + 2 * 48, 2 * 48 * sizeof(float)), 0);
  EXPECT_EQ(std::memcmp(out_.logits.data() + 2 * 48, all_b.data() + 48, 48 * sizeof(float)), 0);
  EXPECT_EQ(out_.slice_status.size(), 3u);

  ASSERT_TRUE(Run({{.tokens = a, .pages = Pages(0), .num_logits = 0}}).ok());
  EXPECT_TRUE(out_.logits.empty());
  ASSERT_TRUE(Run({}).ok());
}

// G4: a fault stays with its sequence.
class FaultTest : public TransformerTest, public ::testing::WithParamInterface<float> {};

TEST_P(FaultTest, ANumberThatIsNotFiniteFailsItsOwnSequenceAndNoOther) {
  // Given a model whose embedding of token 7 cannot be computed with,
  TinyLlama tiny;
  tiny.spoil = [](const std::string& name, auto&, std::vector<float>& values) {
    if (name == "token_embd.weight") values[7 * 32 + 5] = GetParam();
  };
  // (the output matrix is another one, so that other rows are not touched)
  tiny.more_metadata = [](tutti::testing::GgufWriter& w) {
    w.Tensor("output.weight", {48, 32}, std::vector<float>(48 * 32, 0.25f));
  };
  Load(tiny);
  const std::vector<int32_t> good = {1, 2, 3}, bad = {4, 5, 7, 6};
  ASSERT_TRUE(Run({{.tokens = good, .pages = Pages(0), .num_logits = 3}}).ok());
  const std::vector<float> want = out_.logits;
  // when it runs in a batch with others,
  ASSERT_TRUE(Run({{.tokens = good, .pages = Pages(0), .num_logits = 3},
                   {.tokens = bad, .pages = Pages(1), .num_logits = 1},
                   {.tokens = good, .pages = Pages(2), .num_logits = 3}})
                  .ok());
  // then it alone fails, with layer and row, and the others are as they were alone.
  ASSERT_EQ(out_.slice_status.size(), 3u);
  EXPECT_TRUE(out_.slice_status[0].ok());
  EXPECT_TRUE(out_.slice_status[2].ok());
  EXPECT_TRUE(absl::IsInternal(out_.slice_status[1]));
  EXPECT_EQ(ReasonOf(out_.slice_status[1]), "NUMERIC_FAULT");
  EXPECT_THAT(std::string(out_.slice_status[1].message()),
              AllOf(HasSubstr("layer 0"), HasSubstr("row 2")));
  EXPECT_EQ(std::memcmp(out_.logits.data(), want.data(), want.size() * sizeof(float)), 0);
  EXPECT_EQ(std::memcmp(out_.logits.data() + 4 * 48, want.data(), want.size() * sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(Values, FaultTest,
                         ::testing::Values(std::numeric_limits<float>::quiet_NaN(),
                                           -std::numeric_limits<float>::infinity()));

TEST_F(TransformerTest, AStepNoLargerThanAnEarlierOneAllocatesNothing) {
  for (const int num_threads : {1, 2}) {
    ThreadPool threads({.num_threads = num_threads});
    Load({}, &threads);
    const std::vector<int32_t> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9}, one = {3};
    std::vector<SequenceSlice> first = {{.tokens = prompt, .pages = Pages(0), .num_logits = 1},
                                        {.tokens = prompt, .pages = Pages(1), .num_logits = 1}};
    std::vector<SequenceSlice> decode = {
        {.tokens = one, .first_pos = 9, .pages = Pages(0), .num_logits = 1},
        {.tokens = one, .first_pos = 9, .pages = Pages(1), .num_logits = 1}};
    ASSERT_TRUE(model_->Forward(first, *pool_, &out_).ok());
    ASSERT_TRUE(model_->Forward(decode, *pool_, &out_).ok());
    const int64_t before = num_allocations;
    for (int i = 0; i < 10; ++i) {
      ASSERT_TRUE(model_->Forward(decode, *pool_, &out_).ok());
      ASSERT_TRUE(model_->Forward(first, *pool_, &out_).ok());
    }
    EXPECT_EQ(num_allocations - before, 0) << num_threads << " threads";
  }
}

// A long text's last KV heads are cut by its positions, where threads are left over (and some, or
// all, layers may see a window of it only): no bit may change.
TEST(LongTextTest, AnyNumberOfThreadsGivesTheSameBits) {
  for (const uint32_t window : {0, 700}) {
    for (const uint32_t pattern : {1, 2}) {  // with 2, the last layer sees everything
      if (window == 0 && pattern == 2) continue;
      TinyLlama tiny{.hidden = 96, .heads = 6, .kv_heads = 3, .context = 2048};
      tiny.more_metadata = [=](tutti::testing::GgufWriter& w) {
        if (window == 0) return;
        w.U32("llama.attention.sliding_window", window);
        if (pattern == 2) w.U32("llama.attention.sliding_window_pattern", 2);
      };
      const tutti::testing::TempDir dir;
      const std::string path = dir.Write("model.gguf", tiny.Image());
      std::vector<int32_t> text(1600);
      for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int32_t>(i * i / 7 % 48);
      std::vector<float> want;
      for (const int num_threads : {1, 2, 4, 7}) {
        ThreadPool threads({.num_threads = num_threads});
        const auto model = LoadTransformer(path, {.pool = &threads});
        ASSERT_TRUE(model.ok()) << model.status();
        const auto sequence = SingleSequence::Create(model->get(), 2048);
        ASSERT_TRUE(sequence.ok()) << sequence.status();
        std::vector<float> got;
        // A prompt; steps of 4 rows, in one of which two see the chunk that begins at 1536 and two
        // do not; and steps of 1 to 9 rows.
        for (size_t first = 0, n = 1502; first < text.size();
             first += n, n = first < 1550 ? 4 : 1 + first % 9) {
          n = std::min(n, text.size() - first);
          const auto rows = std::span(text).subspan(first, n);
          const auto logits = (*sequence)->Append(rows, static_cast<int32_t>(n));
          ASSERT_TRUE(logits.ok()) << logits.status();
          got.insert(got.end(), logits->begin(), logits->end());
        }
        if (num_threads == 1) want = got;
        ASSERT_EQ(got.size(), text.size() * 48);
        EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
            << num_threads << " threads, window " << window << ", pattern " << pattern;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::model
