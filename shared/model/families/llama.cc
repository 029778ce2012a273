// Llama and the families that are Llama with an option or two: Mistral, Qwen2, Qwen3, Phi-3.
#include "shared/model/families/families.h"

namespace tutti::model {
namespace {

constexpr std::string_view kConfig = "config.json";

Fields Open(const weights::ModelFiles& files) {
  return Fields(files.config(), std::string(kConfig));
}

}  // namespace

absl::StatusOr<FamilyParse> ParseLlamaHf(const weights::ModelFiles& files) {
  Fields f = Open(files);
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  out.config.architecture = "llama";
  out.config.qkv_bias = out.config.attn_out_bias = f.BoolOr("attention_bias", false);
  out.config.ffn_bias = f.BoolOr("mlp_bias", false);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseMistralHf(const weights::ModelFiles& files) {
  Fields f = Open(files);
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  out.config.architecture = "mistral";
  out.config.sliding_window = static_cast<int>(f.IntOr("sliding_window", 1, 1 << 24, 0));
  out.config.layer_slides.assign(out.config.num_layers, out.config.sliding_window > 0);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseQwen2Hf(const weights::ModelFiles& files) {
  Fields f = Open(files);
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  out.config.architecture = "qwen2";
  out.config.qkv_bias = true;
  ParseQwenWindow(f, &out.config);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseQwen3Hf(const weights::ModelFiles& files) {
  Fields f = Open(files);
  FamilyParse out;
  ParseHfCommon(f, &out);
  if (!f.Has("head_dim")) {
    out.config.head_dim = 128;
    out.config.attention_scale = InverseSqrt(128);
  }
  ParseHfPlain(f, &out);
  out.config.architecture = "qwen3";
  out.config.qkv_bias = out.config.attn_out_bias = f.BoolOr("attention_bias", false);
  out.config.qk_norm = true;
  out.names.q_norm = "layers.{}.self_attn.q_norm";
  out.names.k_norm = "layers.{}.self_attn.k_norm";
  ParseQwenWindow(f, &out.config);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParsePhi3Hf(const weights::ModelFiles& files) {
  Fields f = Open(files);
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out, PartialRotary::kTaken);
  out.config.architecture = "phi3";
  out.config.sliding_window = static_cast<int>(f.IntOr("sliding_window", 1, 1 << 24, 0));
  out.config.layer_slides.assign(out.config.num_layers, out.config.sliding_window > 0);
  out.names.q = out.names.k = out.names.v = "";
  out.names.qkv = "layers.{}.self_attn.qkv_proj";
  out.names.gate = out.names.up = "";
  out.names.gate_up = "layers.{}.mlp.gate_up_proj";
  return Done(f, std::move(out));
}

}  // namespace tutti::model
