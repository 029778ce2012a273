#include "shared/tokenizer/chat_messages.h"

#include <string>

#include "shared/base/strings.h"

namespace tutti::tokenizer {
namespace {

using nlohmann::ordered_json;

absl::Status Bad(size_t i, const char* field, const std::string& what) {
  return absl::InvalidArgumentError("messages[" + std::to_string(i) + "]." + field + ": " + what);
}

bool HasToolCalls(const ordered_json& message) {
  const auto it = message.find("tool_calls");
  return it != message.end() && it->is_array() && !it->empty();
}

}  // namespace

absl::Status NormalizeMessages(ordered_json* messages) {
  for (size_t i = 0; i < messages->size(); ++i) {
    ordered_json& m = (*messages)[i];
    const auto role = m.find("role");
    if (role == m.end() || !role->is_string()) return Bad(i, "role", "must be a string");
    const std::string& name = role->get_ref<const std::string&>();
    if (name == "developer") {
      *role = "system";
    } else if (name != "system" && name != "user" && name != "assistant" && name != "tool") {
      return Bad(
          i, "role",
          "\"" + Printable(name) + "\"; known are system, developer, user, assistant and tool");
    }
    const auto content = m.find("content");
    if (content != m.end() && !content->is_null()) continue;
    if (*role != "assistant" || !HasToolCalls(m)) {
      return Bad(i, "content",
                 "must be text; only an assistant's message with tool_calls may leave it out");
    }
    m["content"] = "";
  }
  return absl::OkStatus();
}

}  // namespace tutti::tokenizer
