#include "services/gateway/openai_messages.h"

#include <set>
#include <string>
#include <string_view>

#include "services/gateway/api_error.h"
#include "shared/base/strings.h"

namespace tutti::gateway {
namespace {

using limits::kMaxMessages;

using Names = std::set<std::string>;

// What clients hang on messages and parts and no template reads.
bool IsDecoration(std::string_view key) {
  static const std::set<std::string_view> kNames = {
      "annotations", "cache_control", "created",  "created_at", "id",
      "index",       "logprobs",      "metadata", "parsed",     "provider_specific_fields",
      "status",      "timestamp"};
  return kNames.contains(key);
}

// A string, null, or parts of type text.
bool ReadContent(Fields& f, const std::string& path, const Json& content, Names* ignored,
                 Json* out) {
  if (content.is_string() || content.is_null()) {
    *out = content;
    return true;
  }
  if (!content.is_array()) {
    f.Fail(path,
           "must be a string or an array of content parts, not " + std::string(KindOf(content)),
           "invalid_type");
    return false;
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string at = path + "[" + std::to_string(i) + "]";
    const Json& part = content[i];
    if (!part.is_object()) {
      f.Fail(at, "must be an object, not " + std::string(KindOf(part)), "invalid_type");
      return false;
    }
    const auto type = part.find("type");
    // The last two are the names of the Responses API, which agents carry over.
    if (type == part.end() ||
        (*type != "text" && *type != "input_text" && *type != "output_text")) {
      f.Fail(at + ".type", "only parts of type \"text\" are supported by this model",
             "unsupported_parameter");
      return false;
    }
    for (auto it = part.begin(); it != part.end(); ++it) {
      if (IsDecoration(it.key())) {
        if (!it->is_null()) ignored->insert("messages[].content[]." + it.key());
      } else if (it.key() != "type" && it.key() != "text") {
        f.Fail(at + "." + Printable(it.key()), "unknown field", "unknown_parameter");
        return false;
      }
    }
    const auto value = part.find("text");
    if (value == part.end() || !value->is_string()) {
      f.Fail(at + ".text", "must be a string", "invalid_type");
      return false;
    }
    if (i > 0) text += '\n';
    text += value->get_ref<const std::string&>();
  }
  *out = text;
  return true;
}

bool ReadToolCalls(Fields& f, const std::string& path, const Json& calls, Json* out) {
  if (!calls.is_array()) {
    f.Fail(path, "must be an array, not " + std::string(KindOf(calls)), "invalid_type");
    return false;
  }
  *out = calls;
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = path + "[" + std::to_string(i) + "]";
    Json& call = (*out)[i];
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object() ||
        !call["function"].contains("name") || !call["function"]["name"].is_string()) {
      f.Fail(at, "must be an object with function.name", "invalid_type");
      return false;
    }
    Json& function = call["function"];
    const auto arguments = function.find("arguments");
    if (arguments == function.end() || arguments->is_object()) continue;
    if (arguments->is_string()) {
      absl::StatusOr<Json> parsed = ParseJsonText(arguments->get_ref<const std::string&>());
      if (parsed.ok() && parsed->is_object()) {
        *arguments = *std::move(parsed);
        continue;
      }
    }
    f.Fail(at + ".function.arguments", "must be a JSON object, as a string or itself",
           "invalid_value");
    return false;
  }
  return true;
}

bool ReadMessage(Fields& f, const std::string& path, const Json& message, Names* ignored,
                 Json* out) {
  if (!message.is_object()) {
    f.Fail(path, "must be an object, not " + std::string(KindOf(message)), "invalid_type");
    return false;
  }
  *out = Json::object();
  bool has_role = false, has_content = false;
  for (auto it = message.begin(); it != message.end(); ++it) {
    const std::string& key = it.key();
    const std::string at = path + "." + Printable(key);
    if (key == "content") {
      if (!ReadContent(f, at, *it, ignored, &(*out)[key])) return false;
      has_content = true;
    } else if (key == "tool_calls") {
      if (it->is_null() || (it->is_array() && it->empty())) continue;
      if (!ReadToolCalls(f, at, *it, &(*out)[key])) return false;
      has_content = true;
    } else if (key == "role" || key == "name" || key == "tool_call_id" ||
               key == "reasoning_content" || key == "reasoning") {
      if (it->is_null() && key != "role") continue;
      if (!it->is_string()) {
        f.Fail(at, "must be a string, not " + std::string(KindOf(*it)), "invalid_type");
        return false;
      }
      (*out)[key] = *it;
      has_role |= key == "role";
    } else if (it->is_null() && (key == "refusal" || key == "audio" || key == "function_call")) {
      continue;  // what a client sends back of an earlier answer
    } else if (IsDecoration(key)) {
      if (!it->is_null()) ignored->insert("messages[]." + key);
    } else {
      f.Fail(at, "unknown field", "unknown_parameter");
      return false;
    }
  }
  if (!has_role || !has_content) {
    f.Fail(path + (has_role ? ".content" : ".role"), "missing", "missing_required_parameter");
    return false;
  }
  return true;
}

}  // namespace

