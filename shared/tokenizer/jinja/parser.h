// Tokens -> syntax tree: Jinja's grammar without template inheritance and includes.
#pragma once

#include <string_view>

#include "shared/base/status.h"
#include "shared/tokenizer/jinja/ast.h"

namespace tutti::tokenizer::jinja {

// Errors: INVALID_ARGUMENT "template:<line>: ..."; also for a syntax deeper than kMaxSyntaxDepth.
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace tutti::tokenizer::jinja
