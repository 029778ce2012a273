// Reading one bracket expression of a pattern: [a-z&&[^aeiou]\p{L}[:alpha:]].
#pragma once

#include <optional>
#include <string_view>

#include "shared/base/status.h"
#include "shared/tokenizer/regex/char_set.h"

namespace tutti::tokenizer::regex {

// Where a parser stands in a pattern.
struct Scan {
  std::string_view text;
  size_t at = 0;

  bool done() const { return at >= text.size(); }
  char peek(size_t ahead = 0) const { return at + ahead < text.size() ? text[at + ahead] : '\0'; }
  bool Take(std::string_view what) {
    if (text.substr(at, what.size()) != what) return false;
    at += what.size();
    return true;
  }
  // The next character. REQUIRES: !done(), and that the text is UTF-8.
  uint32_t TakeChar();
};

absl::Status PatternError(size_t offset, std::string_view what);

// After a backslash, at a letter or digit that stands for one character: \n \t \xHH \x{H...} \uHHHH
// \ooo, and any other character for itself.
// Errors: INVALID_ARGUMENT  \c, \C-, \M-, a malformed number, or a letter without a meaning
absl::StatusOr<uint32_t> TakeEscapedChar(Scan& scan, bool in_class);

// After a backslash: \s \S \w \W \d \D \h \H \p{...} \P{...} as a set; nullopt: none of them, and
// nothing is taken.
absl::StatusOr<std::optional<CharSet>> TakeShorthand(Scan& scan, bool ignore_case, bool in_class);

// At a '['. With `ignore_case` the set holds the other cases too.
absl::StatusOr<CharSet> TakeClass(Scan& scan, bool ignore_case, int depth);

// Whether a character equals several ones when case is ignored (the sharp s), which Oniguruma
// matches and sets cannot say.
bool FoldsToSeveral(uint32_t c);

}  // namespace tutti::tokenizer::regex
