#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "kernels/self_check.h"
#include "kernels/tables.h"
#include "kernels/testing.h"
#include "shared/base/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tutti::kernels {
namespace {
using ::testing::HasSubstr;

TEST(RegistryTest, ReferenceIsAlwaysThereAndTheBestIsOneOfThem) {
  ASSERT_NE(KernelsFor(Isa::kReference), nullptr);
  EXPECT_EQ(&Kernels(), KernelsFor(Kernels().isa));
}

// A run of the suite may have set TUTTI_CPU; these tests say what holds without it and with it.
class TheEnvironmentSays {
 public:
  explicit TheEnvironmentSays(const char* cpu) {
    if (const char* value = std::getenv("TUTTI_CPU")) before_ = value;
    Set(cpu);
  }
  ~TheEnvironmentSays() { Set(before_ ? before_->c_str() : nullptr); }

 private:
  static void Set(const char* value) {
    value != nullptr ? ::setenv("TUTTI_CPU", value, 1) : ::unsetenv("TUTTI_CPU");
    UseKernelsForTesting(nullptr);
  }
  std::optional<std::string> before_;
};

TEST(RegistryTest, TheEnvironmentNamesTheTableThatServesUnlessOneIsSelected) {
  const TheEnvironmentSays reference("reference");
  EXPECT_EQ(Kernels().isa, Isa::kReference);
  ASSERT_TRUE(SelectIsa("auto").ok());
  EXPECT_EQ(Kernels().isa, Isa::kReference);
  ASSERT_TRUE(SelectIsa(IsaName(RunnableTables()[0].table->isa)).ok());
  EXPECT_EQ(&Kernels(), RunnableTables()[0].table);
  const TheEnvironmentSays nonsense("sse9");
  const absl::Status status = SelectIsa("auto");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("TUTTI_CPU: unknown instruction set 'sse9'"));
}

TEST(RegistryTest, TheFirstTableThatTheMachineCanRunServes) {
  const TheEnvironmentSays nothing(nullptr);
  const std::vector<RunnableTable> runnable = RunnableTables();
  EXPECT_EQ(&Kernels(), runnable[0].table) << runnable[0].name;
#if defined(__aarch64__)
  EXPECT_EQ(Kernels().isa, Isa::kNeon);
#endif
}

// Set where the machine is known (an emulated one): the names of its tables, best first.
TEST(RegistryTest, FindsTheTablesOfAKnownMachine) {
  const char* const expected = std::getenv("TUTTI_EXPECTED_TABLES");
  if (expected == nullptr) GTEST_SKIP() << "TUTTI_EXPECTED_TABLES is not set";
  std::string names;
  for (const RunnableTable& runnable : RunnableTables())
    names += (names.empty() ? "" : " ") + std::string(runnable.name);
  EXPECT_EQ(names, expected);
}

TEST(RegistryTest, SelectIsaForcesOneForTheProcess) {
  ASSERT_TRUE(SelectIsa("reference").ok());
  EXPECT_EQ(Kernels().isa, Isa::kReference);
  ASSERT_TRUE(SelectIsa("auto").ok());
}

