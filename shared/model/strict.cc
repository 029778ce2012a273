#include "shared/model/strict.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <span>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

using nlohmann::json;
using std::string_view_literals::operator""sv;

bool In(std::span<const std::string_view> list, std::string_view s) {
  return std::find(list.begin(), list.end(), s) != list.end();
}

std::string Show(const json& value) {
  return Printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
}

// Keys of config.json that the families here read, or that the reference (transformers) ignores for
// them. Those without a word of kWords need not stand here.
constexpr std::string_view kConfigKeys[] = {
    // read here
    "hidden_size"sv,
    "intermediate_size"sv,
    "num_hidden_layers"sv,
    "num_attention_heads"sv,
    "num_key_value_heads"sv,
    "hidden_act"sv,
    "max_position_embeddings"sv,
    "rms_norm_eps"sv,
    "tie_word_embeddings"sv,
    "rope_parameters"sv,
    "rope_scaling"sv,
    "rope_theta"sv,
    "attention_bias"sv,
    "mlp_bias"sv,
    "head_dim"sv,
    "sliding_window"sv,
    "use_sliding_window"sv,
    "max_window_layers"sv,
    "layer_types"sv,
    "original_max_position_embeddings"sv,
    "hidden_activation"sv,
    "query_pre_attn_scalar"sv,
    "final_logit_softcapping"sv,
    "attn_logit_softcapping"sv,
    "rope_local_base_freq"sv,
    "sliding_window_pattern"sv,
    "partial_rotary_factor"sv,
    "n_layer"sv,
    "n_head"sv,
    "n_positions"sv,
    "activation_function"sv,
    "layer_norm_epsilon"sv,
    "scale_attn_weights"sv,
    "scale_attn_by_inverse_layer_idx"sv,
    "num_experts_per_tok"sv,
    "num_local_experts"sv,
    "num_experts"sv,
    "n_routed_experts"sv,
    "clip_qkv"sv,
    "moe_intermediate_size"sv,
    "shared_expert_intermediate_size"sv,
    "mlp_only_layers"sv,
    "qkv_bias"sv,
    "n_shared_experts"sv,
    "qk_nope_head_dim"sv,
    "qk_rope_head_dim"sv,
    "v_head_dim"sv,
    "norm_topk_prob"sv,
    "qk_head_dim"sv,
    "routed_scaling_factor"sv,
    "moe_layer_freq"sv,
    "rope_interleave"sv,
    "use_bidirectional_attention"sv,
    "is_causal"sv,
    // of training and of other programs
    "attention_dropout"sv,
    "attn_pdrop"sv,
    "attention_probs_dropout_prob"sv,
    "embedding_dropout"sv,
    "router_aux_loss_coef"sv,
    "router_jitter_noise"sv,
    "router_z_loss_coef"sv,
    "output_router_logits"sv,
    "output_attentions"sv,
    "reorder_and_upcast_attn"sv,
    "attn_implementation"sv,
    "attention_implementation"sv,
    "use_flash_attn"sv,
    "use_flash_attention"sv,
    "use_flash_attention_2"sv,
    "num_logits_to_keep"sv,
    "logits_to_keep"sv,
    "num_nextn_predict_layers"sv,
    "num_mtp_layers"sv,
    "layer_norm_eps"sv,
    "summary_activation"sv,
    "max_position"sv,
    "moe_router_load_balancing_loss_coef"sv,
    "expert_parallel_size"sv,
    "tensor_parallel_size"sv,
    "pipeline_parallel_size"sv,
};

// Words of the arithmetic in names of keys.
constexpr std::string_view kWords[] = {
    "attention"sv,     "attn"sv,        "rope"sv,       "mrope"sv,    "rotary"sv,    "norm"sv,
    "layernorm"sv,     "rmsnorm"sv,     "scale"sv,      "scaling"sv,  "scalar"sv,    "multiplier"sv,
    "softcap"sv,       "softcapping"sv, "cap"sv,        "window"sv,   "bias"sv,      "causal"sv,
    "bidirectional"sv, "logit"sv,       "logits"sv,     "residual"sv, "embedding"sv, "embeddings"sv,
    "position"sv,      "positions"sv,   "positional"sv, "alibi"sv,    "gate"sv,      "gated"sv,
    "gating"sv,        "expert"sv,      "experts"sv,    "moe"sv,      "router"sv,    "head"sv,
    "heads"sv,         "act"sv,         "activation"sv, "mlp"sv,      "ffn"sv,       "layer"sv,
    "layers"sv,        "parallel"sv,    "conv"sv,       "ssm"sv,      "mamba"sv,     "recurrent"sv,
    "clip"sv,          "sink"sv,        "sinks"sv,      "chunk"sv,    "nope"sv,      "qk"sv,
    "qkv"sv,           "latent"sv,      "factor"sv,     "theta"sv,    "mask"sv,      "xpos"sv,
    "yarn"sv,          "ntk"sv,         "hyper"sv,      "altup"sv,    "laurel"sv,
};

