#include "shared/tokenizer/chat_messages.h"

#include <string>
#include <string_view>

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

absl::Status CutAfterLastMessage(const ordered_json& messages, std::string* rendered) {
  constexpr char kSpace[] = " \t\n\v\f\r";
  const size_t last = messages.size() - 1;
  const auto content = messages[last].find("content");
  const std::string text =
      content != messages[last].end() && content->is_string() ? content->get<std::string>() : "";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return Bad(last, "content", "has no text to be continued");
  const std::string_view left = std::string_view(text).substr(begin);  // without space before it
  const std::string_view both = left.substr(0, left.find_last_not_of(kSpace) + 1);
  const size_t at = rendered->rfind(both);
  if (at == rendered->npos) {
    return Bad(last, "content",
               "is not shown by the model's chat template as it is, so it cannot be continued");
  }
  const bool kept = std::string_view(*rendered).substr(at).starts_with(left);
  rendered->resize(at + (kept ? left.size() : both.size()));
  return absl::OkStatus();
}

}  // namespace tutti::tokenizer
