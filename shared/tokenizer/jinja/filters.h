// Jinja's filters and tests, by name.
#pragma once

#include <string_view>

#include "shared/tokenizer/jinja/runtime.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

using Filter = Value (*)(Runtime&, const Value& input, const CallArgs& args);
using Test = bool (*)(Runtime&, const Value& input, const CallArgs& args);

// Null when there is none of that name.
Filter FindTextFilter(std::string_view name);
Filter FindSequenceFilter(std::string_view name);
Test FindTest(std::string_view name);

// Fail with "No filter named ..." / "No test named ...".
Value CallFilter(Runtime& rt, std::string_view name, const Value& input, const CallArgs& args);
bool CallTest(Runtime& rt, std::string_view name, const Value& input, const CallArgs& args);

}  // namespace tutti::tokenizer::jinja
