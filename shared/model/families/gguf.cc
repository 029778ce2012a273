// GGUF: one set of keys under the architecture's name, one set of tensor names (llama.cpp's
// gguf-py/gguf/constants.py), and per architecture what llama.cpp's graph builder does with them.
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"
#include "shared/model/rope.h"

namespace tutti::model {
namespace {

// rope.scaling.* and the tensor of divisors that Llama 3.1 files carry.
void ParseGgufRope(Fields& f, const weights::ModelFiles& files, ModelConfig* c) {
  RopeConfig& rope = c->rope;
  rope.theta = f.DoubleOr("rope.freq_base", 1, 1e12, 10000.0);
  c->rotary_dim = static_cast<int>(f.IntOr("rope.dimension_count", 2, 1 << 10, c->head_dim));
  const std::string type =
      f.StringOr("rope.scaling.type",
                 f.Has("rope.scale_linear") || f.Has("rope.scaling.factor") ? "linear" : "none");
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
    rope.factor = f.DoubleOr("rope.scaling.factor", 1e-3, 1e6,
                             f.DoubleOr("rope.scale_linear", 1e-3, 1e6, 1.0));
  } else if (type == "yarn") {
    rope.scaling = RopeConfig::Scaling::kYarn;
    rope.factor = f.Double("rope.scaling.factor", 1e-3, 1e6);
    rope.original_context =
        f.DoubleOr("rope.scaling.original_context_length", 1, 1 << 24, c->context_tokens);
    rope.beta_fast = f.DoubleOr("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32.0);
    rope.beta_slow = f.DoubleOr("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1.0);
    rope.attention_factor =
        YarnAttentionFactor(rope.factor) * f.DoubleOr("rope.scaling.attn_factor", 1e-3, 1e3, 1.0);
  } else if (type != "none") {
    f.FailWith(absl::UnimplementedError(
        absl::StrCat("GGUF metadata: rope.scaling.type \"", Printable(type),
                     "\" is not built; none, linear and yarn are")));
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (files.Find(name) != nullptr) {
      f.FailWith(
          absl::UnimplementedError(absl::StrCat("tensor ", name, ": longrope is not built")));
    }
  }
  if (const weights::TensorInfo* t = files.Find("rope_freqs.weight")) {
    if (t->dtype != DType::kF32 || t->shape.size() != 1 || t->shape[0] != c->rotary_dim / 2) {
      f.FailWith(absl::InvalidArgumentError(absl::StrCat("tensor rope_freqs.weight: must be F32 [",
                                                         c->rotary_dim / 2,
                                                         "] (half the rotary dimension)")));
      return;
    }
    for (int64_t i = 0; i < t->shape[0]; ++i) {
      float divisor;
      std::memcpy(&divisor, t->data.data() + i * sizeof divisor, sizeof divisor);
      rope.divisors.push_back(divisor);
    }
  }
}

// attention.sliding_window_pattern: a period (its last layer sees all) or one truth value per
// layer.
void ParseGgufWindow(Fields& f, const nlohmann::json& config, const std::string& arch,
                     int64_t default_period, ModelConfig* c) {
  c->layer_slides.assign(c->num_layers, false);
  c->sliding_window = static_cast<int>(f.IntOr("attention.sliding_window", 0, 1 << 24, 0));
  if (c->sliding_window == 0) return;
  // Of other architectures the reference (llama.cpp) reads no window: their converters write what
  // the original configuration says, also where the model makes no use of it.
  // Mistral's files are "llama": their window is the model's own.
  if (arch != "llama" && arch != "gemma2" && arch != "gemma3" && arch != "phi3") {
    c->notes.push_back(absl::StrCat("GGUF metadata: ", arch, ".attention.sliding_window is ",
                                    c->sliding_window, ": not used by this architecture"));
    c->sliding_window = 0;
    return;
  }
  const auto it = config.find(arch + ".attention.sliding_window_pattern");
  if (it != config.end() && it->is_array()) {
    c->layer_slides = f.BoolsOr("attention.sliding_window_pattern", 4096);
    return;
  }
  const int64_t period = f.IntOr("attention.sliding_window_pattern", 1, 1024, default_period);
  for (int i = 0; i < c->num_layers; ++i) c->layer_slides[i] = period == 0 || (i + 1) % period != 0;
}

void ParseGemmaGguf(Fields& f, FamilyParse* out) {
  ModelConfig& c = out->config;
  c.placement = NormPlacement::kSandwich;  // the converter stores gains as 1 + w: no offset here
  c.activation = kernels::Activation::kGeluTanh;
  c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.hidden_size)));
  c.attention_softcap = static_cast<float>(f.DoubleOr("attn_logit_softcapping", 1e-3, 1e9, 0));
  c.logit_softcap = static_cast<float>(f.DoubleOr("final_logit_softcapping", 1e-3, 1e9, 0));
  out->names.attn_post_norm = "blk.{}.post_attention_norm";
  out->names.ffn_post_norm = "blk.{}.post_ffw_norm";
  // The 27B models scale queries by hidden / heads; the metadata does not say so, their depth does.
  const int big = c.architecture == "gemma2" ? 46 : 62;
  if (c.num_layers == big)
    c.attention_scale = InverseSqrt(static_cast<double>(c.hidden_size) / c.num_heads);
}

