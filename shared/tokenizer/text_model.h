// Everything that a model's files say about text: tokenizer, chat template, names of special
// tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/base/status.h"
#include "shared/tokenizer/chat_template.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::tokenizer {

// Immutable after LoadTextModel, shareable between threads.
struct TextModel {
  std::string name;  // general.name, or the folder's
  std::shared_ptr<const Tokenizer> tokenizer;
  // Absent: the files have none. A template that does not parse does not stop the rest:
  // `template_status` says what is wrong with it.
  std::optional<ChatTemplate> chat_template;
  absl::Status template_status;
  // The template named "tool_use", which renders requests with tools; absent: `chat_template` does.
  std::optional<ChatTemplate> tool_template;
  absl::Status tool_template_status;
  // bos_token, eos_token and the like as text: what templates see besides the client's variables.
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();

  // A chat as the model is to read it.
  struct Rendered {
    std::string text;
    // Where text of the messages, tools and variables must not become special tokens
    // (EncodeOptions::breaks, to be used with parse_special): control tokens come from the template
    // alone. Empty when `parse_special` allows them.
    std::vector<uint32_t> breaks;
  };
  // Makes the messages what templates expect (NormalizeMessages), and renders the template. The
  // text is the same with and without `parse_special`, unless a template itself looks for special
  // tokens inside of messages: without, it does not find them. Errors: as Render and
  // NormalizeMessages; INVALID_ARGUMENT  the template has no place for the tools (the text with
  // them is the text without), or does not show the last message that is to be continued
  absl::StatusOr<Rendered> RenderChat(TemplateInput input, bool parse_special) const;

  // Fills in `variables` where the input has none of that name, and renders.
  // Errors: as ChatTemplate::Render; INVALID_ARGUMENT  no (usable) template
  absl::StatusOr<std::string> Render(TemplateInput input) const;

 private:
  TemplateInput WithVariables(TemplateInput input) const;
};

// `path`: a GGUF file, a Hugging Face folder (weights are not needed), a packed directory, or a
// tokenizer.json. Of
// several templates the one named "default" counts, and for requests with tools the one named
// "tool_use"; chat_template.jinja goes before tokenizer_config.json. Special tokens are variables:
// those of tokenizer_config.json, then those of special_tokens_map.json.
// Errors: as LoadTokenizer.
absl::StatusOr<TextModel> LoadTextModel(const std::string& path);

}  // namespace tutti::tokenizer
