// The same models from GGUF files: llama.cpp's keys, names and orders of rows mean what its
// converter meant; every element type means its values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "shared/testing/model_writer.h"
#include "shared/testing/npy.h"
#include "tests/golden/model_fixture.h"
#include "tests/golden/random_llama.h"
#include "tests/golden/to_gguf.h"

namespace tutti::golden {
namespace {

struct Conversion {
  std::string golden, arch;
  bool split_latent = false;
};

class GgufModelTest : public ::testing::TestWithParam<Conversion> {};

TEST_P(GgufModelTest, AConvertedModelGivesTheLogitsOfTransformers) {
  const GoldenModel golden = LoadGolden(GetParam().golden);
  const testing::TempDir dir;
  const std::string path = dir.Write("model.gguf", ToGguf(golden.model_dir, GetParam().arch,
                                                          DType::kF32, GetParam().split_latent));
  const auto model = LoadOrDie(path, DType::kF32);
  EXPECT_EQ(model->info().architecture, GetParam().arch);
  EXPECT_EQ(model->info().eos_ids, std::vector<int32_t>{2});
  for (const char* prompt : {"prompt0", "prompt1"}) {
    const auto want = testing::ReadNpyF32(golden.golden_dir + "/" + prompt + ".logits.npy");
    ASSERT_TRUE(want.ok()) << want.status();
    const size_t index = static_cast<size_t>(prompt[6] - '0');
    EXPECT_LE(MaxAbsDiff(ChunkedLogits(*model, golden.prompts[index].ids, 64), want->values), 2e-4);
  }
  // The long prompt goes past windows and original contexts.
  EXPECT_EQ(Greedy(*model, golden.prompts.back().ids, 32), golden.prompts.back().greedy);
}

INSTANTIATE_TEST_SUITE_P(
    Families, GgufModelTest,
    ::testing::Values(Conversion{"llama_gqa", "llama"}, Conversion{"llama_tied_sharded", "llama"},
                      Conversion{"llama3_rope", "llama"}, Conversion{"mistral_sliding", "llama"},
                      Conversion{"qwen2_bias", "qwen2"}, Conversion{"qwen3_qknorm", "qwen3"},
                      Conversion{"gemma2", "gemma2"}, Conversion{"gemma3_text", "gemma3"},
                      Conversion{"phi3", "phi3"}, Conversion{"gpt2_prenorm", "gpt2"},
                      Conversion{"mixtral_8x2", "llama"}, Conversion{"qwen3_moe", "qwen3moe"},
                      Conversion{"qwen2_moe_shared", "qwen2moe"},
                      Conversion{"deepseek_v2_lite", "deepseek2"},
                      Conversion{"deepseek_v2_lite", "deepseek2", true},
                      Conversion{"deepseek_v3", "deepseek2"},
                      Conversion{"deepseek_v3", "deepseek2", true}),
    [](const auto& info) { return info.param.golden + (info.param.split_latent ? "_split" : ""); });

// --- element types ---

class ElementTypeTest : public ::testing::TestWithParam<DType> {};

TEST_P(ElementTypeTest, LogitsDifferFromThoseOfTheSameValuesInF32ByTheRoundingOfActivationsAlone) {
  const testing::TempDir dir;
  const auto stored =
      LoadOrDie(dir.Write("stored.gguf", RandomLlama(GetParam(), false)), DType::kF32);
  const auto widened =
      LoadOrDie(dir.Write("widened.gguf", RandomLlama(GetParam(), true)), DType::kF32);
  const std::vector<int32_t> ids = {1,  50, 3,  200, 319, 7,  0,  11, 12,
                                    13, 14, 15, 16,  17,  18, 19, 20, 21};
  const std::vector<float> a = ChunkedLogits(*stored, ids, 64),
                           b = ChunkedLogits(*widened, ids, 64);
  double difference = 0, power = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]);
    power += b[i] * static_cast<double>(b[i]);
  }
  const double relative = std::sqrt(difference / power);
  std::printf("%-5s relative rms difference %.2e\n", std::string(Traits(GetParam()).name).c_str(),
              relative);
  if (Traits(GetParam()).quantized) {
    // An activation of a block of 32 normal ones is rounded to steps of max / 127, max near 2.2
    // deviations: an error of 2.2 / 127 / sqrt(12) = 0.5 % of a deviation at each of the matmuls
    // that a logit passes (4 per layer and the output: 9, as a random walk 3 x 0.5 %), with a
    // factor of 2 for what the nonlinearities make of it.
    EXPECT_LT(relative, 0.03);
    EXPECT_GT(relative, 1e-4) << "activations were not quantised at all?";
  } else {
    EXPECT_LT(relative, 1e-5);  // the same values, the same arithmetic
  }
  // And how the rows are cut matters no more than in F32.
  EXPECT_TRUE(SameBits(a, ChunkedLogits(*stored, ids, 1)));
  EXPECT_TRUE(SameBits(a, ChunkedLogits(*stored, ids, 7)));
}

TEST_P(ElementTypeTest, EveryInstructionSetGivesTheBitsOfTheReference) {
  const testing::TempDir dir;
  const std::string path = dir.Write("stored.gguf", RandomLlama(GetParam(), false));
  const std::vector<int32_t> ids = {5, 6, 7, 300, 301, 302, 303, 304, 305};
  ASSERT_TRUE(kernels::SelectIsa("reference").ok());
  const std::vector<float> want = ChunkedLogits(*LoadOrDie(path, DType::kF16), ids, 9);
  for (const std::string_view isa : {"avx2", "avx512", "amx", "neon", "auto"}) {
    if (!kernels::SelectIsa(isa).ok()) continue;  // not on this machine
    EXPECT_TRUE(SameBits(want, ChunkedLogits(*LoadOrDie(path, DType::kF16), ids, 9))) << isa;
  }
  ASSERT_TRUE(kernels::SelectIsa("auto").ok());
}

INSTANTIATE_TEST_SUITE_P(Types, ElementTypeTest, ::testing::ValuesIn(AllTypes()),
                         [](const auto& info) { return std::string(Traits(info.param).name); });

}  // namespace
}  // namespace tutti::golden
