// A template's text -> tokens, as Jinja's lexer does with trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer::jinja {

enum class TokenKind : uint8_t {
  kText,        // outside of tags
  kBlockBegin,  // {%
  kBlockEnd,
  kPrintBegin,  // {{
  kPrintEnd,
  kName,
  kString,  // text is the value
  kInt,
  kFloat,
  kOperator,  // text is its spelling
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;
  int64_t integer = 0;
  double number = 0;

  bool Is(TokenKind k, std::string_view t) const { return kind == k && text == t; }
  bool IsOperator(std::string_view t) const { return Is(TokenKind::kOperator, t); }
  bool IsName(std::string_view t) const { return Is(TokenKind::kName, t); }
};

// Comments and {% raw %} are resolved; the last token is kEnd. Lines count from 1.
// Errors: INVALID_ARGUMENT "template:<line>: ..."
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace tutti::tokenizer::jinja
