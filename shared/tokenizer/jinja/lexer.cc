#include "shared/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

// Line ends become \n, and one at the very end goes.
std::string Normalize(std::string_view source) {
  std::string s;
  s.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      s += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      s += source[i];
    }
  }
  if (!s.empty() && s.back() == '\n') s.pop_back();
  return s;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : s_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < s_.size()) {
      TUTTI_RETURN_IF_ERROR(TextAndTag());
    }
    tokens_.push_back({TokenKind::kEnd, line_, ""});
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("template:", line_, ": ", ToAbsl(what)));
  }
  bool At(std::string_view t) const { return std::string_view(s_).substr(pos_, t.size()) == t; }
  void Advance(size_t n) {
    line_ += static_cast<int>(std::count(s_.begin() + static_cast<ptrdiff_t>(pos_),
                                         s_.begin() + static_cast<ptrdiff_t>(pos_ + n), '\n'));
    pos_ += n;
    line_starting_ = n > 0 ? s_[pos_ - 1] == '\n' : line_starting_;
  }
  void SkipSpace() {
    while (pos_ < s_.size()) {
      const CodePoint c = DecodeAt(s_, pos_);
      if (!IsSpace(c.value)) return;
      Advance(static_cast<size_t>(c.bytes));
    }
  }

  // The text up to the next tag, then the tag.
  absl::Status TextAndTag() {
    size_t tag = pos_;
    for (;; ++tag) {
      tag = s_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= s_.size()) {
        tag = s_.size();
        break;
      }
      if (s_[tag + 1] == '{' || s_[tag + 1] == '%' || s_[tag + 1] == '#') break;
    }
    std::string_view text = std::string_view(s_).substr(pos_, tag - pos_);
    if (tag == s_.size()) {
      AddText(text);
      Advance(text.size());
      return absl::OkStatus();
    }
    const char type = s_[tag + 1];
    const char sign = tag + 2 < s_.size() ? s_[tag + 2] : 0;
    const size_t text_size = text.size();
    if (sign == '-') {
      text = Strip(text, nullptr, false, true);
    } else if (sign != '+' && type != '{') {
      // lstrip_blocks: white space between the start of the line and a block goes.
      const size_t line_end = text.rfind('\n');
      const size_t from = line_end == std::string_view::npos ? 0 : line_end + 1;
      if ((from > 0 || line_starting_) && Strip(text.substr(from), nullptr, true, false).empty()) {
        text = text.substr(0, from);
      }
    }
    AddText(text);
    Advance(text_size + 2);
    if (sign == '-' || (sign == '+' && type != '{')) Advance(1);
    if (type == '#') return Comment();
    if (type == '{') {
      tokens_.push_back({TokenKind::kPrintBegin, line_, ""});
      return Inside(TokenKind::kPrintEnd);
    }
    bool raw = false;
    TUTTI_RETURN_IF_ERROR(Raw(&raw));
    if (raw) return absl::OkStatus();
    tokens_.push_back({TokenKind::kBlockBegin, line_, ""});
    return Inside(TokenKind::kBlockEnd);
  }

  void AddText(std::string_view text) {
    if (!text.empty()) tokens_.push_back({TokenKind::kText, line_, std::string(text)});
  }

  // After the closing "%}" or "#}" (trim_blocks), with its sign; false when it does not stand here.
  bool CloseBlock(std::string_view end) {
    if (At("-") && std::string_view(s_).substr(pos_ + 1, 2) == end) {
      Advance(3);
      SkipSpace();
      return true;
    }
    if (At("+") && std::string_view(s_).substr(pos_ + 1, 2) == end) {
      Advance(3);
      return true;
    }
    if (!At(end)) return false;
    Advance(2);
    if (At("\n")) Advance(1);
    return true;
  }

  absl::Status Comment() {
    const size_t end = s_.find("#}", pos_);
    if (end == std::string::npos) return Error("Missing end of comment tag");
    const size_t sign = end > pos_ && (s_[end - 1] == '-' || s_[end - 1] == '+') ? end - 1 : end;
    Advance(sign - pos_);
    CloseBlock("#}");
    return absl::OkStatus();
  }

  // {% raw %} ... {% endraw %}: all of it is text.
  absl::Status Raw(bool* raw) {
    size_t p = pos_;
    const auto skip = [&] {
      while (p < s_.size() && IsSpace(DecodeAt(s_, p).value))
        p += static_cast<size_t>(DecodeAt(s_, p).bytes);
    };
    const auto word = [&](std::string_view w) {
      if (std::string_view(s_).substr(p, w.size()) != w) return false;
      p += w.size();
      return true;
    };
    skip();
    if (!word("raw")) return absl::OkStatus();
    skip();
    const bool strip = word("-%}");
    if (!strip && !word("%}")) return absl::OkStatus();
    *raw = true;
    Advance(p - pos_);
    if (strip) SkipSpace();
    const size_t begin = pos_;
    for (size_t open = s_.find("{%", begin); open != std::string::npos;
         open = s_.find("{%", open + 1)) {
      p = open + 2;
      const bool strip_before = p < s_.size() && s_[p] == '-';
      const bool keep_before = p < s_.size() && s_[p] == '+';
      if (strip_before || keep_before) ++p;
      skip();
      if (!word("endraw")) continue;
      skip();
      const std::string_view rest = std::string_view(s_).substr(p);
      if (!rest.starts_with("%}") && !rest.starts_with("-%}") && !rest.starts_with("+%}")) continue;
      std::string_view text = std::string_view(s_).substr(begin, open - begin);
      if (strip_before) {
        text = Strip(text, nullptr, false, true);
      } else if (!keep_before) {
        const size_t line_end = text.rfind('\n');
        const size_t from = line_end == std::string_view::npos ? 0 : line_end + 1;
        if ((from > 0 || line_starting_) &&
            Strip(text.substr(from), nullptr, true, false).empty()) {
          text = text.substr(0, from);
        }
      }
      AddText(text);
      Advance(p - pos_);
      CloseBlock("%}");
      return absl::OkStatus();
    }
    return Error("Missing end of raw directive");
  }

  // Tokens up to the tag's end.
  absl::Status Inside(TokenKind end) {
    std::string balance;
    for (;;) {
      if (pos_ >= s_.size()) {
        return Error(end == TokenKind::kPrintEnd ? "unexpected end of template, expected '}}'"
                                                 : "unexpected end of template, expected '%}'");
      }
      const CodePoint c = DecodeAt(s_, pos_);
      if (IsSpace(c.value)) {
        Advance(static_cast<size_t>(c.bytes));
        continue;
      }
      if (balance.empty()) {
        const int line = line_;
        if (end == TokenKind::kBlockEnd && CloseBlock("%}")) {
          tokens_.push_back({end, line, ""});
          return absl::OkStatus();
        }
        if (end == TokenKind::kPrintEnd && (At("}}") || At("-}}"))) {
          const bool strip = At("-");
          Advance(strip ? 3 : 2);
          if (strip) SkipSpace();
          tokens_.push_back({end, line, ""});
          return absl::OkStatus();
        }
      }
      const char ch = s_[pos_];
      if (ch == '\'' || ch == '"') {
        TUTTI_RETURN_IF_ERROR(String(ch));
      } else if (ch >= '0' && ch <= '9') {
        TUTTI_RETURN_IF_ERROR(Number());
      } else if (ch == '_' || IsAlpha(c.value)) {
        size_t stop = pos_;
        while (stop < s_.size()) {
          const CodePoint n = DecodeAt(s_, stop);
          if (s_[stop] != '_' && !IsAlpha(n.value) && !IsNumeric(n.value)) break;
          stop += static_cast<size_t>(n.bytes);
        }
        tokens_.push_back({TokenKind::kName, line_, s_.substr(pos_, stop - pos_)});
        Advance(stop - pos_);
      } else {
        TUTTI_RETURN_IF_ERROR(Operator(&balance));
      }
    }
  }

  absl::Status Operator(std::string* balance) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (At(two)) {
        tokens_.push_back({TokenKind::kOperator, line_, std::string(two)});
        Advance(2);
        return absl::OkStatus();
      }
    }
    const char ch = s_[pos_];
    if (std::string_view("+-*/%~[](){}><=.:|,;").find(ch) == std::string_view::npos) {
      const size_t n = static_cast<size_t>(DecodeAt(s_, pos_).bytes);
      return Error(absl::StrCat("unexpected char '", ToAbsl(Printable(s_.substr(pos_, n))), "'"));
    }
    if (ch == '(') *balance += ')';
    if (ch == '[') *balance += ']';
    if (ch == '{') *balance += '}';
    if (ch == ')' || ch == ']' || ch == '}') {
      if (balance->empty()) return Error(absl::StrCat("unexpected '", std::string(1, ch), "'"));
      if (balance->back() != ch) {
        return Error(absl::StrCat("unexpected '", std::string(1, ch), "', expected '",
                                  std::string(1, balance->back()), "'"));
      }
      balance->pop_back();
    }
    tokens_.push_back({TokenKind::kOperator, line_, std::string(1, ch)});
    Advance(1);
    return absl::OkStatus();
  }

  absl::Status Number() {
    const auto digits = [&](size_t p, auto is_digit) {
      while (p < s_.size() &&
             (is_digit(s_[p]) || (s_[p] == '_' && p + 1 < s_.size() && is_digit(s_[p + 1]))))
        ++p;
      return p;
    };
    const auto decimal = [](char c) { return c >= '0' && c <= '9'; };
    const auto clean = [&](size_t from, size_t to) {
      std::string out;
      for (size_t i = from; i < to; ++i) {
        if (s_[i] != '_') out += s_[i];
      }
      return out;
    };
    Token token{TokenKind::kInt, line_, ""};
    int base = 10;
    size_t from = pos_, end = pos_;
    if (s_[pos_] == '0' && pos_ + 1 < s_.size()) {
      const char b = static_cast<char>(s_[pos_ + 1] | 0x20);
      base = b == 'x' ? 16 : b == 'o' ? 8 : b == 'b' ? 2 : 10;
    }
    if (base != 10) {
      from = pos_ + 2;
      end = digits(from, [&](char c) {
        const int v = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                               : 99;
        return v < base;
      });
      if (end == from) return Error("invalid number literal");
    } else {
      end = digits(pos_, decimal);
      size_t fraction = end;
      // A dot right before the number (a.0.1) means items, not fractions.
      const bool after_dot = pos_ > 0 && s_[pos_ - 1] == '.';
      if (!after_dot) {
        if (end + 1 < s_.size() && s_[end] == '.' && decimal(s_[end + 1]))
          fraction = digits(end + 1, decimal);
        if (fraction < s_.size() && (s_[fraction] | 0x20) == 'e') {
          size_t p = fraction + 1;
          if (p < s_.size() && (s_[p] == '+' || s_[p] == '-')) ++p;
          if (p < s_.size() && decimal(s_[p])) fraction = digits(p, decimal);
        }
      }
      if (fraction != end) {
        token.kind = TokenKind::kFloat;
        token.text = clean(pos_, fraction);
        token.number = std::strtod(token.text.c_str(), nullptr);
        tokens_.push_back(token);
        Advance(fraction - pos_);
        return absl::OkStatus();
      }
    }
    const std::string text = clean(from, end);
    const auto result =
        std::from_chars(text.data(), text.data() + text.size(), token.integer, base);
    if (result.ec != std::errc()) return Error("the integer does not fit 64 bits");
    token.text = text;
    tokens_.push_back(token);
    Advance(end - pos_);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    std::string value;
    const int line = line_;
    size_t p = pos_ + 1;
    for (;;) {
      if (p >= s_.size())
        return Error(absl::StrCat("unexpected char '", std::string(1, quote), "'"));
      const char c = s_[p];
      if (c == quote) break;
      if (c != '\\') {
        value += c;
        ++p;
        continue;
      }
      if (p + 1 >= s_.size()) return Error("unfinished escape in a string");
      TUTTI_RETURN_IF_ERROR(Escape(&p, &value));
    }
    tokens_.push_back({TokenKind::kString, line, std::move(value)});
    Advance(p + 1 - pos_);
    return absl::OkStatus();
  }

  // A backslash escape at *p, as Python's string literals have them.
  absl::Status Escape(size_t* p, std::string* value) {
    const char c = s_[*p + 1];
    *p += 2;
    const auto number = [&](size_t max, int base, bool exact) -> std::optional<uint32_t> {
      size_t n = 0;
      while (n < max && *p + n < s_.size() &&
             std::isxdigit(static_cast<unsigned char>(s_[*p + n])) &&
             (base == 16 || (s_[*p + n] >= '0' && s_[*p + n] <= '7'))) {
        ++n;
      }
      if (n == 0 || (exact && n != max)) return std::nullopt;
      uint32_t v = 0;
      std::from_chars(s_.data() + *p, s_.data() + *p + n, v, base);
      *p += n;
      return v;
    };
    const auto code_point = [&](std::optional<uint32_t> v) -> absl::Status {
      if (!v || *v > 0x10FFFF || (*v >= 0xD800 && *v < 0xE000)) {
        return Error("an escape in a string is not a character");
      }
      AppendUtf8(*value, *v);
      return absl::OkStatus();
    };
    switch (c) {
      case '\n':
        return absl::OkStatus();  // a continued line
      case 'a':
        *value += '\a';
        return absl::OkStatus();
      case 'b':
        *value += '\b';
        return absl::OkStatus();
      case 'f':
        *value += '\f';
        return absl::OkStatus();
      case 'n':
        *value += '\n';
        return absl::OkStatus();
      case 'r':
        *value += '\r';
        return absl::OkStatus();
      case 't':
        *value += '\t';
        return absl::OkStatus();
      case 'v':
        *value += '\v';
        return absl::OkStatus();
      case '\\':
      case '\'':
      case '"':
        *value += c;
        return absl::OkStatus();
      case 'x':
        return code_point(number(2, 16, true));
      case 'u':
        return code_point(number(4, 16, true));
      case 'U':
        return code_point(number(8, 16, true));
      case 'N':
        return Error("\\N{...} in a string is not supported; use \\uXXXX");
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      --*p;
      return code_point(number(3, 8, false));
    }
    *value += '\\';
    *value += c;
    return absl::OkStatus();
  }

  const std::string s_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  size_t bad = 0;
  if (!IsValidUtf8(source, &bad)) {
    return absl::InvalidArgumentError(absl::StrCat("template: not UTF-8 at byte ", bad));
  }
  return Lexer(Normalize(source)).Run();
}

}  // namespace tutti::tokenizer::jinja
