#include "shared/tokenizer/regex/class_parser.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/regex/node.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer::regex {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Hexadecimal digits, at least `least` and at most `most`.
absl::StatusOr<uint32_t> TakeHex(Scan& scan, int least, int most) {
  uint32_t value = 0;
  int n = 0;
  for (; n < most && HexValue(scan.peek()) >= 0; ++n, ++scan.at)
    value = value << 4 | static_cast<uint32_t>(HexValue(scan.peek()));
  if (n < least) return PatternError(scan.at, "a hexadecimal digit expected");
  if (value > CharSet::kLast) return PatternError(scan.at, "past U+10FFFF");
  return value;
}

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// [:name:] or [:^name:]; nullopt: something else begins with "[:".
std::optional<CharSet> TakePosix(Scan& scan) {
  Scan s = scan;
  if (!s.Take("[:")) return std::nullopt;
  const bool negative = s.Take("^");
  const size_t first = s.at;
  while (!s.done() && IsAlnum(s.peek())) ++s.at;
  const auto set = PosixClass(s.text.substr(first, s.at - first));
  if (!set.has_value() || !s.Take(":]")) return std::nullopt;
  scan = s;
  return negative ? set->Complement() : *set;
}

// Properties whose members are told apart by case.
bool IsOfCase(std::string_view name) {
  constexpr std::string_view kNames[] = {"lu",
                                         "ll",
                                         "lt",
                                         "upper",
                                         "lower",
                                         "uppercase",
                                         "lowercase",
                                         "uppercaseletter",
                                         "lowercaseletter",
                                         "titlecaseletter"};
  std::string loose;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-' && c != '^') loose += static_cast<char>(c | 0x20);
  }
  return std::find(std::begin(kNames), std::end(kNames), loose) != std::end(kNames);
}

}  // namespace

uint32_t Scan::TakeChar() {
  const CodePoint c = DecodeUtf8(text.data() + at, text.data() + text.size());
  at += c.length;
  return c.value;
}

absl::Status PatternError(size_t offset, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("offset ", offset, ": ", ToAbsl(what)));
}

bool FoldsToSeveral(uint32_t c) {
  constexpr CharSet::Range kRanges[] = {
      {0xDF, 0xDF},     {0x130, 0x130},   {0x149, 0x149},   {0x1F0, 0x1F0},   {0x390, 0x390},
      {0x3B0, 0x3B0},   {0x587, 0x587},   {0x1E96, 0x1E9A}, {0x1E9E, 0x1E9E}, {0x1F50, 0x1F57},
      {0x1F80, 0x1FFC}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [c](const auto& r) { return c >= r.first && c <= r.second; });
}

absl::StatusOr<uint32_t> TakeEscapedChar(Scan& scan, bool in_class) {
  const size_t start = scan.at;
  if (scan.done()) return PatternError(start, "a backslash at the end");
  const uint32_t c = scan.TakeChar();
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
      return '\a';
    case 'e':
      return 0x1B;
    case 'b':
      if (in_class) return '\b';
      break;
    case 'u':
      return TakeHex(scan, 4, 4);
    case 'x':
      if (scan.Take("{")) {
        TUTTI_ASSIGN_OR_RETURN(const uint32_t value, TakeHex(scan, 1, 8));
        if (!scan.Take("}")) return PatternError(scan.at, "\\x{...} of one character expected");
        return value;
      }
      return TakeHex(scan, 0, 2);
    default:
      break;
  }
  if (c >= '0' && c <= '7') {
    uint32_t value = c - '0';
    for (int n = 1; n < 3 && scan.peek() >= '0' && scan.peek() <= '7'; ++n)
      value = value * 8 + static_cast<uint32_t>(scan.text[scan.at++] - '0');
    return value;
  }
  if (c < 128 && IsAlnum(static_cast<char>(c))) {
    return PatternError(start - 1,
                        absl::StrCat("\\", std::string(1, static_cast<char>(c)),
                                     in_class ? " in a class" : "", " is not supported"));
  }
  return c;
}

