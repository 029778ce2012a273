#include "shared/model/config.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

// Generous against every published dense model, and small enough that products of two fit in 64
// bits and a row of anything fits in memory.
constexpr int kLayersMax = 1024, kHiddenMax = 1 << 17, kFfnMax = 1 << 20, kVocabMax = 1 << 22;
constexpr int kHeadsMax = 1 << 12, kHeadDimMax = 1 << 10, kContextMax = 1 << 24;

absl::Status Bad(std::string_view field, const std::string& value, std::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrFormat("model config: %s is %s; %s", std::string(field), value, std::string(want)));
}

absl::Status InRange(std::string_view field, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return Bad(field, absl::StrCat(value), absl::StrFormat("it must be in [%d, %d]", lo, hi));
}

absl::Status Finite(std::string_view field, double value, double lo, double hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();  // false for NaN
  return Bad(field, absl::StrCat(value), absl::StrFormat("it must be in [%g, %g]", lo, hi));
}

absl::Status ValidateRope(std::string_view name, const RopeConfig& rope, int rotary_dim) {
  const auto field = [&](std::string_view f) {
    return absl::StrCat(std::string(name), ".", std::string(f));
  };
  TUTTI_RETURN_IF_ERROR(Finite(field("theta"), rope.theta, 1.0 + 1e-6, 1e12));
  TUTTI_RETURN_IF_ERROR(Finite(field("factor"), rope.factor, 1e-3, 1e6));
  TUTTI_RETURN_IF_ERROR(Finite(field("attention_factor"), rope.attention_factor, 1e-3, 1e3));
  if (rope.scaling == RopeConfig::Scaling::kLlama3 || rope.scaling == RopeConfig::Scaling::kYarn) {
    TUTTI_RETURN_IF_ERROR(Finite(field("original_context"), rope.original_context, 1, kContextMax));
  }
  if (rope.scaling == RopeConfig::Scaling::kLlama3) {
    TUTTI_RETURN_IF_ERROR(Finite(field("low_freq_factor"), rope.low_freq_factor, 1e-3, 1e6));
    TUTTI_RETURN_IF_ERROR(Finite(field("high_freq_factor"), rope.high_freq_factor, 1e-3, 1e6));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return Bad(field("high_freq_factor"), absl::StrCat(rope.high_freq_factor),
                 "it must be above low_freq_factor");
    }
  }
  if (rope.scaling == RopeConfig::Scaling::kYarn) {
    TUTTI_RETURN_IF_ERROR(Finite(field("beta_fast"), rope.beta_fast, 1e-3, 1e6));
    TUTTI_RETURN_IF_ERROR(Finite(field("beta_slow"), rope.beta_slow, 1e-3, 1e6));
  }
  if (!rope.divisors.empty()) {
    if (static_cast<int>(rope.divisors.size()) != rotary_dim / 2) {
      return Bad(field("divisors"), absl::StrCat(rope.divisors.size(), " numbers"),
                 absl::StrCat("there must be rotary_dim / 2 = ", rotary_dim / 2));
    }
    for (double d : rope.divisors) TUTTI_RETURN_IF_ERROR(Finite(field("divisors"), d, 1e-6, 1e6));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  TUTTI_RETURN_IF_ERROR(InRange("num_layers", num_layers, 1, kLayersMax));
  TUTTI_RETURN_IF_ERROR(InRange("hidden_size", hidden_size, 1, kHiddenMax));
  TUTTI_RETURN_IF_ERROR(InRange("ffn_size", ffn_size, 1, kFfnMax));
  TUTTI_RETURN_IF_ERROR(InRange("vocab_size", vocab_size, 1, kVocabMax));
  TUTTI_RETURN_IF_ERROR(InRange("num_heads", num_heads, 1, kHeadsMax));
  TUTTI_RETURN_IF_ERROR(InRange("num_kv_heads", num_kv_heads, 1, num_heads));
  TUTTI_RETURN_IF_ERROR(InRange("head_dim", head_dim, 1, kHeadDimMax));
  TUTTI_RETURN_IF_ERROR(InRange("context_tokens", context_tokens, 1, kContextMax));
  if (num_heads % num_kv_heads != 0) {
    return Bad("num_kv_heads", absl::StrCat(num_kv_heads),
               absl::StrCat("it must divide num_heads = ", num_heads));
  }
  if (is_latent()) {
    const LatentConfig& l = latent;
    TUTTI_RETURN_IF_ERROR(InRange("latent.kv_rank", l.kv_rank, 1, kHeadDimMax));
    TUTTI_RETURN_IF_ERROR(InRange("latent.q_rank", l.q_rank, 0, kHiddenMax));
    TUTTI_RETURN_IF_ERROR(InRange("latent.nope_dim", l.nope_dim, 1, kHeadDimMax));
    TUTTI_RETURN_IF_ERROR(InRange("latent.rope_dim", l.rope_dim, 2, kHeadDimMax));
    TUTTI_RETURN_IF_ERROR(InRange("latent.value_dim", l.value_dim, 1, kHeadDimMax));
    TUTTI_RETURN_IF_ERROR(Finite("latent.norm_eps", l.norm_eps, 0, 1));
    TUTTI_RETURN_IF_ERROR(InRange("num_kv_heads", num_kv_heads, 1, 1));
    TUTTI_RETURN_IF_ERROR(
        InRange("head_dim", head_dim, l.kv_rank + l.rope_dim, l.kv_rank + l.rope_dim));
    TUTTI_RETURN_IF_ERROR(InRange("rotary_dim", rotary_dim, l.rope_dim, l.rope_dim));
    TUTTI_RETURN_IF_ERROR(InRange("num_heads * (nope_dim + rope_dim + value_dim)",
                                  int64_t{num_heads} * (l.nope_dim + l.rope_dim + l.value_dim), 1,
                                  kHiddenMax * 4));
    if (norm != NormKind::kRms || placement != NormPlacement::kPre || qkv_bias || qk_norm ||
        qk_norm_whole || qkv_clip != 0 || learned_positions || has_local_rope) {
      return absl::InvalidArgumentError(
          "model config: latent attention has pre-RMSNorm, RoPE, and no bias, clip or norm of "
          "heads");
    }
  }
  TUTTI_RETURN_IF_ERROR(
      InRange("num_heads * head_dim", int64_t{num_heads} * head_dim, 1, kHiddenMax * 4));
  TUTTI_RETURN_IF_ERROR(Finite("norm_eps", norm_eps, 0, 1));
  TUTTI_RETURN_IF_ERROR(Finite("norm_gain_offset", norm_gain_offset, 0, 1));
  TUTTI_RETURN_IF_ERROR(Finite("embedding_scale", embedding_scale, 1e-6, 1e6));
  TUTTI_RETURN_IF_ERROR(Finite("attention_scale", attention_scale, 1e-9, 1e6));
  TUTTI_RETURN_IF_ERROR(Finite("attention_softcap", attention_softcap, 0, 1e9));
  TUTTI_RETURN_IF_ERROR(Finite("logit_softcap", logit_softcap, 0, 1e9));
  TUTTI_RETURN_IF_ERROR(InRange("sliding_window", sliding_window, 0, kContextMax));
  if (static_cast<int>(layer_slides.size()) != num_layers) {
    return Bad("layer_types", absl::StrCat(layer_slides.size(), " entries"),
               absl::StrCat("there must be one for each of ", num_layers, " layers"));
  }
  if (learned_positions) {
    TUTTI_RETURN_IF_ERROR(InRange("rotary_dim", rotary_dim, 0, 0));
  } else {
    TUTTI_RETURN_IF_ERROR(InRange("rotary_dim", rotary_dim, 2, head_dim));
    if (rotary_dim % 2 != 0) return Bad("rotary_dim", absl::StrCat(rotary_dim), "it must be even");
    TUTTI_RETURN_IF_ERROR(ValidateRope("rope", rope, rotary_dim));
    if (has_local_rope) TUTTI_RETURN_IF_ERROR(ValidateRope("local_rope", local_rope, rotary_dim));
  }
  if (gating.num_experts != 0) {
    TUTTI_RETURN_IF_ERROR(Annotate(gating.Validate(), "model config: gating"));
    TUTTI_RETURN_IF_ERROR(InRange("expert_ffn_size", expert_ffn_size, 1, kFfnMax));
    TUTTI_RETURN_IF_ERROR(InRange("shared_ffn_size", shared_ffn_size, 0, kFfnMax));
    if (static_cast<int>(layer_moe.size()) != num_layers) {
      return Bad("layer_moe", absl::StrCat(layer_moe.size(), " entries"),
                 absl::StrCat("there must be one for each of ", num_layers, " layers"));
    }
    if (!gated_ffn || ffn_bias) {
      return absl::InvalidArgumentError("model config: experts must be gated and without bias");
    }
  }
  TUTTI_RETURN_IF_ERROR(
      InRange("ffn_slices", ffn_slices, 0, (ffn_size + kSliceUnit - 1) / kSliceUnit));
  if (ffn_slices > 0 && gating.num_experts > 0)
    return Bad("ffn_slices", absl::StrCat(ffn_slices), "the model has experts of its own");
  if (ffn_slices > 0 && (!gated_ffn || ffn_bias))
    return Bad("ffn_slices", absl::StrCat(ffn_slices), "slices must be gated and without bias");
  TUTTI_RETURN_IF_ERROR(Finite("qkv_clip", qkv_clip, 0, 1e9));
  if (eos_ids.size() > 64)
    return Bad("eos_token_id", absl::StrCat(eos_ids.size(), " ids"), "at most 64 make sense");
  for (int32_t id : eos_ids) TUTTI_RETURN_IF_ERROR(InRange("eos_token_id", id, 0, vocab_size - 1));
  return absl::OkStatus();
}

