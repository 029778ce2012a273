// Chat templates: the subset of Jinja that transformers runs (docs/decisions). The source comes
// from a model file, so it is hostile: time, memory, recursion and output are bounded, nothing
// outside is reachable.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "shared/base/status.h"

namespace tutti::tokenizer {

namespace jinja {
struct Limits;  // jinja/runtime.h
}

struct TemplateInput {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools;  // null: none
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // for TextModel::RenderChat alone
  nlohmann::ordered_json variables =
      nlohmann::ordered_json::object();  // bos_token, eos_token, extras
  int64_t now_unix_s = 0;                // what strftime_now sees (UTC)
};

// Parsed once, rendered often. Immutable, shareable between threads.
class ChatTemplate {
 public:
  // Errors: INVALID_ARGUMENT "template:<line>: ..."
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  // Errors: INVALID_ARGUMENT  raise_exception (the message is its text, reason TEMPLATE_REFUSED),
  // or an
  //                           operation on the wrong type ("template:<line>: ...")
  //         RESOURCE_EXHAUSTED  a limit (steps, depth, output bytes)
  absl::StatusOr<std::string> Render(const TemplateInput& input) const;
  // The same within other limits than the usual ones.
  absl::StatusOr<std::string> Render(const TemplateInput& input, const jinja::Limits& limits) const;

 private:
  struct Program;
  std::shared_ptr<const Program> program_;
};

}  // namespace tutti::tokenizer
