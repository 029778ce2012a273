#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/reference/reference.h"
#include "kernels/self_check.h"
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

TEST(RegistryTest, SelectIsaForcesOneForTheProcess) {
  ASSERT_TRUE(SelectIsa("reference").ok());
  EXPECT_EQ(Kernels().isa, Isa::kReference);
  ASSERT_TRUE(SelectIsa("auto").ok());
}

TEST(RegistryTest, SelectIsaRefusesWhatIsUnknownOrMissing) {
  const absl::Status unknown = SelectIsa("sse9");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("sse9"));
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (KernelsFor(isa) != nullptr) continue;
    EXPECT_EQ(SelectIsa(IsaName(isa)).code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(SelfCheckTest, PassesForEveryTableOfThisMachine) {
  for (Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) {
    if (const KernelTable* table = KernelsFor(isa)) {
      EXPECT_EQ(SelfCheck(*table), "");
    }
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
        const float a = x.d[t * (x.cols / 32) + k / 32] * static_cast<float>(x.q[t * x.cols + k]);
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
  std::vector<float> x(64, 0.7f), d(2), want(20), got(20);
  std::vector<int8_t> q(64);
  std::vector<int32_t> s(2);
  const KernelTable& k = Kernels();
  k.quantize_rows(x.data(), 1, 64, q.data(), d.data(), s.data());
  const QuantizedRows in{1, 64, q.data(), d.data(), s.data()};
  k.matmul_quantized(*before, in, 0, 2, want.data(), 20);
  k.matmul_quantized(*after, in, 0, 2, got.data(), 20);
  for (size_t n = 0; n < 20; ++n) EXPECT_EQ(want[n] != got[n], n == 7) << n;
}

#if defined(__x86_64__)
// 2^-130 is subnormal; times 1 it stays itself only when subnormals are neither flushed nor read as
// zero.
float ScaledSubnormal() {
  const float x = 0x1p-130f;
  float y = -1;
  Kernels().scale(&x, 1.0f, 1, &y);
  return y;
}

TEST(FloatingPointModeTest, KeepsSubnormalsEvenWhenTheyWereFlushedBefore) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero: the negative control
  const float flushed = ScaledSubnormal();
  const std::string differing = SelfCheck(Kernels());
  SetFloatingPointMode();
  const float kept = ScaledSubnormal();
  _mm_setcsr(before);
  EXPECT_EQ(flushed, 0.0f);
  EXPECT_EQ(kept, 0x1p-130f);
  EXPECT_EQ(differing, "");  // the reference ran with the same fault, so a self-check cannot see it
}

TEST(FloatingPointModeTest, HoldsInPoolThreadsWhateverTheirCreatorHad) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  ThreadPool pool({.num_threads = 3});
  SetFloatingPointMode();
  std::vector<unsigned> mode(64);
  pool.ParallelFor(64, [&](int64_t i, int) {
    mode[static_cast<size_t>(i)] = _mm_getcsr() & 0xFFC0u;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  });
  _mm_setcsr(before);
  for (unsigned m : mode) EXPECT_EQ(m, 0x1F80u);
}
#endif

}  // namespace
}  // namespace tutti::kernels
