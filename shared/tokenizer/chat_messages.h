// What is the same for every chat template: how messages in OpenAI's shape become what templates
// expect. Thread safety: pure functions.
#pragma once

#include <nlohmann/json.hpp>

#include "shared/base/status.h"

namespace tutti::tokenizer {

// Roles are system, developer (which templates know as system), user, assistant and tool. Content
// of an assistant's message with tool_calls may be null or absent, and becomes "", as vLLM has it.
// Errors: INVALID_ARGUMENT  "messages[2].role: ...": no string, empty or unknown;
//                           "messages[2].content: ...": null or absent elsewhere
// REQUIRES: an array of objects
absl::Status NormalizeMessages(nlohmann::ordered_json* messages);

}  // namespace tutti::tokenizer
