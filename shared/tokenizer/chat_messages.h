// What is the same for every chat template: how messages in OpenAI's shape become what templates
// expect. Thread safety: pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "shared/base/status.h"

namespace tutti::tokenizer {

// Roles are system, developer (which templates know as system), user, assistant and tool. Content
// of an assistant's message with tool_calls may be null or absent, and becomes "", as vLLM has it.
// Errors: INVALID_ARGUMENT  "messages[2].role: ...": no string, empty or unknown;
//                           "messages[2].content: ...": null or absent elsewhere
// REQUIRES: an array of objects
absl::Status NormalizeMessages(nlohmann::ordered_json* messages);

// Ends `rendered` behind the text of the last message, so that an answer continues it; white space
// at the end of the message stays when the template keeps it (as transformers'
// continue_final_message has it).
// Errors: INVALID_ARGUMENT  the last message has no text, or the template does not show it
absl::Status CutAfterLastMessage(const nlohmann::ordered_json& messages, std::string* rendered);

}  // namespace tutti::tokenizer
