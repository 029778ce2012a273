#include "shared/tokenizer/jinja/unicode.h"

#include <algorithm>
#include <iterator>

namespace tutti::tokenizer::jinja {
namespace {

struct Range {
  uint32_t first, last;
};
struct CaseRange {
  uint32_t first, last;
  int step, delta;
};
struct CaseSpecial {
  uint32_t from;
  const char* to;
};

#include "shared/tokenizer/jinja/unicode_tables.inc"

template <size_t N>
bool In(const Range (&table)[N], uint32_t c) {
  const auto it = std::upper_bound(std::begin(table), std::end(table), c,
                                   [](uint32_t v, const Range& r) { return v < r.first; });
  return it != std::begin(table) && c <= std::prev(it)->last;
}

template <size_t N, size_t M>
void AppendCased(std::string& out, uint32_t c, const CaseRange (&table)[N],
                 const CaseSpecial (&specials)[M]) {
  const auto special =
      std::lower_bound(std::begin(specials), std::end(specials), c,
                       [](const CaseSpecial& s, uint32_t v) { return s.from < v; });
  if (special != std::end(specials) && special->from == c) {
    out += special->to;
    return;
  }
  const auto it = std::upper_bound(std::begin(table), std::end(table), c,
                                   [](uint32_t v, const CaseRange& r) { return v < r.first; });
  if (it != std::begin(table)) {
    const CaseRange& r = *std::prev(it);
    if (c <= r.last && (c - r.first) % static_cast<uint32_t>(r.step) == 0) {
      c = static_cast<uint32_t>(static_cast<int64_t>(c) + r.delta);
    }
  }
  AppendUtf8(out, c);
}

bool AsciiUpper(uint32_t c) { return c >= 'A' && c <= 'Z'; }
bool AsciiLower(uint32_t c) { return c >= 'a' && c <= 'z'; }

}  // namespace

CodePoint DecodeAt(std::string_view s, size_t pos) {
  const auto byte = [&](size_t i) -> uint32_t {
    return pos + i < s.size() ? static_cast<unsigned char>(s[pos + i]) : 0;
  };
  const auto cont = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint32_t b = byte(0);
  if (b < 0x80) return {b, 1};
  if ((b & 0xE0) == 0xC0 && cont(1)) return {(b & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if ((b & 0xF0) == 0xE0 && cont(1) && cont(2)) {
    return {(b & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  }
  if ((b & 0xF8) == 0xF0 && cont(1) && cont(2) && cont(3)) {
    return {(b & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
            4};
  }
  return {0xFFFD, 1};
}

void AppendUtf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

int64_t CountCodePoints(std::string_view s) {
  return std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

size_t OffsetOf(std::string_view s, int64_t index) {
  size_t pos = 0;
  while (index > 0 && pos < s.size()) {
    pos += static_cast<size_t>(DecodeAt(s, pos).bytes);
    --index;
  }
  return pos;
}

bool IsSpace(uint32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return In(kSpace, c);
}
bool IsAlpha(uint32_t c) { return c < 0x80 ? AsciiUpper(c) || AsciiLower(c) : In(kAlpha, c); }
bool IsDigit(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : In(kDigit, c); }
bool IsDecimal(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : In(kDecimal, c); }
bool IsNumeric(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : In(kNumeric, c); }
bool IsPrintable(uint32_t c) { return c < 0x80 ? c >= 0x20 && c != 0x7F : !In(kNotPrintable, c); }
bool IsUpper(uint32_t c) { return c < 0x80 ? AsciiUpper(c) : In(kUpperCase, c); }
bool IsLower(uint32_t c) { return c < 0x80 ? AsciiLower(c) : In(kLowerCase, c); }

bool IsTitleLetter(uint32_t c) {
  return c == 0x1C5 || c == 0x1C8 || c == 0x1CB || c == 0x1F2 || (c >= 0x1F88 && c <= 0x1F8F) ||
         (c >= 0x1F98 && c <= 0x1F9F) || (c >= 0x1FA8 && c <= 0x1FAF) || c == 0x1FBC ||
         c == 0x1FCC || c == 0x1FFC;
}

void AppendUpper(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(AsciiLower(c) ? c - 32 : c);
  } else {
    AppendCased(out, c, kToUpper, kUpperSpecial);
  }
}

void AppendLower(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(AsciiUpper(c) ? c + 32 : c);
  } else {
    AppendCased(out, c, kToLower, kLowerSpecial);
  }
}

void AppendTitle(std::string& out, uint32_t c) {
  if (c < 0x80) {
    AppendUpper(out, c);
  } else {
    AppendCased(out, c, kToTitle, kTitleSpecial);
  }
}

std::string ToUpper(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    AppendUpper(out, c.value);
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

namespace {

// Σ at the end of a word is ς: after a cased letter, before none (Unicode, SpecialCasing,
// Final_Sigma).
bool FinalSigma(std::string_view s, size_t pos) {
  const auto cased = [](uint32_t c) { return IsUpper(c) || IsLower(c); };
  size_t before = pos;
  while (before > 0 && (s[before - 1] & 0xC0) == 0x80) --before;
  if (before == 0) return false;
  --before;
  if (!cased(DecodeAt(s, before).value)) return false;
  const size_t after = pos + 2;
  return after >= s.size() || !cased(DecodeAt(s, after).value);
}

}  // namespace

std::string ToLower(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    if (c.value == 0x3A3 && FinalSigma(s, i)) {
      AppendUtf8(out, 0x3C2);
    } else {
      AppendLower(out, c.value);
    }
    i += static_cast<size_t>(c.bytes);
  }
  return out;
}

std::string_view Strip(std::string_view s, const std::string_view* chars, bool left, bool right) {
  const auto drop = [&](std::string_view one, uint32_t value) {
    return chars == nullptr ? IsSpace(value) : chars->find(one) != std::string_view::npos;
  };
  while (left && !s.empty()) {
    const CodePoint c = DecodeAt(s, 0);
    if (!drop(s.substr(0, static_cast<size_t>(c.bytes)), c.value)) break;
    s.remove_prefix(static_cast<size_t>(c.bytes));
  }
  while (right && !s.empty()) {
    size_t start = s.size() - 1;
    while (start > 0 && (s[start] & 0xC0) == 0x80) --start;
    if (!drop(s.substr(start), DecodeAt(s, start).value)) break;
    s = s.substr(0, start);
  }
  return s;
}

}  // namespace tutti::tokenizer::jinja
