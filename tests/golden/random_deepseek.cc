#include "tests/golden/random_deepseek.h"

#include <cmath>
#include <vector>

#include "shared/base/philox.h"
#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"

namespace tutti::golden {
namespace {

constexpr int64_t kHidden = 256, kFfn = 512, kVocab = 320, kLayers = 2, kHeads = 4;
constexpr int64_t kQRank = 256, kRank = 256, kNope = 256, kRope = 32, kValue = 64;
constexpr int64_t kExperts = 4, kExpertFfn = 256;

}  // namespace

std::string RandomDeepseek(DType stored, bool widened, bool split) {
  testing::GgufWriter w;
  w.String("general.architecture", "deepseek2");
  const auto key = [](const char* name) { return std::string("deepseek2.") + name; };
  w.U32(key("block_count"), kLayers).U32(key("context_length"), 128);
  w.U32(key("embedding_length"), kHidden).U32(key("feed_forward_length"), kFfn);
  w.U32(key("attention.head_count"), kHeads)
      .U32(key("attention.head_count_kv"), split ? 1 : kHeads);
  w.F32(key("attention.layer_norm_rms_epsilon"), 1e-6f);
  w.U32(key("attention.q_lora_rank"), kQRank).U32(key("attention.kv_lora_rank"), kRank);
  w.U32(key("attention.key_length"), split ? kRank + kRope : kNope + kRope);
  w.U32(key("attention.value_length"), split ? kRank : kValue);
  if (split) {
    w.U32(key("attention.key_length_mla"), kNope + kRope);
    w.U32(key("attention.value_length_mla"), kValue);
  }
  w.U32(key("rope.dimension_count"), kRope).U32(key("leading_dense_block_count"), 1);
  w.U32(key("expert_count"), kExperts).U32(key("expert_used_count"), 2);
  w.U32(key("expert_shared_count"), 1).U32(key("expert_feed_forward_length"), kExpertFfn);
  w.U32(key("expert_gating_func"), 2).Bool(key("expert_weights_norm"), true);

  uint32_t stream = 0;
  const auto random = [&](int64_t n, float scale) {
    std::vector<float> values(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const PhiloxBlock block = Philox4x32(11, {static_cast<uint32_t>(i), stream, 0, 0});
      float sum = -2.0f;  // of uniforms: near enough to normal
      for (uint32_t bits : block) sum += UnitUniform(bits);
      values[static_cast<size_t>(i)] = sum * 1.7320508f * scale;
    }
    ++stream;
    return values;
  };
  const auto matrix = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    const std::vector<float> values = random(n, 1 / std::sqrt(static_cast<float>(shape.back())));
    if (!widened) {
      w.Tensor(name, shape, values, stored);
    } else {
      w.Tensor(name, shape, testing::Dequantize(stored, testing::Quantize(stored, values)));
    }
  };
  const auto gain = [&](const std::string& name, int64_t n) {
    w.Tensor(name, {n}, std::vector<float>(static_cast<size_t>(n), 1.0f));
  };
  matrix("token_embd.weight", {kVocab, kHidden});
  gain("output_norm.weight", kHidden);
  for (int i = 0; i < kLayers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    gain(block + "attn_norm.weight", kHidden);
    gain(block + "ffn_norm.weight", kHidden);
    matrix(block + "attn_q_a.weight", {kQRank, kHidden});
    gain(block + "attn_q_a_norm.weight", kQRank);
    matrix(block + "attn_q_b.weight", {kHeads * (kNope + kRope), kQRank});
    matrix(block + "attn_kv_a_mqa.weight", {kRank + kRope, kHidden});
    gain(block + "attn_kv_a_norm.weight", kRank);
    if (split) {
      matrix(block + "attn_k_b.weight", {kHeads, kRank, kNope});
      matrix(block + "attn_v_b.weight", {kHeads, kValue, kRank});
    } else {
      matrix(block + "attn_kv_b.weight", {kHeads * (kNope + kValue), kRank});
    }
    matrix(block + "attn_output.weight", {kHidden, kHeads * kValue});
    if (i == 0) {
      matrix(block + "ffn_gate.weight", {kFfn, kHidden});
      matrix(block + "ffn_up.weight", {kFfn, kHidden});
      matrix(block + "ffn_down.weight", {kHidden, kFfn});
      continue;
    }
    w.Tensor(block + "ffn_gate_inp.weight", {kExperts, kHidden}, random(kExperts * kHidden, 0.1f));
    w.Tensor(block + "exp_probs_b.bias", {kExperts}, random(kExperts, 0.1f));
    matrix(block + "ffn_gate_exps.weight", {kExperts, kExpertFfn, kHidden});
    matrix(block + "ffn_up_exps.weight", {kExperts, kExpertFfn, kHidden});
    matrix(block + "ffn_down_exps.weight", {kExperts, kHidden, kExpertFfn});
    matrix(block + "ffn_gate_shexp.weight", {kExpertFfn, kHidden});
    matrix(block + "ffn_up_shexp.weight", {kExpertFfn, kHidden});
    matrix(block + "ffn_down_shexp.weight", {kHidden, kExpertFfn});
  }
  return w.Image();
}

}  // namespace tutti::golden
