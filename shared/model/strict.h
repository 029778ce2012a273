// What a model's files say and a family does not read: refused when it may change what the model
// computes, so that nothing is skipped without a word (docs/decisions/0045).
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "shared/model/config.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

// Keys of config.json or of the architecture's GGUF metadata. Three kinds pass: those that a family
// of this project reads or that its reference ignores (a list), those whose value is neutral (null,
// false, 0, "", an empty list or object; 1 for a scale), and, in config.json, those whose name has
// no word of the arithmetic in it ("unsloth_version").
// Errors: UNIMPLEMENTED  another key, a flag of attention in both directions, or a quantisation
//                        method of Hugging Face folders; names it and says what to do
absl::Status CheckKeys(const weights::ModelFiles& files);

// For tests: whether a key of config.json with this value passes.
bool IsHarmlessKey(std::string_view key, const nlohmann::json& value);

// Tensors that no part of the forward pass reads. `used`: names of those that are. Left alone are
// tables that are computed here (rotary frequencies, causal masks) and layers for multi-token
// prediction behind the last layer.
// Errors: INVALID_ARGUMENT  names the first other one
absl::Status CheckUnusedTensors(const weights::ModelFiles& files, const ModelConfig& config,
                                const std::set<std::string_view>& used);

}  // namespace tutti::model
