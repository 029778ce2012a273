// A dense FFN cut into slices.
#include <gtest/gtest.h>

#include "shared/model/testing_llama.h"
#include "shared/model/testing_run.h"

namespace tutti::model {
namespace {

// An FFN of five units of 256: slices of two of them differ in size.
absl::StatusOr<ModelRun> RunWith(int slices) {
  TinyLlama tiny;
  tiny.ffn = 5 * 256;
  const tutti::testing::TempDir dir;
  return RunModel(dir.Write("model.gguf", tiny.Image()), {.ffn_slices = slices});
}

TEST(SlicedFfnTest, OneSliceIsThePlainModel) {
  const auto plain = RunWith(0), one = RunWith(1);
  ASSERT_TRUE(plain.ok() && one.ok()) << plain.status() << one.status();
  EXPECT_TRUE(SameBits(*plain, *one));
  EXPECT_EQ(plain->fingerprint, one->fingerprint);
}

// Slices sum the same segments of 256 in another order of additions, no more.
TEST(SlicedFfnTest, MoreSlicesAreOtherModelsNearTheSame) {
  const auto plain = RunWith(0);
  ASSERT_TRUE(plain.ok()) << plain.status();
  for (const int slices : {2, 3, 5}) {
    const auto cut = RunWith(slices);
    ASSERT_TRUE(cut.ok()) << cut.status();
    EXPECT_NE(cut->fingerprint, plain->fingerprint);
    for (size_t i = 0; i < plain->logits.size(); ++i) {
      // Few roundings differ, each of 2^-24 of a sum; logits here are below 10.
      EXPECT_NEAR(cut->logits[i], plain->logits[i], 1e-4) << slices << " slices, logit " << i;
    }
  }
}

TEST(SlicedFfnTest, MoreSlicesThanUnitsOf256AreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(RunWith(6).status()));
}

}  // namespace
}  // namespace tutti::model
