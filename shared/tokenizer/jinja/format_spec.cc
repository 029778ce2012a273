// Python's format(): what stands behind the colon of a field in str.format.
#include <charconv>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000;
constexpr int kMaxPrecision = 100;

struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ =, or 0: by the type of the value
  char sign = '-';
  bool alternate = false, comma = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

bool IsAlign(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

bool Read(std::string_view s, Spec* out) {
  size_t i = 0;
  if (!s.empty()) {
    const auto first = static_cast<size_t>(DecodeAt(s, 0).bytes);
    if (first < s.size() && IsAlign(s[first])) {
      out->fill = s.substr(0, first);
      out->align = s[first];
      i = first + 1;
    } else if (IsAlign(s[0])) {
      out->align = s[0];
      i = 1;
    }
  }
  const auto at = [&] { return i < s.size() ? s[i] : '\0'; };
  const auto number = [&] {
    int64_t n = 0;
    while (at() >= '0' && at() <= '9') {
      if (n < kMaxWidth * 10) n = n * 10 + (at() - '0');
      ++i;
    }
    return n;
  };
  if (at() == '+' || at() == '-' || at() == ' ') out->sign = s[i++];
  if (at() == '#') {
    out->alternate = true;
    ++i;
  }
  if (at() == '0') {
    ++i;
    if (out->align == 0) {
      out->fill = "0";
      out->align = '=';
    }
  }
  out->width = number();
  if (at() == ',') {
    out->comma = true;
    ++i;
  }
  if (at() == '.') {
    ++i;
    if (at() < '0' || at() > '9') return false;
    out->precision = number();
  }
  if (i < s.size()) out->type = s[i++];
  return i == s.size();
}

void Pad(Text& out, const Spec& spec, char usual, std::string_view sign, std::string_view body) {
  const char align = spec.align == 0 ? usual : spec.align;
  const int64_t fill =
      std::max<int64_t>(0, spec.width - CountCodePoints(body) - static_cast<int64_t>(sign.size()));
  const int64_t before = align == '>' ? fill : align == '^' ? fill / 2 : 0;
  if (align == '=') {
    out.Add(sign);
    out.Repeat(spec.fill, fill);
    out.Add(body);
    return;
  }
  out.Repeat(spec.fill, before);
  out.Add(sign);
  out.Add(body);
  out.Repeat(spec.fill, fill - before);
}

// A comma before every third of the digits that the number begins with.
void AddCommas(std::string* body) {
  size_t digits = 0;
  while (digits < body->size() && (*body)[digits] >= '0' && (*body)[digits] <= '9') ++digits;
  for (size_t at = digits; at > 3; at -= 3) body->insert(at - 3, 1, ',');
}

std::string Digits(int64_t n, const Spec& spec) {
  const uint64_t magnitude = n < 0 ? -static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
  const char type = spec.type == 0 ? 'd' : spec.type;
  const int base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
  char buffer[80];
  std::string body(buffer, std::to_chars(buffer, buffer + sizeof buffer, magnitude, base).ptr);
  if (type == 'X') body = ToUpper(body);
  if (spec.comma) AddCommas(&body);
  if (spec.alternate && base != 10) body.insert(0, std::string("0") + type);
  return body;
}

}  // namespace

void AppendFormatted(Text& out, Runtime& rt, const Value& v, std::string_view text) {
  Spec spec;
  const auto fail = [&](std::string_view what) {
    rt.Fail(absl::StrCat("format specification '", ToAbsl(Printable(text)), "': ", ToAbsl(what)));
  };
  if (!Read(text, &spec)) return fail("is invalid");
  if (spec.width > kMaxWidth || spec.precision > kMaxWidth) return fail("is too large");
  const std::string type = spec.type == 0 ? "" : std::string(1, spec.type);
  if (v.is_string()) {
    if ((spec.type != 0 && spec.type != 's') || spec.align == '=' || spec.comma || spec.alternate ||
        spec.sign != '-') {
      return fail("is not for a text");
    }
    std::string_view s = v.text();
    if (spec.precision >= 0) s = s.substr(0, OffsetOf(s, spec.precision));
    return Pad(out, spec, '<', "", s);
  }
  if (!v.numeric()) return fail(absl::StrCat("is not for ", ToAbsl(TypeName(v))));
  const auto sign_of = [&](bool negative) {
    return std::string_view(negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "");
  };
  const bool whole =
      type.empty() || std::string_view("dbxXoc").find(type) != std::string_view::npos;
  if (v.integral() && whole) {
    if (spec.precision >= 0 || spec.type == 'c') return fail("is not for a whole number here");
    const int64_t n = v.as_int();
    return Pad(out, spec, '>', sign_of(n < 0), Digits(n, spec));
  }
  double d = v.as_float();
  const bool percent = spec.type == '%';
  if (!percent && !type.empty() && std::string_view("eEfFgG").find(type) == std::string_view::npos)
    return fail("is not for a number of this type");
  if (percent) d *= 100;
  std::string body;
  if (type.empty() && spec.precision < 0) {
    body = FloatRepr(std::fabs(d));
  } else {
    if (type.empty() || spec.precision > kMaxPrecision) return fail("is not taken here");
    char buffer[512];
    const char form[] = {'%', '.', '*', percent ? 'f' : spec.type, 0};
    std::snprintf(buffer, sizeof buffer, form,
                  static_cast<int>(spec.precision < 0 ? 6 : spec.precision), std::fabs(d));
    body = buffer;
  }
  if (spec.comma) AddCommas(&body);
  if (percent) body += '%';
  Pad(out, spec, '>', sign_of(std::signbit(d) && !std::isnan(d)), body);
}

}  // namespace tutti::tokenizer::jinja