// Keys of a GGUF's architecture that are read here, or change nothing.
constexpr std::string_view kGgufKeys[] = {
    "block_count"sv,
    "context_length"sv,
    "embedding_length"sv,
    "feed_forward_length"sv,
    "attention.head_count"sv,
    "attention.head_count_kv"sv,
    "attention.key_length"sv,
    "attention.value_length"sv,
    "attention.key_length_mla"sv,
    "attention.value_length_mla"sv,
    "attention.layer_norm_rms_epsilon"sv,
    "attention.layer_norm_epsilon"sv,
    "attention.scale"sv,
    "attention.sliding_window"sv,
    "attention.sliding_window_pattern"sv,
    "attention.kv_lora_rank"sv,
    "attention.q_lora_rank"sv,
    "attention.causal"sv,
    "rope.freq_base"sv,
    "rope.freq_base_swa"sv,
    "rope.dimension_count"sv,
    "rope.scale_linear"sv,
    "rope.scaling.type"sv,
    "rope.scaling.factor"sv,
    "rope.scaling.original_context_length"sv,
    "rope.scaling.attn_factor"sv,
    "rope.scaling.yarn_beta_fast"sv,
    "rope.scaling.yarn_beta_slow"sv,
    "rope.scaling.yarn_log_multiplier"sv,
    "attn_logit_softcapping"sv,
    "final_logit_softcapping"sv,
    "expert_count"sv,
    "expert_used_count"sv,
    "expert_feed_forward_length"sv,
    "expert_shared_count"sv,
    "expert_shared_feed_forward_length"sv,
    "expert_weights_norm"sv,
    "expert_weights_scale"sv,
    "expert_gating_func"sv,
    "expert_group_count"sv,
    "expert_group_used_count"sv,
    "leading_dense_block_count"sv,
    // change nothing
    "vocab_size"sv,
    "rope.scaling.finetuned"sv,
    "tensor_data_layout"sv,
    "pooling_type"sv,
    "nextn_predict_layers"sv,
    "mm.tokens_per_image"sv,
    "classifier.output_labels"sv,
};

bool HasWord(std::string_view key, std::span<const std::string_view> words) {
  for (size_t at = 0; at < key.size();) {
    size_t end = at;
    while (end < key.size() && std::isalnum(static_cast<unsigned char>(key[end]))) ++end;
    if (end > at && In(words, key.substr(at, end - at))) return true;
    at = end + 1;
  }
  return false;
}

// A switch that is off, and a scale of one.
bool IsNeutral(std::string_view key, const json& value) {
  constexpr std::string_view kScales[] = {"scale"sv, "scaling"sv, "multiplier"sv, "factor"sv};
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number())
    return value == 0 || (value == 1 && !value.is_boolean() && HasWord(key, kScales));
  return value.empty() || (value.is_string() && value.get_ref<const std::string&>().empty());
}

absl::Status Unknown(std::string_view source, std::string_view key, const json& value) {
  return absl::UnimplementedError(absl::StrCat(
      ToAbsl(source), ": ", Printable(key), " is ", Show(value),
      "; the key is not known for this family and may change what the model computes. Take it out "
      "if the model does not use it"));
}

absl::Status BothDirections(std::string_view source, std::string_view key, const json& value) {
  return absl::UnimplementedError(
      absl::StrCat(ToAbsl(source), ": ", ToAbsl(key), " is ", Show(value),
                   ": attention in both directions is not built; decoders that look back are"));
}

// Methods by the names in quantization_config.quant_method.
absl::Status RefuseQuantised(std::string_view key, const json& value) {
  std::string method = "an unnamed method";
  const auto text = [&](const char* name) {
    const auto it = value.is_object() ? value.find(name) : value.end();
    return value.is_object() && it != value.end() && it->is_string() ? it->get<std::string>() : "";
  };
  const auto flag = [&](const char* name) {
    return value.is_object() && value.contains(name) && value[name] == true;
  };
  if (!text("quant_method").empty()) {
    method = text("quant_method");
  } else if (flag("load_in_4bit") || flag("load_in_8bit")) {
    method = "bitsandbytes";
  } else if (key == "quantization") {
    method = "MLX";
  } else if (!text("quant_algo").empty()) {
    method = text("quant_algo");
  }
  return absl::UnimplementedError(absl::StrCat(
      "config.json: ", ToAbsl(key), ": the weights are quantised by ", Printable(method, 40),
      ", which is not read here. Take the folder that was quantised (F32, F16 or BF16 "
      "weights), or a GGUF of the model (Q8_0, Q6_K, Q5_K, Q4_K, ...), which "
      "`tutti quantize` can make smaller"));
}

absl::Status CheckConfigKeys(const json& config) {
  if (!config.is_object()) return absl::OkStatus();
  constexpr std::string_view kSource = "config.json";
  for (const std::string_view key :
       {"quantization_config"sv, "quantization"sv, "compression_config"sv}) {
    const auto it = config.find(key);
    if (it != config.end() && !it->is_null() && !it->empty()) return RefuseQuantised(key, *it);
  }
  const auto both = config.find("use_bidirectional_attention");
  if (both != config.end() && !IsNeutral("", *both))
    return BothDirections(kSource, "use_bidirectional_attention", *both);
  const auto causal = config.find("is_causal");
  if (causal != config.end() && *causal == false)
    return BothDirections(kSource, "is_causal", *causal);
  for (auto it = config.begin(); it != config.end(); ++it) {
    if (!IsHarmlessKey(it.key(), it.value())) return Unknown(kSource, it.key(), it.value());
  }
  return absl::OkStatus();
}

