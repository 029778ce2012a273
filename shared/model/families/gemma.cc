// Gemma 2 (arXiv:2408.00118) and the text half of Gemma 3 (arXiv:2503.19786).
#include <cmath>

#include "shared/model/families/families.h"

namespace tutti::model {
namespace {

// What both have: gains meant as 1 + w, a norm on each side of both sublayers, embeddings scaled by
// sqrt(hidden), tied output.
void ParseGemma(Fields& f, FamilyParse* out) {
  ParseHfCommon(f, out);
  ModelConfig& c = out->config;
  if (!f.Has("head_dim")) c.head_dim = 256;
  c.placement = NormPlacement::kSandwich;
  c.norm_gain_offset = 1.0f;
  c.activation =
      ParseActivation(f, "hidden_activation", f.StringOr("hidden_act", "gelu_pytorch_tanh"));
  c.tied_embeddings = f.BoolOr("tie_word_embeddings", true);
  c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.hidden_size)));
  c.qkv_bias = c.attn_out_bias = f.BoolOr("attention_bias", false);
  c.attention_scale = InverseSqrt(f.DoubleOr("query_pre_attn_scalar", 1e-3, 1e9, 256));
  c.attention_softcap = static_cast<float>(f.DoubleOr("attn_logit_softcapping", 1e-3, 1e9, 0));
  c.logit_softcap = static_cast<float>(f.DoubleOr("final_logit_softcapping", 1e-3, 1e9, 0));
  c.sliding_window = static_cast<int>(f.IntOr("sliding_window", 1, 1 << 24, 4096));
  out->names.attn_post_norm = "layers.{}.post_attention_layernorm";
  out->names.ffn_norm = "layers.{}.pre_feedforward_layernorm";
  out->names.ffn_post_norm = "layers.{}.post_feedforward_layernorm";
}

}  // namespace

absl::StatusOr<FamilyParse> ParseGemma2Hf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseGemma(f, &out);
  ModelConfig& c = out.config;
  c.architecture = "gemma2";
  ParseHfRope(f, 10000.0, "", c, &c.rope, &c.rotary_dim);
  ParseHfLayerTypes(f, &c, [](int layer) { return layer % 2 == 0; });
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

absl::StatusOr<FamilyParse> ParseGemma3Hf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseGemma(f, &out);
  ModelConfig& c = out.config;
  c.architecture = "gemma3";
  c.qk_norm = true;
  out.names.q_norm = "layers.{}.self_attn.q_norm";
  out.names.k_norm = "layers.{}.self_attn.k_norm";
  // Layers without the window stretch their RoPE; those with it have a base of their own, unscaled.
  ParseHfRope(f, 1000000.0, "full_attention", c, &c.rope, &c.rotary_dim);
  c.has_local_rope = true;
  if (f.Has("rope_parameters")) {
    int local_dim = 0;
    ParseHfRope(f, 10000.0, "sliding_attention", c, &c.local_rope, &local_dim);
  } else {
    c.local_rope.theta = f.DoubleOr("rope_local_base_freq", 1, 1e12, 10000.0);
  }
  const int64_t pattern =
      f.IntOr("sliding_window_pattern", 1, 1024, f.IntOr("_sliding_window_pattern", 1, 1024, 6));
  ParseHfLayerTypes(f, &c, [&](int layer) { return (layer + 1) % pattern != 0; });
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

}  // namespace tutti::model
