// DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437), and models of their shape: latent
// attention, leading dense layers, experts in groups, and shared experts, which are kept as one of
// their common width. Layers for multi-token prediction that a file may hold are left alone.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"
#include "shared/model/rope.h"

namespace tutti::model {
namespace {

constexpr int64_t kDimMax = 1 << 10;  // of a head, as ModelConfig::Validate has it

void NotBuilt(Fields& f, std::string_view key, std::string_view what) {
  f.FailWith(
      absl::UnimplementedError(absl::StrCat(f.source(), ": ", ToAbsl(key), ": ", ToAbsl(what))));
}

// Names of fields, as the source has them, for what both sources have.
struct Keys {
  const char *kv_rank, *groups, *top_groups, *experts, *top_k, *shared;
};

// What kernels and pages see of latent attention, and the scale that a stretched context asks for:
// `mscale` multiplies twice, because once would be for queries and once for keys.
void FinishLatent(Fields& f, const Keys& keys, double mscale, ModelConfig* c) {
  const LatentConfig& l = c->latent;
  if (l.kv_rank + l.rope_dim > kDimMax) {
    f.Fail(keys.kv_rank,
           absl::StrCat("with the turned key's ", l.rope_dim, " it must be at most ", kDimMax));
  }
  c->num_kv_heads = 1;
  c->head_dim = l.kv_rank + l.rope_dim;
  c->attention_scale =
      static_cast<float>(mscale * mscale / std::sqrt(static_cast<double>(l.nope_dim + l.rope_dim)));
}

// The relations between the numbers of experts, by the names of the source.
void CheckExperts(Fields& f, const Keys& keys, const ModelConfig& c) {
  const moe::GatingOptions& g = c.gating;
  if (!f.status().ok()) return;
  if (g.num_experts % g.num_groups != 0) {
    return f.Fail(keys.groups, absl::StrCat("it must divide ", keys.experts, " = ", g.num_experts));
  }
  const int size = g.num_experts / g.num_groups;
  if (g.num_groups > 1 && g.group_best > size) {
    return f.Fail(keys.groups,
                  absl::StrCat("a group's best ", g.group_best,
                               " experts are added up, and a group would have ", size));
  }
  if (g.top_groups > g.num_groups) {
    return f.Fail(keys.top_groups,
                  absl::StrCat("it must be in [1, ", keys.groups, " = ", g.num_groups, "]"));
  }
  if (g.top_k > size * g.top_groups) {
    return f.Fail(keys.top_k, absl::StrCat("it must be in [1, ", size * g.top_groups,
                                           "], the experts of the best groups"));
  }
  if (c.shared_ffn_size > (1 << 20))
    f.Fail(keys.shared, absl::StrCat("that many experts of ", c.expert_ffn_size, " are too wide"));
}

constexpr Keys kHfKeys = {"kv_lora_rank",        "n_group",
                          "topk_group",          "n_routed_experts",
                          "num_experts_per_tok", "n_shared_experts"};

void ParseLatentHf(Fields& f, FamilyParse* out) {
  ModelConfig& c = out->config;
  LatentConfig& l = c.latent;
  l.kv_rank = static_cast<int>(f.Int("kv_lora_rank", 1, kDimMax));
  l.q_rank = static_cast<int>(f.IntOr("q_lora_rank", 1, 1 << 17, 0));
  l.nope_dim = static_cast<int>(f.Int("qk_nope_head_dim", 1, kDimMax));
  l.rope_dim = static_cast<int>(f.Int("qk_rope_head_dim", 2, kDimMax));
  l.value_dim = static_cast<int>(f.Int("v_head_dim", 1, kDimMax));
  l.norm_eps = 1e-6f;  // the reference's own, whatever rms_norm_eps is
  if (f.BoolOr("attention_bias", false))
    NotBuilt(f, "attention_bias", "biases of latent attention are not built");

  c.rope_interleaved = f.BoolOr("rope_interleave", true);
  c.head_dim = l.rope_dim;
  ParseHfRope(f, 10000.0, "", c, &c.rope, &c.rotary_dim);
  if (c.rotary_dim != l.rope_dim || c.rotary_dim % 2 != 0)
    f.Fail("qk_rope_head_dim", "all of it is turned, so it must be even");
  double mscale = 1;
  if (c.rope.scaling == RopeConfig::Scaling::kYarn) {
    Fields s = f.Object(f.Has("rope_parameters") ? "rope_parameters" : "rope_scaling");
    mscale = YarnAttentionFactor(c.rope.factor, s.DoubleOr("mscale_all_dim", 0, 1e3, 0));
    f.Absorb(s);
  }
  FinishLatent(f, kHfKeys, mscale, &c);

  TensorNames& n = out->names;
  n.k = n.v = "";
  if (l.q_rank > 0) {
    n.q_a = "layers.{}.self_attn.q_a_proj";
    n.q_a_norm = "layers.{}.self_attn.q_a_layernorm";
    n.q = "layers.{}.self_attn.q_b_proj";
  }
  n.kv_a = "layers.{}.self_attn.kv_a_proj_with_mqa";
  n.kv_a_norm = "layers.{}.self_attn.kv_a_layernorm";
  n.kv_b = "layers.{}.self_attn.kv_b_proj";
}

void ParseExpertsHf(Fields& f, FamilyParse* out) {
  ModelConfig& c = out->config;
  moe::GatingOptions& g = c.gating;
  g.num_experts = static_cast<int>(f.Int("n_routed_experts", 1, 1 << 12));
  g.top_k = static_cast<int>(f.Int("num_experts_per_tok", 1, 1 << 12));
  g.scale = static_cast<float>(f.DoubleOr("routed_scaling_factor", 1e-6, 1e5, 1.0));
  c.expert_ffn_size = static_cast<int>(f.Int("moe_intermediate_size", 1, 1 << 20));
  c.shared_ffn_size =
      static_cast<int>(f.IntOr("n_shared_experts", 0, 1 << 10, 0)) * c.expert_ffn_size;
  const int64_t first = f.IntOr("first_k_dense_replace", 0, 1024, 0);
  const int64_t every = f.IntOr("moe_layer_freq", 1, 1024, 1);
  for (int i = 0; i < c.num_layers; ++i) c.layer_moe.push_back(i >= first && i % every == 0);

  TensorNames& n = out->names;
  n.router = "layers.{}.mlp.gate";
  n.choice_bias = "layers.{}.mlp.gate.e_score_correction_bias";
  n.expert_gate = "layers.{}.mlp.experts.{e}.gate_proj";
  n.expert_up = "layers.{}.mlp.experts.{e}.up_proj";
  n.expert_down = "layers.{}.mlp.experts.{e}.down_proj";
  n.shared_gate = "layers.{}.mlp.shared_experts.gate_proj";
  n.shared_up = "layers.{}.mlp.shared_experts.up_proj";
  n.shared_down = "layers.{}.mlp.shared_experts.down_proj";
}

void ParseGroups(Fields& f, const Keys& keys, int group_best, moe::GatingOptions* g) {
  g->num_groups = static_cast<int>(f.IntOr(keys.groups, 1, 1 << 12, 1));
  g->top_groups = static_cast<int>(f.IntOr(keys.top_groups, 1, 1 << 12, 1));
  g->group_best = g->num_groups > 1 ? group_best : 1;
}

FamilyParse ParseDeepseekHf(Fields& f, const char* architecture) {
  FamilyParse out;
  ParseHfCommon(f, &out);
  ModelConfig& c = out.config;
  c.architecture = architecture;
  c.activation = ParseActivation(f, "hidden_act", "silu");
  c.tied_embeddings = f.BoolOr("tie_word_embeddings", false);
  c.layer_slides.assign(static_cast<size_t>(c.num_layers), false);
  ParseLatentHf(f, &out);
  ParseExpertsHf(f, &out);
  return out;
}

}  // namespace

absl::StatusOr<FamilyParse> ParseDeepseekV2Hf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out = ParseDeepseekHf(f, "deepseek_v2");
  moe::GatingOptions& g = out.config.gating;
  const std::string method = f.StringOr("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    ParseGroups(f, kHfKeys, 1, &g);
  } else if (method != "greedy") {
    NotBuilt(f, "topk_method", "greedy and group_limited_greedy are built for deepseek_v2");
  }
  if (f.StringOr("scoring_func", "softmax") != "softmax")
    NotBuilt(f, "scoring_func", "softmax is built for deepseek_v2");
  // The model's own code does not scale then, and transformers does not look at it.
  if (f.BoolOr("norm_topk_prob", false))
    NotBuilt(f, "norm_topk_prob", "true means different things to programs that know deepseek_v2");
  CheckExperts(f, kHfKeys, out.config);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseDeepseekV3Hf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out = ParseDeepseekHf(f, "deepseek_v3");
  moe::GatingOptions& g = out.config.gating;
  g.score = moe::GatingOptions::Score::kSigmoid;
  out.config.choice_bias = true;
  ParseGroups(f, kHfKeys, 2, &g);
  g.renormalize = f.BoolOr("norm_topk_prob", true);
  if (f.StringOr("topk_method", "noaux_tc") != "noaux_tc")
    NotBuilt(f, "topk_method", "noaux_tc is built for deepseek_v3");
  if (f.StringOr("scoring_func", "sigmoid") != "sigmoid")
    NotBuilt(f, "scoring_func", "sigmoid is built for deepseek_v3");
  CheckExperts(f, kHfKeys, out.config);
  return Done(f, std::move(out));
}

