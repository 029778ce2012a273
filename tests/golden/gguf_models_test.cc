// The same models from GGUF files: llama.cpp's keys, names and orders of rows mean what its
// converter meant; every element type means its values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "shared/base/philox.h"
#include "shared/testing/model_writer.h"
#include "shared/testing/npy.h"
#include "shared/testing/quantize.h"
#include "tests/golden/model_fixture.h"
#include "tests/golden/to_gguf.h"

namespace tutti::golden {
namespace {

struct Conversion {
  std::string golden, arch;
};

class GgufModelTest : public ::testing::TestWithParam<Conversion> {};

TEST_P(GgufModelTest, AConvertedModelGivesTheLogitsOfTransformers) {
  const GoldenModel golden = LoadGolden(GetParam().golden);
  const testing::TempDir dir;
  const std::string path = dir.Write("model.gguf", ToGguf(golden.model_dir, GetParam().arch));
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
                      Conversion{"phi3", "phi3"}, Conversion{"gpt2_prenorm", "gpt2"}),
    [](const auto& info) { return info.param.golden; });

// --- element types ---

constexpr int64_t kHidden = 256, kFfn = 512, kVocab = 320, kLayers = 2, kHeads = 4, kKvHeads = 2,
                  kHeadDim = 64;

// A random Llama with all matrices stored as `stored`, or, when `widened`, as F32 with the very
// values that `stored` holds.
std::string RandomLlama(DType stored, bool widened) {
  testing::GgufWriter w;
  w.String("general.architecture", "llama");
  w.U32("llama.block_count", kLayers)
      .U32("llama.context_length", 128)
      .U32("llama.embedding_length", kHidden);
  w.U32("llama.feed_forward_length", kFfn).U32("llama.attention.head_count", kHeads);
  w.U32("llama.attention.head_count_kv", kKvHeads)
      .F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  uint32_t stream = 0;
  const auto random = [&](int64_t n, float scale) {
    std::vector<float> values(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const PhiloxBlock block = Philox4x32(7, {static_cast<uint32_t>(i), stream, 0, 0});
      // A sum of uniforms: near enough to a normal distribution of deviation `scale`.
      float sum = -2.0f;
      for (uint32_t bits : block) sum += UnitUniform(bits);
      values[static_cast<size_t>(i)] = sum * 1.7320508f * scale;
    }
    ++stream;
    return values;
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    const std::vector<float> values = random(rows * cols, 1 / std::sqrt(static_cast<float>(cols)));
    if (!widened) {
      w.Tensor(name, {rows, cols}, values, stored);
    } else {
      w.Tensor(name, {rows, cols}, testing::Dequantize(stored, testing::Quantize(stored, values)));
    }
  };
  const auto gain = [&](const std::string& name) {
    w.Tensor(name, {kHidden}, std::vector<float>(kHidden, 1.0f));
  };
  matrix("token_embd.weight", kVocab, kHidden);
  gain("output_norm.weight");
  for (int i = 0; i < kLayers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    gain(block + "attn_norm.weight");
    gain(block + "ffn_norm.weight");
    matrix(block + "attn_q.weight", kHeads * kHeadDim, kHidden);
    matrix(block + "attn_k.weight", kKvHeads * kHeadDim, kHidden);
    matrix(block + "attn_v.weight", kKvHeads * kHeadDim, kHidden);
    matrix(block + "attn_output.weight", kHidden, kHeads * kHeadDim);
    matrix(block + "ffn_gate.weight", kFfn, kHidden);
    matrix(block + "ffn_up.weight", kFfn, kHidden);
    matrix(block + "ffn_down.weight", kHidden, kFfn);
  }
  return w.Image();
}

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
  for (const std::string_view isa : {"avx2", "avx512", "neon", "auto"}) {
    if (!kernels::SelectIsa(isa).ok()) continue;  // not on this machine
    EXPECT_TRUE(SameBits(want, ChunkedLogits(*LoadOrDie(path, DType::kF16), ids, 9))) << isa;
  }
  ASSERT_TRUE(kernels::SelectIsa("auto").ok());
}

std::vector<DType> AllTypes() {
  std::vector<DType> types;
  for (int i = 0; i < kNumDTypes; ++i) types.push_back(static_cast<DType>(i));
  return types;
}
INSTANTIATE_TEST_SUITE_P(Types, ElementTypeTest, ::testing::ValuesIn(AllTypes()),
                         [](const auto& info) { return std::string(Traits(info.param).name); });

}  // namespace
}  // namespace tutti::golden
