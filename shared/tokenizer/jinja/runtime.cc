#include "shared/tokenizer/jinja/runtime.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"

namespace tutti::tokenizer::jinja {

bool IsAscii(std::string_view s) {
  return std::all_of(s.begin(), s.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

Value Runtime::Fail(std::string_view message) {
  if (!failed_) {
    failed_ = true;
    status_ = absl::InvalidArgumentError(absl::StrCat("template:", line, ": ", ToAbsl(message)));
  }
  return {};
}

Value Runtime::Refuse(std::string_view message) {
  if (!failed_) {
    failed_ = true;
    status_ = WithReason(absl::InvalidArgumentError(ToAbsl(message)), "TEMPLATE_REFUSED");
  }
  return {};
}

Value Runtime::Exhaust(std::string_view what) {
  if (!failed_) {
    failed_ = true;
    status_ = WithReason(
        absl::ResourceExhaustedError(absl::StrCat("template:", line, ": needs more ", ToAbsl(what),
                                                  " than a template may use")),
        "TEMPLATE_LIMIT");
  }
  return {};
}

void Runtime::Adopt(Object& object, int64_t bytes) {
  object.meter = &memory_;
  object.bytes = bytes;
  memory_ += bytes;
}

Value Runtime::Str(std::string s) {
  const int64_t bytes = static_cast<int64_t>(s.size() + sizeof(StringObject));
  if (failed_ || !Room(bytes)) return {};
  auto object = std::make_shared<StringObject>();
  object->ascii = IsAscii(s);
  object->text = std::move(s);
  Adopt(*object, bytes);
  return Value::String(std::move(object));
}

Value Runtime::Missing(std::string hint) {
  const int64_t bytes = static_cast<int64_t>(hint.size() + sizeof(StringObject));
  if (failed_ || !Room(bytes)) return {};
  auto object = std::make_shared<StringObject>();
  object->text = std::move(hint);
  Adopt(*object, bytes);
  return Value::Missing(std::move(object));
}

Value Runtime::List(std::vector<Value> items, SeqKind kind) {
  const int64_t bytes = static_cast<int64_t>(items.size() * sizeof(Value) + sizeof(SeqObject));
  if (failed_ || !Room(bytes)) return {};
  auto object = std::make_shared<SeqObject>();
  object->seq_kind = kind;
  for (const Value& item : items) {
    object->depth = std::max(object->depth, 1 + DepthOf(item));
    object->weight += WeightOf(item);
  }
  if (object->depth > kMaxValueDepth || object->weight > kMaxValueWeight) {
    return Exhaust("nesting of values");
  }
  object->items = std::move(items);
  Adopt(*object, bytes);
  return Value::Seq(std::move(object));
}

Value Runtime::Dict(std::vector<std::pair<Value, Value>> entries) {
  // The index of a large dict costs about as much as its entries.
  const int64_t bytes =
      static_cast<int64_t>(entries.size() * (2 * sizeof(Value) + 48) + sizeof(DictObject));
  if (failed_ || !Room(bytes)) return {};
  auto object = std::make_shared<DictObject>();
  for (auto& [key, value] : entries) {
    if (!Hashable(key)) return Fail(absl::StrCat("unhashable type: '", ToAbsl(TypeName(key)), "'"));
    object->depth = std::max({object->depth, 1 + DepthOf(key), 1 + DepthOf(value)});
    object->weight += WeightOf(key) + WeightOf(value);
    if (object->depth > kMaxValueDepth || object->weight > kMaxValueWeight) {
      return Exhaust("nesting of values");
    }
    object->Put(key, std::move(value));
  }
  Adopt(*object, bytes);
  return Value::Dict(std::move(object));
}

bool Text::Repeat(std::string_view s, int64_t times) {
  if (times <= 0 || s.empty()) return !rt_.failed();
  if (times > rt_.limits().memory_bytes / static_cast<int64_t>(s.size())) {
    rt_.Exhaust("memory");
    return false;
  }
  const int64_t bytes = times * static_cast<int64_t>(s.size());
  if (!rt_.Room(bytes)) return false;
  s_.reserve(s_.size() + static_cast<size_t>(bytes));
  for (int64_t i = 0; i < times; ++i) s_.append(s);
  rt_.Hold(bytes);
  held_ += bytes;
  return true;
}

}  // namespace tutti::tokenizer::jinja
