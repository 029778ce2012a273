#include "tests/golden/random_llama.h"

#include <cmath>

#include "shared/base/philox.h"
#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"

namespace tutti::golden {
namespace {

constexpr int64_t kHidden = 256, kFfn = 512, kVocab = 320, kLayers = 2, kHeads = 4, kKvHeads = 2,
                  kHeadDim = 64;

}  // namespace

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

std::vector<DType> AllTypes() {
  std::vector<DType> types;
  for (int i = 0; i < kNumDTypes; ++i) types.push_back(static_cast<DType>(i));
  return types;
}

}  // namespace tutti::golden
