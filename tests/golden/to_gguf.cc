#include "tests/golden/to_gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "shared/testing/model_writer.h"
#include "shared/weights/model_files.h"

namespace tutti::golden {
namespace {

struct Matrix {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Row (head, 2 i + j) of the file is row (head, j * half + i) of the original.
void PermuteForInterleavedRope(Matrix* m, int64_t heads) {
  const int64_t rows = m->shape[0], cols = m->shape.size() > 1 ? m->shape[1] : 1,
                dim = rows / heads;
  std::vector<float> out(m->values.size());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / dim, i = r % dim / 2, j = r % dim % 2;
    std::copy_n(m->values.begin() + (head * dim + j * (dim / 2) + i) * cols, cols,
                out.begin() + r * cols);
  }
  m->values = std::move(out);
}

void Transpose(Matrix* m) {
  const int64_t rows = m->shape[0], cols = m->shape[1];
  std::vector<float> out(m->values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[c * rows + r] = m->values[r * cols + c];
  }
  m->values = std::move(out);
  m->shape = {cols, rows};
}

std::string GgufName(std::string name, bool sandwich) {
  const std::string post = sandwich ? "post_attention_norm" : "ffn_norm";
  return absl::StrReplaceAll(name, {{"model.layers.", "blk."},
                                    {"transformer.h.", "blk."},
                                    {"model.embed_tokens", "token_embd"},
                                    {"transformer.wte", "token_embd"},
                                    {"transformer.wpe", "position_embd"},
                                    {"transformer.ln_f", "output_norm"},
                                    {"model.norm", "output_norm"},
                                    {"lm_head", "output"},
                                    {"input_layernorm", "attn_norm"},
                                    {"post_attention_layernorm", post},
                                    {"pre_feedforward_layernorm", "ffn_norm"},
                                    {"post_feedforward_layernorm", "post_ffw_norm"},
                                    {"block_sparse_moe.gate", "ffn_gate_inp"},
                                    {"mlp.gate.", "ffn_gate_inp."},
                                    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
                                    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
                                    {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
                                    {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
                                    {"self_attn.q_a_proj", "attn_q_a"},
                                    {"self_attn.q_a_layernorm", "attn_q_a_norm"},
                                    {"self_attn.q_b_proj", "attn_q_b"},
                                    {"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
                                    {"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
                                    {"self_attn.kv_b_proj", "attn_kv_b"},
                                    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
                                    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                                    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                                    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                                    {"self_attn.q_proj", "attn_q"},
                                    {"self_attn.k_proj", "attn_k"},
                                    {"self_attn.v_proj", "attn_v"},
                                    {"self_attn.o_proj", "attn_output"},
                                    {"self_attn.qkv_proj", "attn_qkv"},
                                    {"self_attn.q_norm", "attn_q_norm"},
                                    {"self_attn.k_norm", "attn_k_norm"},
                                    {"mlp.gate_up_proj", "ffn_up"},
                                    {"mlp.gate_proj", "ffn_gate"},
                                    {"mlp.up_proj", "ffn_up"},
                                    {"mlp.down_proj", "ffn_down"},
                                    {"mlp.c_fc", "ffn_up"},
                                    {"mlp.c_proj", "ffn_down"},
                                    {"attn.c_attn", "attn_qkv"},
                                    {"attn.c_proj", "attn_output"},
                                    {".ln_1", ".attn_norm"},
                                    {".ln_2", ".ffn_norm"}});
}

// Llama 3.1's scaling is a tensor of divisors in GGUF (LlamaModel.generate_extra_tensors).
std::vector<float> Llama3Divisors(const nlohmann::json& config) {
  const auto& s = config["rope_scaling"];
  const double factor = s["factor"], low = s["low_freq_factor"], high = s["high_freq_factor"];
  const double original = s["original_max_position_embeddings"], base = config["rope_theta"];
  const int dim = config["head_dim"];
  std::vector<float> divisors;
  for (int i = 0; i < dim; i += 2) {
    const double wavelength = 2 * M_PI * std::pow(base, static_cast<double>(i) / dim);
    if (wavelength < original / high) {
      divisors.push_back(1.0f);
    } else if (wavelength > original / low) {
      divisors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      divisors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return divisors;
}

// "...layers.3.mlp.experts.5.up_proj.weight" is part of blk.3.ffn_up_exps, row 5.
bool IsExpert(const std::string& name, std::string* stacked, int* expert) {
  const size_t at = name.find(".experts.");
  if (at == std::string::npos) return false;
  const std::string layer = name.substr(13, name.find('.', 13) - 13);  // after "model.layers."
  *expert = std::stoi(name.substr(at + 9));
  const bool gate = absl::StrContains(name, ".w1.") || absl::StrContains(name, "gate_proj");
  const bool down = absl::StrContains(name, ".w2.") || absl::StrContains(name, "down_proj");
  *stacked = "blk." + layer +
             (gate   ? ".ffn_gate_exps"
              : down ? ".ffn_down_exps"
                     : ".ffn_up_exps") +
             ".weight";
  return true;
}

// What DeepseekV2Model writes. `split`: as of 2025, with the dimensions of absorbed attention in
// key_length and value_length, and kv_b cut into k_b (turned) and v_b.
void DeepseekKeys(const nlohmann::json& c, bool split, testing::GgufWriter* w) {
  const auto u32 = [&](const char* name) { return c.at(name).get<uint32_t>(); };
  const auto key = [](const char* name) { return std::string("deepseek2.") + name; };
  const uint32_t rank = u32("kv_lora_rank"), rope = u32("qk_rope_head_dim"),
                 k = u32("qk_nope_head_dim") + rope, v = u32("v_head_dim");
  w->U32(key("attention.head_count_kv"), split ? 1 : u32("num_key_value_heads"));
  w->U32(key("attention.key_length"), split ? rank + rope : k);
  w->U32(key("attention.value_length"), split ? rank : v);
  if (split) w->U32(key("attention.key_length_mla"), k).U32(key("attention.value_length_mla"), v);
  w->U32(key("attention.kv_lora_rank"), rank).U32(key("rope.dimension_count"), rope);
  if (!c.at("q_lora_rank").is_null()) w->U32(key("attention.q_lora_rank"), u32("q_lora_rank"));
  w->U32(key("leading_dense_block_count"), u32("first_k_dense_replace"));
  w->U32(key("expert_count"), u32("n_routed_experts"));
  w->U32(key("expert_shared_count"), u32("n_shared_experts"));
  w->F32(key("expert_weights_scale"), c.at("routed_scaling_factor"));
  const bool v3 = c.at("model_type") == "deepseek_v3";
  w->Bool(key("expert_weights_norm"), c.at("norm_topk_prob").get<bool>());
  w->U32(key("expert_gating_func"), v3 ? 2 : 1);
  if (v3) {
    w->U32(key("expert_group_count"), u32("n_group"));
    w->U32(key("expert_group_used_count"), u32("topk_group"));
  }
  if (!c.at("rope_scaling").is_null()) {
    const auto& s = c["rope_scaling"];
    w->String(key("rope.scaling.type"), "yarn").F32(key("rope.scaling.factor"), s["factor"]);
    w->U32(key("rope.scaling.original_context_length"), s["original_max_position_embeddings"]);
    w->F32(key("rope.scaling.yarn_log_multiplier"), 0.1f * s["mscale_all_dim"].get<float>());
  }
}

// attn_k_b [heads, rank, nope] and attn_v_b [heads, value, rank] of kv_b.
void WriteSplitLatent(const nlohmann::json& c, const std::string& layer, const Matrix& kv_b,
                      DType dtype, testing::GgufWriter* w) {
  const int64_t heads = c.at("num_attention_heads"), nope = c.at("qk_nope_head_dim"),
                value = c.at("v_head_dim"), rank = c.at("kv_lora_rank");
  std::vector<float> k, v;
  for (int64_t h = 0; h < heads; ++h) {
    const float* rows = kv_b.values.data() + h * (nope + value) * rank;
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t i = 0; i < nope; ++i) k.push_back(rows[i * rank + r]);
    }
    v.insert(v.end(), rows + nope * rank, rows + (nope + value) * rank);
  }
  // A row of 16 is no whole block.
  w->Tensor(layer + "attn_k_b.weight", {heads, rank, nope}, k,
            nope % 32 == 0 ? dtype : DType::kF32);
  w->Tensor(layer + "attn_v_b.weight", {heads, value, rank}, v, dtype);
}

}  // namespace

std::string ToGguf(const std::string& folder, const std::string& arch, DType matrices,
                   bool split_latent) {
  const auto files = weights::ModelFiles::Open(folder);
  EXPECT_TRUE(files.ok()) << files.status();
  const nlohmann::json& c = (*files)->config();
  const bool gpt2 = arch == "gpt2", gemma = absl::StartsWith(arch, "gemma"),
             deepseek = arch == "deepseek2";
  const auto key = [&](const char* name) { return arch + "." + name; };
  const auto u32 = [&](const char* name) { return c.at(name).get<uint32_t>(); };
  const auto set = [&](const char* name) { return c.contains(name) && !c.at(name).is_null(); };

  testing::GgufWriter w;
  w.String("general.architecture", arch).String("general.name", "golden");
  w.U32(key("block_count"), u32(gpt2 ? "n_layer" : "num_hidden_layers"));
  w.U32(key("context_length"), u32(gpt2 ? "n_positions" : "max_position_embeddings"));
  w.U32(key("embedding_length"), u32(gpt2 ? "n_embd" : "hidden_size"));
  const uint32_t heads = u32(gpt2 ? "n_head" : "num_attention_heads");
  w.U32(key("attention.head_count"), heads);
  w.U32("tokenizer.ggml.eos_token_id", 2);
  uint32_t kv_heads = heads;
  if (gpt2) {
    w.U32(key("feed_forward_length"), 4 * u32("n_embd"));
    w.F32(key("attention.layer_norm_epsilon"), c.at("layer_norm_epsilon"));
  } else if (deepseek) {
    w.U32(key("feed_forward_length"), u32("intermediate_size"));
    w.F32(key("attention.layer_norm_rms_epsilon"), c.at("rms_norm_eps"));
    w.F32(key("rope.freq_base"), c.at("rope_theta"));
    DeepseekKeys(c, split_latent, &w);
  } else {
    kv_heads = u32("num_key_value_heads");
    w.U32(key("feed_forward_length"), u32("intermediate_size"));
    w.U32(key("attention.head_count_kv"), kv_heads);
    w.F32(key("attention.layer_norm_rms_epsilon"), c.at("rms_norm_eps"));
    w.F32(key("rope.freq_base"),
          set("rope_parameters") ? c["rope_parameters"]["rope_theta"] : c["rope_theta"]);
    const uint32_t head_dim = set("head_dim") ? u32("head_dim") : u32("hidden_size") / heads;
    w.U32(key("attention.key_length"), head_dim).U32(key("attention.value_length"), head_dim);
    const double partial =
        set("partial_rotary_factor") ? c["partial_rotary_factor"].get<double>() : 1.0;
    w.U32(key("rope.dimension_count"), static_cast<uint32_t>(head_dim * partial));
  }
  if (set("sliding_window")) w.U32(key("attention.sliding_window"), u32("sliding_window"));
  if (gemma) {
    if (set("attn_logit_softcapping"))
      w.F32(key("attn_logit_softcapping"), c["attn_logit_softcapping"]);
    if (set("final_logit_softcapping"))
      w.F32(key("final_logit_softcapping"), c["final_logit_softcapping"]);
    // llama.cpp infers this one from the size of the model; the tiny one is unlike any.
    w.F32(key("attention.scale"),
          static_cast<float>(1 / std::sqrt(c["query_pre_attn_scalar"].get<double>())));
    if (arch == "gemma3") w.U32(key("attention.sliding_window_pattern"), 3);
  }

  if (set("num_experts_per_tok")) {
    if (!deepseek)
      w.U32(key("expert_count"), u32(set("num_experts") ? "num_experts" : "num_local_experts"));
    w.U32(key("expert_used_count"), u32("num_experts_per_tok"));
    if (set("moe_intermediate_size"))
      w.U32(key("expert_feed_forward_length"), u32("moe_intermediate_size"));
    if (set("shared_expert_intermediate_size"))
      w.U32(key("expert_shared_feed_forward_length"), u32("shared_expert_intermediate_size"));
  }
  std::map<std::string, std::map<int, Matrix>> experts;
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    Matrix m{t.shape, std::vector<float>(static_cast<size_t>(t.NumElements()))};
    EXPECT_EQ(t.dtype, DType::kF32);
    std::memcpy(m.values.data(), t.data.data(), t.data.size());
    const bool block_matrix = m.shape.size() == 2 && (absl::StrContains(t.name, "layers.") ||
                                                      absl::StrContains(t.name, ".h."));
    if (arch == "llama" && absl::StrContains(t.name, "q_proj"))
      PermuteForInterleavedRope(&m, heads);
    if (arch == "llama" && absl::StrContains(t.name, "k_proj"))
      PermuteForInterleavedRope(&m, kv_heads);
    if (gemma && absl::StrContains(t.name, "norm")) {
      for (float& v : m.values) v += 1.0f;
    }
    if (gpt2 && m.shape.size() == 2 && absl::StrContains(t.name, ".c_")) Transpose(&m);
    std::string stacked;
    int expert;
    if (IsExpert(t.name, &stacked, &expert)) {
      experts[stacked][expert] = std::move(m);
      continue;
    }
    if (split_latent && absl::StrContains(t.name, "kv_b_proj")) {
      const std::string name = GgufName(t.name, gemma);
      WriteSplitLatent(c, name.substr(0, name.find("attn_")), m, matrices, &w);
      continue;
    }
    const bool gate =
        absl::StrContains(t.name, ".gate.") || absl::StrContains(t.name, "expert_gate");
    w.Tensor(GgufName(t.name, gemma), m.shape, m.values,
             block_matrix && !gate ? matrices : DType::kF32);
  }
  for (const auto& [name, list] : experts) {
    std::vector<float> all;
    for (const auto& [expert, m] : list) all.insert(all.end(), m.values.begin(), m.values.end());
    const std::vector<int64_t>& shape = list.begin()->second.shape;
    w.Tensor(name, {static_cast<int64_t>(list.size()), shape[0], shape[1]}, all, matrices);
  }
  if (set("rope_scaling") && !deepseek) {
    const std::vector<float> divisors = Llama3Divisors(c);
    w.Tensor("rope_freqs.weight", {static_cast<int64_t>(divisors.size())}, divisors);
  }
  return w.Image();
}

}  // namespace tutti::golden
