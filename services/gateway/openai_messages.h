// The messages and tools of a chat, checked and brought into the form that templates read.
#pragma once

#include "services/gateway/json_fields.h"
#include "tutti/generation/v1/generation.pb.h"

namespace tutti::gateway {

// Reads messages, tools, tool_choice, parallel_tool_calls, add_generation_prompt,
// reasoning_effort and chat_template_kwargs. Content parts of type text
// become one string, joined by line ends; the arguments of tool calls, which OpenAI sends as a
// string of JSON, become that JSON. Errors go to `f`, names of fields without effect to `ignored`
// (of messages and parts without their index). Roles are checked by the tokenizer
// (shared/tokenizer/chat_messages.h).
void ReadChat(Fields& f, generation::v1::Chat* chat, std::vector<std::string>* ignored);

// The text of a message (checked by ReadChat) when its role is assistant; else "".
std::string TextOfAssistant(const Json& message);

}  // namespace tutti::gateway
