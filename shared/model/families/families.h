// One parser per family and format; `registry.cc` picks among them.
#pragma once

#include "shared/model/fields.h"
#include "shared/model/registry.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

// What a parser fills. vocab_size, eos_ids and name are set by the registry; so is `names.prefix`,
// the first of `prefixes` with which the embedding tensor exists.
struct FamilyParse {
  ModelConfig config;
  TensorNames names;
  std::vector<std::string> prefixes = {""};
};
using FamilyParser = absl::StatusOr<FamilyParse> (*)(const weights::ModelFiles& files);

// Hugging Face folders.
absl::StatusOr<FamilyParse> ParseLlamaHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseMistralHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseQwen2Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseQwen3Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseMixtralHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseQwen2MoeHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseQwen3MoeHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseOlmoeHf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseDeepseekV2Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseDeepseekV3Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParsePhi3Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseGemma2Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseGemma3Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseGpt2Hf(const weights::ModelFiles& files);
absl::StatusOr<FamilyParse> ParseOpenAiGptHf(const weights::ModelFiles& files);

// GGUF files, all families: the keys are the same but for the prefix.
absl::StatusOr<FamilyParse> ParseGguf(const weights::ModelFiles& files);

// What "deepseek2" has beyond it.
void ParseDeepseekGguf(Fields& f, const weights::ModelFiles& files, FamilyParse* out);

// --- shared by the Hugging Face parsers ---

// num_hidden_layers, hidden_size, heads, head_dim, intermediate_size, context, rms_norm_eps, and
// the Llama tensor names.
void ParseHfCommon(Fields& f, FamilyParse* out);

// What a family does with partial_rotary_factor: Phi-3 turns a part of each head; the reference
// reads the key for no other family here.
enum class PartialRotary { kIgnored, kTaken };

// The rest of a plain Llama block: activation, tied embeddings, RoPE, no windows.
void ParseHfPlain(Fields& f, FamilyParse* out,
                  PartialRotary partial_rotary = PartialRotary::kIgnored);
// Qwen: the layers from max_window_layers on have the window, when it is used at all.
void ParseQwenWindow(Fields& f, ModelConfig* config);

// What was parsed, or the first error of the fields.
inline absl::StatusOr<FamilyParse> Done(const Fields& f, FamilyParse out) {
  TUTTI_RETURN_IF_ERROR(f.status());
  return out;
}

// RoPE in the old keys (rope_theta, rope_scaling) or the new (rope_parameters), and
// partial_rotary_factor. `layer_type` picks one of several rope_parameters ("" when there is one).
void ParseHfRope(Fields& f, double default_theta, std::string_view layer_type,
                 const ModelConfig& config, RopeConfig* rope, int* rotary_dim,
                 PartialRotary partial_rotary = PartialRotary::kIgnored);

// layer_types, when there; else `fallback(layer)`.
template <typename F>
void ParseHfLayerTypes(Fields& f, ModelConfig* config, F fallback) {
  config->layer_slides.clear();
  const std::vector<std::string> types = f.StringsOr("layer_types", 4096);
  if (types.empty()) {
    for (int i = 0; i < config->num_layers; ++i) config->layer_slides.push_back(fallback(i));
    return;
  }
  for (const std::string& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      f.Fail("layer_types", "each must be \"sliding_attention\" or \"full_attention\"");
      return;
    }
    config->layer_slides.push_back(type == "sliding_attention");
  }
}

// The activation under `key`: SiLU, or GELU by tanh. Errors: UNIMPLEMENTED for others.
kernels::Activation ParseActivation(Fields& f, std::string_view key, std::string_view fallback);

// 1 / sqrt(x), correctly rounded twice.
float InverseSqrt(double x);

}  // namespace tutti::model