void ParseGpt2Gguf(FamilyParse* out) {
  ModelConfig& c = out->config;
  c.norm = NormKind::kLayer;
  c.gated_ffn = false;
  c.activation = kernels::Activation::kGeluTanh;
  c.learned_positions = true;
  c.rotary_dim = 0;
  out->names.positions = "position_embd";
}

// A layer is a mixture when it has a router.
void ParseGgufExperts(Fields& f, const weights::ModelFiles& files, FamilyParse* out) {
  ModelConfig& c = out->config;
  TensorNames& names = out->names;
  const auto has = [&](const std::string& name) { return files.Find(name) != nullptr; };
  c.gating.num_experts = static_cast<int>(f.Int("expert_count", 1, 1 << 12));
  c.gating.top_k = static_cast<int>(f.Int("expert_used_count", 1, 1 << 12));
  c.gating.renormalize =
      f.BoolOr("expert_weights_norm", c.architecture == "llama" || c.architecture == "qwen3moe");
  c.gating.scale = static_cast<float>(f.DoubleOr("expert_weights_scale", 1e-6, 1e5, 1.0));
  c.expert_ffn_size =
      static_cast<int>(f.IntOr("expert_feed_forward_length", 1, 1 << 20, c.ffn_size));
  // Not of the format: what `tutti upcycle` writes (moe/drops.h).
  Fields own(files.config(), "GGUF metadata", "tutti.moe.");
  const std::string second = own.StringOr("second_expert", "always");
  if (second != "always" && second != "random") {
    own.FailWith(absl::InvalidArgumentError(
        absl::StrCat("GGUF metadata: tutti.moe.second_expert is \"", Printable(second),
                     "\"; it must be always or random")));
  }
  c.gating.random_second = second == "random";
  c.gating.capacity_factor = static_cast<float>(own.DoubleOr("capacity_factor", 0, 1 << 12, 0));
  if (!own.status().ok()) f.FailWith(own.status());
  bool stacked = true;
  for (int i = 0; i < c.num_layers; ++i) {
    const std::string layer = absl::StrCat("blk.", i, ".");
    c.layer_moe.push_back(has(layer + "ffn_gate_inp.weight"));
    if (has(layer + "ffn_gate.0.weight")) stacked = false;  // files of 2023
  }
  names.router = "blk.{}.ffn_gate_inp";
  names.expert_gate = stacked ? "blk.{}.ffn_gate_exps" : "blk.{}.ffn_gate.{e}";
  names.expert_up = stacked ? "blk.{}.ffn_up_exps" : "blk.{}.ffn_up.{e}";
  names.expert_down = stacked ? "blk.{}.ffn_down_exps" : "blk.{}.ffn_down.{e}";
  if (c.architecture != "qwen2moe") return;
  c.shared_ffn_size =
      static_cast<int>(f.IntOr("expert_shared_feed_forward_length", 1, 1 << 20, c.ffn_size));
  c.shared_gate = true;
  names.shared_gate = "blk.{}.ffn_gate_shexp";
  names.shared_up = "blk.{}.ffn_up_shexp";
  names.shared_down = "blk.{}.ffn_down_shexp";
  names.shared_router = "blk.{}.ffn_gate_inp_shexp";
}

}  // namespace