std::string TextOfAssistant(const Json& message) {
  const auto role = message.find("role"), content = message.find("content");
  if (role == message.end() || *role != "assistant" || content == message.end()) return "";
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  for (const Json& part : *content) {
    if (!text.empty()) text += '\n';
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

void ReadChat(Fields& f, generation::v1::Chat* chat, std::vector<std::string>* ignored) {
  const Json* messages = f.Array("messages", kMaxMessages);
  if (messages == nullptr || messages->empty()) {
    if (!f.failed())
      f.Fail("messages", "must have at least one message", "missing_required_parameter");
    messages = nullptr;
  }
  Json read = Json::array();
  Names names;
  for (size_t i = 0; messages != nullptr && i < messages->size(); ++i) {
    Json message;
    if (!ReadMessage(f, "messages[" + std::to_string(i) + "]", (*messages)[i], &names, &message))
      break;
    read.push_back(std::move(message));
  }
  chat->set_messages_json(read.dump());
  ignored->insert(ignored->end(), names.begin(), names.end());

  const Json* tools = f.Array("tools", limits::kMaxTools);
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    const Json& tool = (*tools)[i];
    if (!tool.is_object() || !tool.contains("type") || tool["type"] != "function" ||
        !tool.contains("function") || !tool["function"].is_object()) {
      f.Fail("tools[" + std::to_string(i) + "]",
             "must be {\"type\": \"function\", \"function\": {...}}", "invalid_type");
    }
  }
  bool use_tools = tools != nullptr && !tools->empty();
  if (const Json* choice = f.Get("tool_choice")) {
    if (*choice == "none") {
      use_tools = false;
    } else if (*choice != "auto") {
      f.Fail("tool_choice", "only \"auto\" and \"none\" are supported", "unsupported_parameter");
    } else if (!use_tools) {
      f.Fail("tool_choice", "\"auto\" goes with tools alone", "invalid_value");
    }
  }
  // Tool calls are not parsed yet: one or several are the model's text.
  f.Bool("parallel_tool_calls");
  f.Ignored("parallel_tool_calls");
  if (use_tools) chat->set_tools_json(tools->dump());
  if (const auto v = f.Bool("add_generation_prompt")) chat->set_add_generation_prompt(*v);
  if (f.Bool("continue_final_message").value_or(false)) {
    if (f.Bool("add_generation_prompt").value_or(false)) {
      f.Fail("continue_final_message", "goes without add_generation_prompt: it continues a turn",
             "invalid_value");
    }
    chat->set_continue_final_message(true);
  }
  // A variable of the few templates that know it; the others have no effect to show.
  const auto effort = f.String("reasoning_effort", 64);
  f.Ignored("reasoning_effort");
  if (const Json* variables = f.Object("chat_template_kwargs")) {
    for (const char* reserved :
         {"messages", "tools", "add_generation_prompt", "continue_final_message"}) {
      if (variables->contains(reserved)) {
        f.Fail(std::string("chat_template_kwargs.") + reserved, "is a field of the request itself",
               "invalid_value");
      }
    }
    Json all = *variables;
    if (effort && !all.contains("reasoning_effort")) all["reasoning_effort"] = *effort;
    chat->set_variables_json(all.dump());
  } else if (effort) {
    chat->set_variables_json(Json{{"reasoning_effort", *effort}}.dump());
  }
}

}  // namespace tutti::gateway