absl::StatusOr<std::optional<CharSet>> TakeShorthand(Scan& scan, bool ignore_case, bool in_class) {
  const size_t start = scan.at;
  const char c = scan.peek();
  std::optional<CharSet> set;
  switch (c | 0x20) {
    case 's':
      set = Spaces();
      break;
    case 'w':
      set = in_class ? WordChars() : LoneWordChars();
      break;
    case 'd':
      set = DecimalDigits();
      break;
    case 'h':
      set = HexDigits();
      break;
    case 'p':
      break;
    default:
      return std::optional<CharSet>();
  }
  ++scan.at;
  bool negative = c < 'a';
  if (!set.has_value()) {
    if (!scan.Take("{")) return PatternError(start - 1, "\\p{...} expected");
    negative ^= scan.Take("^");
    const size_t end = scan.text.find('}', scan.at);
    if (end == std::string_view::npos) return PatternError(start - 1, "\\p{ without its }");
    const std::string_view name = scan.text.substr(scan.at, end - scan.at);
    auto property = Property(name);
    if (!property.ok()) return PatternError(start - 1, ToStd(property.status().message()));
    if (ignore_case && IsOfCase(name)) {
      return PatternError(start - 1, "a property of case where case is ignored is not supported");
    }
    set = *std::move(property);
    scan.at = end + 1;
  }
  return negative ? set->Complement() : *set;
}

absl::StatusOr<CharSet> TakeClass(Scan& scan, bool ignore_case, int depth) {
  const size_t start = scan.at;
  if (depth > kNestMax) return PatternError(start, "classes are nested too deeply");
  ++scan.at;  // [
  const bool negative = scan.Take("^");
  CharSet all({{0, CharSet::kLast}});
  bool intersected = false;
  CharSet named;     // classes and properties
  CharSet literals;  // whose other cases belong too
  const auto finish = [&] {
    const CharSet part = named.Union(ignore_case ? CaseClosure(literals) : literals);
    all = intersected ? all.Intersection(part) : part;
    intersected = true;
    named = literals = CharSet();
  };
  // A literal character, or a range.
  const auto take_literal = [&]() -> absl::StatusOr<uint32_t> {
    if (scan.Take("\\")) return TakeEscapedChar(scan, /*in_class=*/true);
    return scan.TakeChar();
  };
  bool first = true;
  for (;; first = false) {
    if (scan.done()) return PatternError(start, "[ without its ]");
    // A ] that comes first is a character, where another one closes the class.
    if (scan.peek() == ']' &&
        !(first && scan.text.find(']', scan.at + 1) != std::string_view::npos))
      break;
    if (scan.Take("&&")) {
      finish();
      continue;
    }
    if (scan.peek() == '[') {
      if (const auto posix = TakePosix(scan)) {
        named = named.Union(*posix);
        continue;
      }
      TUTTI_ASSIGN_OR_RETURN(const CharSet inner, TakeClass(scan, ignore_case, depth + 1));
      named = named.Union(inner);
      continue;
    }
    if (scan.peek() == '\\') {
      Scan after = scan;
      ++after.at;
      TUTTI_ASSIGN_OR_RETURN(const auto shorthand, TakeShorthand(after, ignore_case, true));
      if (shorthand.has_value()) {
        scan = after;
        named = named.Union(*shorthand);
        continue;
      }
    }
    const size_t where = scan.at;
    TUTTI_ASSIGN_OR_RETURN(const uint32_t low, take_literal());
    uint32_t high = low;
    // "a-z"; a hyphen before ], && or a class is a character.
    const bool range = scan.peek() == '-' && scan.peek(1) != ']' && scan.peek(1) != '[' &&
                       !(scan.peek(1) == '&' && scan.peek(2) == '&') &&
                       scan.at + 1 < scan.text.size();
    if (range) {
      Scan after = scan;
      ++after.at;
      bool shorthand = false;
      if (after.peek() == '\\') {
        Scan escaped = after;
        ++escaped.at;
        const auto set = TakeShorthand(escaped, false, true);
        shorthand = !set.ok() || set->has_value();
      }
      if (!shorthand) {
        scan = after;
        TUTTI_ASSIGN_OR_RETURN(high, take_literal());
      }
    }
    if (high < low) return PatternError(where, "a range that ends before it begins");
    if (low > CharSet::kLast) return PatternError(where, "not UTF-8");
    if (ignore_case && !negative) {
      for (uint32_t c = low; c <= high && c - low < 0x3000; ++c) {
        if (FoldsToSeveral(c)) {
          return PatternError(where, "a character that equals several ones when case is ignored");
        }
      }
    }
    literals = literals.Union(CharSet({{low, high}}));
  }
  ++scan.at;  // ]
  finish();
  return negative ? all.Complement() : all;
}

}  // namespace tutti::tokenizer::regex
