// GPT-2 (pre-norm) and the original GPT (post-norm, no final norm): LayerNorm, learned positions,
// matrices stored [in, out].
#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"

namespace tutti::model {
namespace {

void ParseGpt(Fields& f, FamilyParse* out) {
  ModelConfig& c = out->config;
  c.num_layers = static_cast<int>(f.Int("n_layer", 1, 1024));
  c.hidden_size = static_cast<int>(f.Int("n_embd", 1, 1 << 17));
  c.num_heads = c.num_kv_heads = static_cast<int>(f.Int("n_head", 1, 1 << 12));
  if (c.hidden_size % c.num_heads != 0)
    f.Fail("n_head", absl::StrCat("it must divide n_embd = ", c.hidden_size));
  c.head_dim = c.hidden_size / c.num_heads;
  c.ffn_size = static_cast<int>(f.IntOr("n_inner", 1, 1 << 20, 4 * int64_t{c.hidden_size}));
  c.context_tokens = static_cast<int>(f.Int("n_positions", 1, 1 << 24));
  c.norm = NormKind::kLayer;
  c.norm_eps = static_cast<float>(f.DoubleOr("layer_norm_epsilon", 0, 1, 1e-5));
  c.gated_ffn = false;
  c.qkv_bias = c.attn_out_bias = c.ffn_bias = true;
  c.tied_embeddings = f.BoolOr("tie_word_embeddings", true);
  c.learned_positions = true;
  c.attention_scale = InverseSqrt(c.head_dim > 0 ? c.head_dim : 1);
  c.layer_slides.assign(c.num_layers, false);
  out->prefixes = {"transformer.", ""};
  out->names = {.output = "lm_head",
                .attn_norm = "h.{}.ln_1",
                .qkv = "h.{}.attn.c_attn",
                .attn_out = "h.{}.attn.c_proj",
                .ffn_norm = "h.{}.ln_2",
                .up = "h.{}.mlp.c_fc",
                .down = "h.{}.mlp.c_proj",
                .transposed = true};
}

}  // namespace

absl::StatusOr<FamilyParse> ParseGpt2Hf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseGpt(f, &out);
  out.config.architecture = "gpt2";
  out.config.activation = ParseActivation(f, "activation_function", "gelu_new");
  if (!f.BoolOr("scale_attn_weights", true)) out.config.attention_scale = 1.0f;
  if (f.BoolOr("scale_attn_by_inverse_layer_idx", false)) {
    f.FailWith(
        absl::UnimplementedError("config.json: scale_attn_by_inverse_layer_idx is not built"));
  }
  out.names.embedding = "wte";
  out.names.positions = "wpe";
  out.names.final_norm = "ln_f";
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

absl::StatusOr<FamilyParse> ParseOpenAiGptHf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseGpt(f, &out);
  out.config.architecture = "openai-gpt";
  // This family's "gelu" always was the tanh form.
  const std::string afn = f.StringOr("afn", "gelu");
  out.config.activation =
      afn == "gelu" ? kernels::Activation::kGeluTanh : ParseActivation(f, "afn", "gelu_new");
  out.config.placement = NormPlacement::kPost;
  out.config.final_norm = false;
  out.names.embedding = "tokens_embed";
  out.names.positions = "positions_embed";
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

}  // namespace tutti::model
