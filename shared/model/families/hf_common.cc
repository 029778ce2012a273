#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"
#include "shared/model/rope.h"

namespace tutti::model {
namespace {

constexpr double kBig = 1e12;

// Parameters of one scaling block: `s` holds rope_type and its numbers. `original`: the context
// before stretching as the configuration itself says it, which goes before the block's; 0: it does
// not.
void ParseScaling(Fields& s, const ModelConfig& config, double original, RopeConfig* rope) {
  const std::string type = s.StringOr("rope_type", s.StringOr("type", "default"));
  if (type == "default" || type.empty()) return;
  rope->original_context =
      s.DoubleOr("original_max_position_embeddings", 1, 1 << 24, config.context_tokens);
  if (original > 0) rope->original_context = original;
  rope->factor = s.DoubleOr("factor", 1e-3, 1e6,
                            type == "yarn" ? config.context_tokens / rope->original_context : 1.0);
  if (type == "linear") {
    rope->scaling = RopeConfig::Scaling::kLinear;
  } else if (type == "llama3") {
    rope->scaling = RopeConfig::Scaling::kLlama3;
    rope->low_freq_factor = s.Double("low_freq_factor", 1e-3, 1e6);
    rope->high_freq_factor = s.Double("high_freq_factor", 1e-3, 1e6);
  } else if (type == "yarn") {
    rope->scaling = RopeConfig::Scaling::kYarn;
    rope->beta_fast = s.DoubleOr("beta_fast", 1e-3, 1e6, 32.0);
    rope->beta_slow = s.DoubleOr("beta_slow", 1e-3, 1e6, 1.0);
    rope->truncate = s.BoolOr("truncate", true);
    const double mscale = s.DoubleOr("mscale", 0, 1e3, 0),
                 mscale_all = s.DoubleOr("mscale_all_dim", 0, 1e3, 0);
    if (s.Has("attention_factor")) {
      rope->attention_factor = s.Double("attention_factor", 1e-3, 1e3);
    } else if (mscale > 0 && mscale_all > 0) {
      rope->attention_factor =
          YarnAttentionFactor(rope->factor, mscale) / YarnAttentionFactor(rope->factor, mscale_all);
    } else {
      rope->attention_factor = YarnAttentionFactor(rope->factor);
    }
  } else {
    // "dynamic" and "longrope" change the angles of early positions when a sequence grows, so a key
    // in the cache would depend on what comes after it.
    s.FailWith(absl::UnimplementedError(
        absl::StrCat(s.source(), ": rope type \"", Printable(type),
                     "\" is not built; default, linear, llama3 and yarn are")));
  }
}

}  // namespace

float InverseSqrt(double x) { return static_cast<float>(1.0 / std::sqrt(x)); }

kernels::Activation ParseActivation(Fields& f, std::string_view key, std::string_view fallback) {
  const std::string name = f.StringOr(key, fallback);
  if (name == "silu" || name == "swish") return kernels::Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast")
    return kernels::Activation::kGeluTanh;
  f.FailWith(absl::UnimplementedError(
      absl::StrCat(f.source(), ": ", ToAbsl(key), " \"", Printable(name),
                   "\" is not built; silu and gelu by tanh (gelu_new, gelu_pytorch_tanh) are")));
  return kernels::Activation::kSilu;
}

void ParseHfRope(Fields& f, double default_theta, std::string_view layer_type,
                 const ModelConfig& config, RopeConfig* rope, int* rotary_dim,
                 PartialRotary partial_rotary) {
  double partial = f.DoubleOr("partial_rotary_factor", 1e-3, 1.0, 1.0);
  const double original = f.DoubleOr("original_max_position_embeddings", 1, 1 << 24, 0);
  rope->theta = f.DoubleOr("rope_theta", 1, kBig, default_theta);
  if (f.Has("rope_parameters")) {
    Fields p = f.Object("rope_parameters");
    bool nested = false;
    if (!layer_type.empty() && p.Has(layer_type)) {
      Fields inner = p.Object(layer_type);
      f.Absorb(p);
      p = inner;
      nested = true;
    }
    rope->theta = p.DoubleOr("rope_theta", 1, kBig, rope->theta);
    partial = p.DoubleOr("partial_rotary_factor", 1e-3, 1.0, partial);
    ParseScaling(p, config, nested ? 0 : original, rope);
    f.Absorb(p);
  } else if (f.Has("rope_scaling")) {
    Fields s = f.Object("rope_scaling");
    partial = s.DoubleOr("partial_rotary_factor", 1e-3, 1.0, partial);
    ParseScaling(s, config, original, rope);
    f.Absorb(s);
  }
  if (partial_rotary == PartialRotary::kIgnored && partial < 1) {
    if (rope->scaling != RopeConfig::Scaling::kNone) {
      f.FailWith(absl::UnimplementedError(absl::StrCat(
          f.source(), ": partial_rotary_factor is ", partial,
          ": this family turns whole heads, and with a stretched context the reference does not "
          "run such a model")));
    }
    partial = 1;
  }
  *rotary_dim = static_cast<int>(config.head_dim * partial);
}

void ParseHfCommon(Fields& f, FamilyParse* out) {
  ModelConfig& c = out->config;
  c.num_layers = static_cast<int>(f.Int("num_hidden_layers", 1, 1024));
  c.hidden_size = static_cast<int>(f.Int("hidden_size", 1, 1 << 17));
  c.ffn_size = static_cast<int>(f.Int("intermediate_size", 1, 1 << 20));
  c.num_heads = static_cast<int>(f.Int("num_attention_heads", 1, 1 << 12));
  c.num_kv_heads = static_cast<int>(f.IntOr("num_key_value_heads", 1, 1 << 12, c.num_heads));
  c.head_dim = static_cast<int>(f.IntOr("head_dim", 1, 1 << 10, c.hidden_size / c.num_heads));
  c.context_tokens = static_cast<int>(f.Int("max_position_embeddings", 1, 1 << 24));
  c.norm_eps = static_cast<float>(f.DoubleOr("rms_norm_eps", 0, 1, 1e-6));
  c.attention_scale = InverseSqrt(c.head_dim);
  out->prefixes = {"model.", ""};
  out->names = {.embedding = "embed_tokens",
                .final_norm = "norm",
                .output = "lm_head",
                .attn_norm = "layers.{}.input_layernorm",
                .q = "layers.{}.self_attn.q_proj",
                .k = "layers.{}.self_attn.k_proj",
                .v = "layers.{}.self_attn.v_proj",
                .attn_out = "layers.{}.self_attn.o_proj",
                .ffn_norm = "layers.{}.post_attention_layernorm",
                .gate = "layers.{}.mlp.gate_proj",
                .up = "layers.{}.mlp.up_proj",
                .down = "layers.{}.mlp.down_proj"};
}

void ParseHfPlain(Fields& f, FamilyParse* out, PartialRotary partial_rotary) {
  ModelConfig& c = out->config;
  c.activation = ParseActivation(f, "hidden_act", "silu");
  c.tied_embeddings = f.BoolOr("tie_word_embeddings", false);
  ParseHfRope(f, 10000.0, "", c, &c.rope, &c.rotary_dim, partial_rotary);
  c.layer_slides.assign(c.num_layers, false);
}

void ParseQwenWindow(Fields& f, ModelConfig* c) {
  const bool use = f.BoolOr("use_sliding_window", false);
  c->sliding_window = use ? static_cast<int>(f.IntOr("sliding_window", 1, 1 << 24, 4096)) : 0;
  const int64_t first = f.IntOr("max_window_layers", 0, 1 << 20, 28);
  ParseHfLayerTypes(f, c, [&](int layer) { return use && layer >= first; });
  if (!use) c->layer_slides.assign(c->layer_slides.size(), false);
}

}  // namespace tutti::model