TEST(RegistryTest, SelectIsaRefusesWhatIsUnknownOrMissing) {
  const absl::Status unknown = SelectIsa("sse9");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("sse9"));
  for (Isa isa : {Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx, Isa::kNeon}) {
    if (KernelsFor(isa) != nullptr) continue;
    EXPECT_EQ(SelectIsa(IsaName(isa)).code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(SelfCheckTest, PassesForEveryTableOfThisMachine) {
  for (const RunnableTable& runnable : RunnableTables()) {
    EXPECT_EQ(SelfCheck(*runnable.table), "") << runnable.name;
  }
}

// ---- Negative controls: each breaks one rule of docs/determinism.md and must be seen. ----

// Sums the blocks of a segment in two halves: mathematically the same, in another order (against
// G3).
void FreeOrderMatmul(const PackedMatrix& w, const QuantizedRows& x, int64_t group_begin,
                     int64_t group_end, float* y, int64_t y_stride) {
  std::vector<float> row(static_cast<size_t>(w.cols()));
  for (int64_t n = group_begin * kLanes; n < std::min(group_end * kLanes, w.rows()); ++n) {
    w.DequantizeRow(n, row.data());
    for (int64_t t = 0; t < x.num_rows; ++t) {
      float half[2] = {0, 0};
      for (int64_t k = 0; k < w.cols(); ++k) {
        const float a =
            x.scales[t * (x.cols / 32) + k / 32].d * static_cast<float>(x.q[t * x.cols + k]);
        half[k % 2] += row[static_cast<size_t>(k)] * a;
      }
      y[t * y_stride + n] = half[0] + half[1];
    }
  }
}

TEST(NegativeControlTest, AMatmulOfFreeOrderIsCaught) {
  KernelTable table = *KernelsFor(Isa::kReference);
  table.matmul_quantized = FreeOrderMatmul;
  EXPECT_EQ(SelfCheck(table), "matmul_quantized");
}

TEST(NegativeControlTest, AnExpFromLibmIsCaught) {
  KernelTable table = *KernelsFor(Isa::kReference);
  table.exp = [](const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; ++i) y[i] = __builtin_expf(x[i]);
  };
  EXPECT_EQ(SelfCheck(table), "exp, log");
}

TEST(NegativeControlTest, OneFlippedWeightBitChangesItsRowAndNoOther) {
  std::vector<std::byte> data = RandomWeights(DType::kQ4_1, 20, 64, 1);
  const auto before = PackedMatrix::Pack(DType::kQ4_1, 20, 64, data);
  data[7 * 40 + 9] ^= std::byte{1};  // row 7, in the quants of its first block
  const auto after = PackedMatrix::Pack(DType::kQ4_1, 20, 64, data);
  std::vector<float> x(64, 0.7f), want(20), got(20);
  std::vector<int8_t> q(64);
  std::vector<BlockScale> scales(2);
  const KernelTable& k = Kernels();
  k.quantize_rows(x.data(), 1, 64, q.data(), scales.data());
  const QuantizedRows in{1, 64, q.data(), scales.data()};
  k.matmul_quantized(*before, in, 0, 2, want.data(), 20);
  k.matmul_quantized(*after, in, 0, 2, got.data(), 20);
  for (size_t n = 0; n < 20; ++n) EXPECT_EQ(want[n] != got[n], n == 7) << n;
}

// The control register of floating point, without the flags that arithmetic sets.
#if defined(__x86_64__)
constexpr uint64_t kStrict = 0x1F80, kFlushing = kStrict | 0x8040;  // FZ and DAZ
uint64_t GetMode() { return _mm_getcsr() & 0xFFC0u; }
void SetMode(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#define TUTTI_HAS_MODE 1
#elif defined(__aarch64__)
constexpr uint64_t kStrict = 0, kFlushing = 1u << 24;  // FZ
uint64_t GetMode() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void SetMode(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#define TUTTI_HAS_MODE 1
#endif

#if defined(TUTTI_HAS_MODE)
// 2^-130 is subnormal; times 1 it stays itself only when subnormals are neither flushed nor read as
// zero.
float ScaledSubnormal() {
  const float x = 0x1p-130f;
  float y = -1;
  Kernels().scale(&x, 1.0f, 1, &y);
  return y;
}

TEST(FloatingPointModeTest, KeepsSubnormalsEvenWhenTheyWereFlushedBefore) {
  const uint64_t before = GetMode();
  SetMode(kFlushing);  // the negative control
  const float flushed = ScaledSubnormal();
  const std::string differing = SelfCheck(Kernels());
  SetFloatingPointMode();
  const float kept = ScaledSubnormal();
  SetMode(before);
  EXPECT_EQ(flushed, 0.0f);
  EXPECT_EQ(kept, 0x1p-130f);
  EXPECT_EQ(differing, "");  // the reference ran with the same fault, so a self-check cannot see it
}

TEST(FloatingPointModeTest, HoldsInPoolThreadsWhateverTheirCreatorHad) {
  const uint64_t before = GetMode();
  SetMode(kFlushing);
  ThreadPool pool({.num_threads = 3});
  SetFloatingPointMode();
  std::vector<uint64_t> mode(64);
  pool.ParallelFor(64, [&](int64_t i, int) {
    mode[static_cast<size_t>(i)] = GetMode();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  });
  SetMode(before);
  for (uint64_t m : mode) EXPECT_EQ(m, kStrict);
}
#endif

}  // namespace
}  // namespace tutti::kernels
