#include "shared/tokenizer/chat_template.h"

#include <utility>

#include "shared/tokenizer/jinja/interpreter.h"
#include "shared/tokenizer/jinja/parser.h"

namespace tutti::tokenizer {

using nlohmann::ordered_json;

struct ChatTemplate::Program {
  jinja::Body body;
};

namespace {

jinja::Value FromJson(jinja::Runtime& rt, const ordered_json& j, int depth) {
  if (rt.failed()) return {};
  if (depth > jinja::kMaxValueDepth) return rt.Exhaust("nesting of values");
  switch (j.type()) {
    case ordered_json::value_t::boolean:
      return jinja::Value::Bool(j.get<bool>());
    case ordered_json::value_t::number_integer:
      return jinja::Value::Int(j.get<int64_t>());
    case ordered_json::value_t::number_unsigned: {
      const uint64_t n = j.get<uint64_t>();
      if (n > static_cast<uint64_t>(INT64_MAX))
        return rt.Fail("an integer of the input is past 2^63 - 1");
      return jinja::Value::Int(static_cast<int64_t>(n));
    }
    case ordered_json::value_t::number_float:
      return jinja::Value::Float(j.get<double>());
    case ordered_json::value_t::string:
      return rt.Str(j.get_ref<const std::string&>());
    case ordered_json::value_t::array: {
      std::vector<jinja::Value> items;
      items.reserve(j.size());
      for (const ordered_json& item : j) items.push_back(FromJson(rt, item, depth + 1));
      return rt.List(std::move(items));
    }
    case ordered_json::value_t::object: {
      std::vector<std::pair<jinja::Value, jinja::Value>> entries;
      entries.reserve(j.size());
      for (auto it = j.begin(); it != j.end(); ++it) {
        entries.emplace_back(rt.Str(it.key()), FromJson(rt, it.value(), depth + 1));
      }
      return rt.Dict(std::move(entries));
    }
    default:
      return jinja::Value::None();
  }
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  auto program = std::make_shared<Program>();
  TUTTI_ASSIGN_OR_RETURN(program->body, jinja::ParseTemplate(source));
  ChatTemplate t;
  t.program_ = std::move(program);
  return t;
}

absl::StatusOr<std::string> ChatTemplate::Render(const TemplateInput& input) const {
  return Render(input, jinja::Limits{});
}

absl::StatusOr<std::string> ChatTemplate::Render(const TemplateInput& input,
                                                 const jinja::Limits& limits) const {
  if (!input.variables.is_object() && !input.variables.is_null()) {
    return absl::InvalidArgumentError("variables: must be a JSON object");
  }
  jinja::Runtime rt(limits);
  std::string text;
  {
    jinja::Interpreter interpreter(rt, input.now_unix_s);
    interpreter.Define("messages", FromJson(rt, input.messages, 1));
    interpreter.Define("tools", FromJson(rt, input.tools, 1));
    interpreter.Define("documents", jinja::Value::None());
    interpreter.Define("add_generation_prompt", jinja::Value::Bool(input.add_generation_prompt));
    if (input.variables.is_object()) {
      for (auto it = input.variables.begin(); it != input.variables.end(); ++it) {
        interpreter.Define(it.key(), FromJson(rt, it.value(), 1));
      }
    }
    if (!rt.failed()) text = interpreter.Run(program_->body);
  }
  if (rt.failed()) return rt.status();
  return text;
}

}  // namespace tutti::tokenizer