void ParseDeepseekGguf(Fields& f, const weights::ModelFiles& files, FamilyParse* out) {
  constexpr Keys kKeys = {"attention.kv_lora_rank", "expert_group_count", "expert_group_used_count",
                          "expert_count",           "expert_used_count",  "expert_shared_count"};
  ModelConfig& c = out->config;
  TensorNames& n = out->names;
  LatentConfig& l = c.latent;
  const auto has = [&](std::string_view name) { return files.Find(name) != nullptr; };
  l.kv_rank = static_cast<int>(f.Int(kKeys.kv_rank, 1, kDimMax));
  l.q_rank = static_cast<int>(f.IntOr("attention.q_lora_rank", 0, 1 << 17, 0));
  l.rope_dim = static_cast<int>(f.Int("rope.dimension_count", 2, kDimMax));
  // Files since 2025 have the absorbed dimensions in key_length and value_length.
  const bool absorbed = f.Has("attention.key_length_mla");
  const std::string_view key = absorbed ? "attention.key_length_mla" : "attention.key_length";
  const auto key_dim = static_cast<int>(f.Int(key, 1, kDimMax));
  l.value_dim = static_cast<int>(
      f.Int(absorbed ? "attention.value_length_mla" : "attention.value_length", 1, kDimMax));
  l.nope_dim = key_dim - l.rope_dim;
  l.norm_eps = c.norm_eps;
  if (l.nope_dim < 1) f.Fail(key, "it must be above rope.dimension_count");
  if (l.rope_dim % 2 != 0) f.Fail("rope.dimension_count", "it must be even");
  if (absorbed && c.head_dim != l.kv_rank + l.rope_dim)
    f.Fail("attention.key_length", "it must be kv_lora_rank + rope.dimension_count");
  c.rope_interleaved = true;

  // llama.cpp scales queries and keys in attention, not where they are turned.
  double mscale = 1;
  if (c.rope.scaling == RopeConfig::Scaling::kYarn) {
    const double log_factor = f.DoubleOr("rope.scaling.yarn_log_multiplier", 0, 1e3, 0);
    mscale = f.DoubleOr("rope.scaling.attn_factor", 1e-3, 1e3, 1.0) *
             YarnAttentionFactor(c.rope.factor, 10 * log_factor);
    c.rope.attention_factor = 1;
  }
  FinishLatent(f, kKeys, mscale, &c);
  c.rotary_dim = l.rope_dim;

  n.k = n.v = "";
  if (l.q_rank > 0) {
    n.q_a = "blk.{}.attn_q_a";
    n.q_a_norm = "blk.{}.attn_q_a_norm";
    n.q = "blk.{}.attn_q_b";
  }
  n.kv_a = "blk.{}.attn_kv_a_mqa";
  n.kv_a_norm = "blk.{}.attn_kv_a_norm";
  if (has("blk.0.attn_kv_b.weight")) {
    n.kv_b = "blk.{}.attn_kv_b";
  } else {
    n.k_b = "blk.{}.attn_k_b";
    n.v_b = "blk.{}.attn_v_b";
  }

  moe::GatingOptions& g = c.gating;
  const int64_t gate = f.IntOr("expert_gating_func", 1, 2, 1);
  if (gate == 2) g.score = moe::GatingOptions::Score::kSigmoid;
  ParseGroups(f, kKeys, gate == 2 ? 2 : 1, &g);
  const int64_t dense = f.IntOr("leading_dense_block_count", 0, 1024, 0);
  c.layer_moe.clear();
  for (int i = 0; i < c.num_layers; ++i) c.layer_moe.push_back(i >= dense);
  c.choice_bias = has(absl::StrCat("blk.", dense, ".exp_probs_b.bias"));
  n.choice_bias = "blk.{}.exp_probs_b.bias";
  c.shared_ffn_size = static_cast<int>(f.IntOr(kKeys.shared, 0, 1 << 10, 0)) * c.expert_ffn_size;
  n.shared_gate = "blk.{}.ffn_gate_shexp";
  n.shared_up = "blk.{}.ffn_up_shexp";
  n.shared_down = "blk.{}.ffn_down_shexp";
  CheckExperts(f, kKeys, c);
}

}  // namespace tutti::model
