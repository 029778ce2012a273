// The messages and tools of a chat, checked and brought into the form that templates read.
#pragma once

#include "services/gateway/json_fields.h"
#include "tutti/generation/v1/generation.pb.h"

namespace tutti::gateway {

// Reads messages, tools, tool_choice, parallel_tool_calls, add_generation_prompt and
// chat_template_kwargs. Content parts of type text become one string, joined by line ends; the
// arguments of tool calls, which OpenAI sends as a string of JSON, become that JSON. Errors go to
// `f`.
void ReadChat(Fields& f, generation::v1::Chat* chat);

}  // namespace tutti::gateway
