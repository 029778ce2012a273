// Python's str methods.
#pragma once

#include <string_view>
#include <vector>

#include "shared/tokenizer/jinja/runtime.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

using StringMethod = Value (*)(Runtime&, const Value& self, const CallArgs& args);

// Null when str has no such method.
StringMethod FindStringMethod(std::string_view name);

// str.splitlines: views into `s`.
std::vector<std::string_view> SplitLines(std::string_view s, bool keep_ends);
Value ReplaceAll(Runtime& rt, std::string_view s, std::string_view from, std::string_view to,
                 int64_t count);
bool IsLowerText(std::string_view s);
bool IsUpperText(std::string_view s);

}  // namespace tutti::tokenizer::jinja
