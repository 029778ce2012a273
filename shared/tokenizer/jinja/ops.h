// Python's operators over Values. All of them report through the Runtime (sticky errors) and return
// an undefined value after a failure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/tokenizer/jinja/ast.h"
#include "shared/tokenizer/jinja/runtime.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

Value BinaryOp(Runtime& rt, Op op, const Value& a, const Value& b);  // kAdd .. kPow
Value Negate(Runtime& rt, const Value& v, bool positive);
bool CompareOp(Runtime& rt, Op op, const Value& a, const Value& b);  // kEq .. kNotIn
// a < b. Fails on kinds without an order.
bool Less(Runtime& rt, const Value& a, const Value& b);
// Equal() with its cost counted.
bool EqualOp(Runtime& rt, const Value& a, const Value& b);

// The items that iterating over `v` gives: elements, keys, characters; takes what is left of a
// generator.
std::vector<Value> Iterate(Runtime& rt, const Value& v);
bool Iterable(const Value& v);
int64_t Length(Runtime& rt, const Value& v);

Value GetAttribute(Runtime& rt, const Value& object, std::string_view name);  // object.name
Value GetItem(Runtime& rt, const Value& object, const Value& key);            // object[key]
Value GetSlice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
               const Value& step);

// str(v), appended; and repr(v). Undefined is "".
void AppendStr(Text& out, Runtime& rt, const Value& v);
void AppendRepr(Text& out, Runtime& rt, const Value& v);
Value ToStr(Runtime& rt, const Value& v);
std::string ReprOf(Runtime& rt, const Value& v);
std::string FloatRepr(double d);

struct JsonOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level's indentation
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// Python's json.dumps.
void AppendJson(Text& out, Runtime& rt, const Value& v, const JsonOptions& options);

// `value % arguments` for a string.
Value PercentFormat(Runtime& rt, std::string_view format, const Value& arguments);
// format(v, spec): [[fill]align][sign][#][0][width][,][.precision][type] of texts and numbers.
void AppendFormatted(Text& out, Runtime& rt, const Value& v, std::string_view spec);
// str.format with {}, {0} and {name} fields, their !r and !s, and what AppendFormatted takes.
Value BraceFormat(Runtime& rt, std::string_view format, const CallArgs& args);

// '<', '>', '&', '"' and "'" as entities.
Value EscapeHtml(Runtime& rt, const Value& v);

// str.strftime for a time in UTC; glibc's plain directives.
std::string Strftime(int64_t unix_s, std::string_view format);

}  // namespace tutti::tokenizer::jinja
