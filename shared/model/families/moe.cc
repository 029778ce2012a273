// Mixtures of experts over a Llama block: Mixtral (arXiv:2401.04088), Qwen2-MoE, Qwen3-MoE
// (arXiv:2505.09388) and OLMoE (arXiv:2409.02060).
#include <algorithm>

#include "shared/model/families/families.h"

namespace tutti::model {
namespace {

// Number of experts, of them used, and their names below `mlp`.
void ParseExperts(Fields& f, const std::string& mlp, FamilyParse* out) {
  ModelConfig& c = out->config;
  const int64_t local = f.IntOr("num_local_experts", 1, 1 << 12, 0);
  c.gating.num_experts = static_cast<int>(f.IntOr("num_experts", 1, 1 << 12, local));
  if (c.gating.num_experts == 0) f.Fail("num_experts", "it is needed");
  c.gating.top_k = static_cast<int>(f.Int("num_experts_per_tok", 1, 1 << 12));
  c.expert_ffn_size = static_cast<int>(f.IntOr("moe_intermediate_size", 1, 1 << 20, c.ffn_size));
  c.layer_moe.assign(static_cast<size_t>(c.num_layers), true);
  out->names.router = mlp + ".gate";
  out->names.expert_gate = mlp + ".experts.{e}.gate_proj";
  out->names.expert_up = mlp + ".experts.{e}.up_proj";
  out->names.expert_down = mlp + ".experts.{e}.down_proj";
}

// Qwen: every `decoder_sparse_step`th layer is a mixture, but those of mlp_only_layers.
void ParseQwenLayers(Fields& f, ModelConfig* c) {
  const int64_t step = f.IntOr("decoder_sparse_step", 1, 1 << 12, 1);
  const std::vector<int32_t> dense = f.IdsOr("mlp_only_layers", c->num_layers - 1, 4096);
  for (int i = 0; i < c->num_layers; ++i) {
    c->layer_moe[static_cast<size_t>(i)] =
        (i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end();
  }
}

}  // namespace

absl::StatusOr<FamilyParse> ParseMixtralHf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  out.config.architecture = "mixtral";
  out.config.sliding_window = static_cast<int>(f.IntOr("sliding_window", 1, 1 << 24, 0));
  out.config.layer_slides.assign(out.config.num_layers, out.config.sliding_window > 0);
  ParseExperts(f, "layers.{}.block_sparse_moe", &out);
  out.config.gating.renormalize = true;
  out.names.expert_gate = "layers.{}.block_sparse_moe.experts.{e}.w1";
  out.names.expert_up = "layers.{}.block_sparse_moe.experts.{e}.w3";
  out.names.expert_down = "layers.{}.block_sparse_moe.experts.{e}.w2";
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseQwen2MoeHf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  ModelConfig& c = out.config;
  c.architecture = "qwen2_moe";
  c.qkv_bias = f.BoolOr("qkv_bias", true);
  ParseQwenWindow(f, &c);
  ParseExperts(f, "layers.{}.mlp", &out);
  ParseQwenLayers(f, &c);
  c.gating.renormalize = f.BoolOr("norm_topk_prob", false);
  c.shared_ffn_size = static_cast<int>(f.Int("shared_expert_intermediate_size", 1, 1 << 20));
  c.shared_gate = true;
  out.names.shared_gate = "layers.{}.mlp.shared_expert.gate_proj";
  out.names.shared_up = "layers.{}.mlp.shared_expert.up_proj";
  out.names.shared_down = "layers.{}.mlp.shared_expert.down_proj";
  out.names.shared_router = "layers.{}.mlp.shared_expert_gate";
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseQwen3MoeHf(const weights::ModelFiles& files) {
  TUTTI_ASSIGN_OR_RETURN(FamilyParse out, ParseQwen3Hf(files));
  Fields f(files.config(), "config.json");
  out.config.architecture = "qwen3_moe";
  ParseExperts(f, "layers.{}.mlp", &out);
  ParseQwenLayers(f, &out.config);
  out.config.gating.renormalize = f.BoolOr("norm_topk_prob", false);
  return Done(f, std::move(out));
}

absl::StatusOr<FamilyParse> ParseOlmoeHf(const weights::ModelFiles& files) {
  Fields f(files.config(), "config.json");
  FamilyParse out;
  ParseHfCommon(f, &out);
  ParseHfPlain(f, &out);
  ModelConfig& c = out.config;
  c.architecture = "olmoe";
  c.qkv_bias = c.attn_out_bias = f.BoolOr("attention_bias", false);
  c.qk_norm_whole = true;
  c.qkv_clip = static_cast<float>(f.DoubleOr("clip_qkv", 1e-6, 1e6, 0));
  out.names.q_norm = "layers.{}.self_attn.q_norm";
  out.names.k_norm = "layers.{}.self_attn.k_norm";
  ParseExperts(f, "layers.{}.mlp", &out);
  c.gating.renormalize = f.BoolOr("norm_topk_prob", false);
  return Done(f, std::move(out));
}

}  // namespace tutti::model