std::string ModelConfig::CanonicalText() const {
  std::string text;
  const auto put = [&](std::string_view key, const std::string& value) {
    absl::StrAppend(&text, ToAbsl(key), "=", value, "\n");
  };
  const auto num = [&](std::string_view key, int64_t value) { put(key, absl::StrCat(value)); };
  const auto real = [&](std::string_view key, double value) {
    put(key, Hex64(std::bit_cast<uint64_t>(value)));
  };
  const auto put_rope = [&](std::string_view key, const RopeConfig& r) {
    put(key, "");
    num("scaling", static_cast<int>(r.scaling));
    for (double v : {r.theta, r.factor, r.original_context, r.low_freq_factor, r.high_freq_factor,
                     r.beta_fast, r.beta_slow, r.attention_factor}) {
      real("", v);
    }
    num("truncate", r.truncate);
    for (double v : r.divisors) real("divisor", v);
  };
  put("architecture", architecture);
  num("num_layers", num_layers);
  num("hidden_size", hidden_size);
  num("ffn_size", ffn_size);
  num("vocab_size", vocab_size);
  num("num_heads", num_heads);
  num("num_kv_heads", num_kv_heads);
  num("head_dim", head_dim);
  num("context_tokens", context_tokens);
  num("norm", static_cast<int>(norm));
  num("placement", static_cast<int>(placement));
  real("norm_eps", norm_eps);
  real("norm_gain_offset", norm_gain_offset);
  num("final_norm", final_norm);
  num("activation", static_cast<int>(activation));
  num("gated_ffn", gated_ffn);
  num("qkv_bias", qkv_bias);
  num("attn_out_bias", attn_out_bias);
  num("ffn_bias", ffn_bias);
  num("tied_embeddings", tied_embeddings);
  real("embedding_scale", embedding_scale);
  real("logit_softcap", logit_softcap);
  real("attention_scale", attention_scale);
  real("attention_softcap", attention_softcap);
  num("qk_norm", qk_norm);
  num("sliding_window", sliding_window);
  for (bool slides : layer_slides) num("slides", slides);
  num("learned_positions", learned_positions);
  num("rotary_dim", rotary_dim);
  num("rope_interleaved", rope_interleaved);
  put_rope("rope", rope);
  if (has_local_rope) put_rope("local_rope", local_rope);
  for (size_t i = 0; i < std::min(eos_ids.size(), num_keyed_eos); ++i) num("eos", eos_ids[i]);
  // Only where there is such a thing, so that models without it keep their fingerprints.
  if (qk_norm_whole) num("qk_norm_whole", 1);
  if (qkv_clip != 0) real("qkv_clip", qkv_clip);
  if (ffn_slices > 1) num("ffn_slices", ffn_slices);
  if (is_latent()) {
    for (int v :
         {latent.kv_rank, latent.q_rank, latent.nope_dim, latent.rope_dim, latent.value_dim})
      num("latent", v);
    real("latent_norm_eps", latent.norm_eps);
  }
  for (int layer : file_layers) num("file_layer", layer);
  if (gating.num_experts > 0) {
    const moe::GatingOptions& g = gating;
    for (int v : {g.num_experts, g.top_k, static_cast<int>(g.score), g.renormalize ? 1 : 0,
                  g.num_groups, g.top_groups, g.group_best}) {
      num("gating", v);
    }
    real("gating_scale", g.scale);
    if (g.random_second) num("random_second", 1);
    if (g.capacity_factor > 0) real("capacity_factor", g.capacity_factor);
    num("expert_ffn_size", expert_ffn_size);
    num("shared_ffn_size", shared_ffn_size);
    num("shared_gate", shared_gate);
    num("choice_bias", choice_bias);
    for (bool is : layer_moe) num("moe", is);
  }
  return text;
}

}  // namespace tutti::model