absl::Status CheckGgufKeys(const weights::ModelFiles& files) {
  constexpr std::string_view kSource = "GGUF metadata";
  const json& config = files.config();
  const auto arch = config.find("general.architecture");
  if (arch == config.end() || !arch->is_string()) return absl::OkStatus();
  const std::string prefix = arch->get<std::string>() + ".";
  const auto causal = config.find(prefix + "attention.causal");
  if (causal != config.end() && *causal == false)
    return BothDirections(kSource, prefix + "attention.causal", *causal);
  for (auto it = config.begin(); it != config.end(); ++it) {
    const std::string_view key = it.key();
    if (!key.starts_with(prefix) || In(kGgufKeys, key.substr(prefix.size()))) continue;
    if (!IsNeutral(key, it.value())) return Unknown(kSource, key, it.value());
  }
  for (const auto& [key, array] : files.arrays()) {  // those that are not inlined, too
    if (std::string_view(key).starts_with(prefix) && array.size() > 0 && !config.contains(key) &&
        !In(kGgufKeys, std::string_view(key).substr(prefix.size()))) {
      return Unknown(kSource, key, absl::StrCat("a list of ", array.size()));
    }
  }
  return absl::OkStatus();
}

bool EndsWithAny(std::string_view name, std::span<const std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(),
                     [&](std::string_view e) { return name.ends_with(e); });
}

// The layer in "model.layers.61.mlp.gate" or "blk.61.attn_norm.weight"; -1: none.
int64_t LayerIn(std::string_view name) {
  for (const std::string_view before : {"layers."sv, "blk."sv, "h."sv}) {
    const size_t at = name.find(before);
    if (at == name.npos || (at > 0 && name[at - 1] != '.')) continue;
    int64_t layer = 0;
    size_t i = at + before.size();
    const size_t first = i;
    while (i < name.size() && i < first + 6 && std::isdigit(static_cast<unsigned char>(name[i])))
      layer = layer * 10 + (name[i++] - '0');
    if (i > first && i < name.size() && name[i] == '.') return layer;
  }
  return -1;
}

// A name with its layer's number replaced, to ask whether other layers have such a tensor.
std::string WithLayer(std::string_view name, int64_t from, int64_t to) {
  const std::string was = absl::StrCat(".", from, ".");
  const size_t at = name.find(was);
  if (at == name.npos) return std::string(name);
  return absl::StrCat(ToAbsl(name.substr(0, at)), ".", to, ".",
                      ToAbsl(name.substr(at + was.size())));
}

}  // namespace

bool IsHarmlessKey(std::string_view key, const json& value) {
  return key.starts_with('_') || In(kConfigKeys, key) || !HasWord(key, kWords) ||
         key.ends_with("_token_id") || key.ends_with("_token_index") || IsNeutral(key, value);
}

absl::Status CheckKeys(const weights::ModelFiles& files) {
  return files.format() == weights::Format::kGguf ? CheckGgufKeys(files)
                                                  : CheckConfigKeys(files.config());
}

absl::Status CheckUnusedTensors(const weights::ModelFiles& files, const ModelConfig& config,
                                const std::set<std::string_view>& used) {
  constexpr std::string_view kComputed[] = {
      "rotary_emb.inv_freq"sv,  "attn.masked_bias"sv,  "attn.bias"sv,
      "attn_rot_embd.weight"sv, "rope_freqs.weight"sv, "rotary_emb.cos_cached"sv,
      "rotary_emb.sin_cached"sv};
  const bool gguf = files.format() == weights::Format::kGguf;
  for (const weights::TensorInfo& t : files.tensors()) {
    if (used.contains(t.name) || EndsWithAny(t.name, kComputed)) continue;
    const int64_t layer = LayerIn(t.name);
    if (config.is_latent()) {
      if (layer >= config.num_layers) continue;  // multi-token prediction
      // The same matrix in another form.
      if (gguf && EndsWithAny(t.name, std::array{".attn_k_b.weight"sv, ".attn_v_b.weight"sv}))
        continue;
    }
    // Tied embeddings may stand there twice.
    if (!gguf && config.tied_embeddings && t.name.ends_with("lm_head.weight")) continue;
    std::string hint = "the family does not use it, and without it the model may be another one";
    if (t.name.ends_with(".bias") && layer >= 0) {
      const std::string first = WithLayer(t.name, layer, 0);
      if (layer > 0 && files.Find(first) == nullptr)
        hint = absl::StrCat("layer 0 has no such bias; all layers have one, or none");
    }
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Printable(t.name), " is not used: ", hint));
  }
  return absl::OkStatus();
}

}  // namespace tutti::model
