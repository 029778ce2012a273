#include "shared/weights/control_tokens.h"

#include <algorithm>
#include <map>
#include <span>
#include <string>

namespace tutti::weights {
namespace {

using std::string_view_literals::operator""sv;

// Whatever their type.
constexpr std::string_view kMarked[] = {
    "<|eot_id|>"sv,                               // Llama 3
    "<|im_end|>"sv,                               // ChatML: Qwen, SmolLM, Yi
    "<|end|>"sv,                                  // Phi-3, gpt-oss
    "<|return|>"sv,                               // gpt-oss
    "<|call|>"sv,                                 // gpt-oss
    "<|flush|>"sv,                                // Solar Open
    "<|calls|>"sv,                                // Solar Open
    "<end_of_turn>"sv,                            // Gemma
    "<|endoftext|>"sv,                            // GPT-2, Qwen
    "<|eom_id|>"sv,                               // Llama 3.1
    "<|end_of_text|>"sv,                          // Granite, Llama 3
    "<end_of_utterance>"sv,                       // SmolDocling
    "<turn|>"sv,                                  // Gemma 4
    "<|tool_response>"sv,                         // Gemma 4
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"sv,  // DeepSeek
    "[e~["sv,                                     // MiniMax
};
// Control tokens alone.
constexpr std::string_view kControl[] = {"</s>"sv,  "<EOT>"sv, "_<EOT>"sv,
                                         "[EOT]"sv, "[EOS]"sv, "<eos>"sv};
// Padding, repository and file marks of fill-in-the-middle models end what was filled in.
constexpr std::string_view kFillMarks[] = {"<|fim_pad|>"sv,  "<fim-pad>"sv,     "<fim_pad>"sv,
                                           "<|fim_repo|>"sv, "<|repo_name|>"sv, "<fim-repo>"sv,
                                           "<|file_sep|>"sv};
constexpr std::string_view kFillControl[] = {"<PAD>"sv, "[PAD]"sv, "<REPO>"sv, "<reponame>"sv};

bool In(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool EndsGeneration(std::string_view name, GgufTokenType type) {
  if (In(kMarked, name) || In(kFillMarks, name)) return true;
  return type == GgufTokenType::kControl && (In(kControl, name) || In(kFillControl, name));
}

GgufTokenType EffectiveType(std::string_view name, GgufTokenType type) {
  return In(kMarked, name) ? GgufTokenType::kControl : type;
}

std::vector<int32_t> EndsByName(const ModelFiles& files) {
  const MetadataArray* tokens = files.FindArray("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->kind() != MetadataArray::Kind::kString) return {};
  const std::vector<std::string_view> names = tokens->Strings();
  std::vector<int64_t> types;
  if (const MetadataArray* list = files.FindArray("tokenizer.ggml.token_type"))
    types = list->Ints();
  std::map<int32_t, std::string_view> ends;
  for (size_t i = 0; i < names.size() && i <= INT32_MAX; ++i) {
    const auto type = i < types.size() ? static_cast<GgufTokenType>(types[i])
                                       : GgufTokenType::kControl;  // nothing says that it is none
    if (EndsGeneration(names[i], type)) ends.emplace(static_cast<int32_t>(i), names[i]);
  }
  const auto has = [&](std::string_view name) {
    return std::any_of(ends.begin(), ends.end(), [&](const auto& e) { return e.second == name; });
  };
  std::string_view none;
  if ((has("<|return|>") && has("<|call|>")) ||
      ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>"))) {
    none = "<|end|>";
  } else if (has("<|tool_response>")) {
    none = "</s>";
  }
  std::vector<int32_t> ids;
  for (const auto& [id, name] : ends) {
    if (name != none) ids.push_back(id);
  }
  return ids;
}

}  // namespace tutti::weights
