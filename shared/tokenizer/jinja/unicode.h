// Strings as sequences of code points, with what Python's str methods know of each.
// Determinism: exact; tables of our own (unicode_tables.inc), no locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::tokenizer::jinja {

// The code point at byte `pos` (0xFFFD for a byte that is not UTF-8) and its length in bytes.
// REQUIRES: pos < s.size().
struct CodePoint {
  uint32_t value;
  int bytes;
};
CodePoint DecodeAt(std::string_view s, size_t pos);
void AppendUtf8(std::string& out, uint32_t code_point);

int64_t CountCodePoints(std::string_view s);
// Byte offset of the code point number `index`; s.size() when there are fewer.
size_t OffsetOf(std::string_view s, int64_t index);

bool IsSpace(uint32_t c);  // str.isspace, and what strip() takes off
bool IsAlpha(uint32_t c);
bool IsDigit(uint32_t c);
bool IsDecimal(uint32_t c);
bool IsNumeric(uint32_t c);
bool IsPrintable(uint32_t c);
bool IsUpper(uint32_t c);
bool IsLower(uint32_t c);
bool IsTitleLetter(uint32_t c);  // category Lt: neither upper nor lower

void AppendUpper(std::string& out, uint32_t c);
void AppendLower(std::string& out, uint32_t c);
void AppendTitle(std::string& out, uint32_t c);
std::string ToUpper(std::string_view s);
std::string ToLower(std::string_view s);

// Without code points of `chars` (white space when null) at the ends.
std::string_view Strip(std::string_view s, const std::string_view* chars, bool left, bool right);

}  // namespace tutti::tokenizer::jinja