absl::StatusOr<FamilyParse> ParseGguf(const weights::ModelFiles& files) {
  Fields top(files.config(), "GGUF metadata");
  const std::string arch = top.StringOr("general.architecture", "");
  TUTTI_RETURN_IF_ERROR(top.status());
  Fields f(files.config(), "GGUF metadata", arch + ".");
  FamilyParse out;
  ModelConfig& c = out.config;
  c.architecture = arch;
  c.num_layers = static_cast<int>(f.Int("block_count", 1, 1024));
  c.hidden_size = static_cast<int>(f.Int("embedding_length", 1, 1 << 17));
  const auto needed = [&](std::string_view key, int64_t hi) {
    if (!f.Has(key)) f.Fail(key, "it is needed");
    return static_cast<int>(f.EqualInts(key, 1, hi, 1));
  };
  c.ffn_size = needed("feed_forward_length", 1 << 20);
  c.num_heads = needed("attention.head_count", 1 << 12);
  c.num_kv_heads =
      static_cast<int>(f.EqualInts("attention.head_count_kv", 1, 1 << 12, c.num_heads));
  c.head_dim =
      static_cast<int>(f.IntOr("attention.key_length", 1, 1 << 10, c.hidden_size / c.num_heads));
  if (arch != "deepseek2" &&
      f.IntOr("attention.value_length", 1, 1 << 10, c.head_dim) != c.head_dim) {
    f.FailWith(absl::UnimplementedError(
        "GGUF metadata: attention.value_length differs from key_length; that is not built"));
  }
  c.context_tokens = static_cast<int>(f.Int("context_length", 1, 1 << 24));
  c.norm_eps =
      static_cast<float>(arch == "gpt2" ? f.DoubleOr("attention.layer_norm_epsilon", 0, 1, 1e-5)
                                        : f.Double("attention.layer_norm_rms_epsilon", 0, 1));
  c.attention_scale = InverseSqrt(c.head_dim);
  if (arch != "gpt2") ParseGgufRope(f, files, &c);

  out.names = {.embedding = "token_embd",
               .final_norm = "output_norm",
               .output = "output",
               .attn_norm = "blk.{}.attn_norm",
               .q = "blk.{}.attn_q",
               .k = "blk.{}.attn_k",
               .v = "blk.{}.attn_v",
               .attn_out = "blk.{}.attn_output",
               .ffn_norm = "blk.{}.ffn_norm",
               .gate = "blk.{}.ffn_gate",
               .up = "blk.{}.ffn_up",
               .down = "blk.{}.ffn_down"};
  // Llama files have the rows of q and k reordered so that pairs are neighbours (ggml's NORM rope).
  c.rope_interleaved = arch == "llama";
  c.activation = kernels::Activation::kSilu;
  int64_t default_period = 0;
  if (arch == "gemma2" || arch == "gemma3") {
    ParseGemmaGguf(f, &out);
    default_period = arch == "gemma2" ? 2 : 6;
  }
  if (arch == "gpt2") ParseGpt2Gguf(&out);
  if (arch == "qwen3" || arch == "qwen3moe" || arch == "gemma3" || arch == "olmoe") {
    (arch == "olmoe" ? c.qk_norm_whole : c.qk_norm) = true;
    out.names.q_norm = "blk.{}.attn_q_norm";
    out.names.k_norm = "blk.{}.attn_k_norm";
  }
  if (arch == "gemma3") {
    c.has_local_rope = true;
    c.local_rope.theta = f.DoubleOr("rope.freq_base_swa", 1, 1e12, 10000.0);
  }
  c.attention_scale =
      static_cast<float>(f.DoubleOr("attention.scale", 1e-9, 1e6, c.attention_scale));
  ParseGgufWindow(f, files.config(), arch, default_period, &c);
  const auto has = [&](std::string_view name) { return files.Find(name) != nullptr; };
  if (has("blk.0.attn_qkv.weight")) {
    out.names.q = out.names.k = out.names.v = "";
    out.names.qkv = "blk.{}.attn_qkv";
  }
  if (f.IntOr("expert_count", 0, 1 << 12, 0) > 0) {
    ParseGgufExperts(f, files, &out);
  } else if (c.gated_ffn && !has("blk.0.ffn_gate.weight")) {
    out.names.gate = out.names.up = "";
    out.names.gate_up = "blk.{}.ffn_up";  // Phi-3: gate, then up, in one tensor
  }
  if (arch == "deepseek2") ParseDeepseekGguf(f, files, &out);
  c.qkv_bias = has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias");
  c.attn_out_bias = has("blk.0.attn_output.bias");
  c.ffn_bias = has("blk.0.ffn_down.bias");
  c.tied_embeddings = !has("output.weight");
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

}  // namespace tutti::model
