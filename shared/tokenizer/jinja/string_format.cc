// '%' formatting, str.format and strftime.
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

// One conversion of '%': %[(key)][flags][width][.precision]type.
struct Spec {
  bool minus = false, zero = false, plus = false, space = false, alternate = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 's';
};

int64_t ReadNumber(std::string_view s, size_t* i) {
  int64_t n = 0;
  while (*i < s.size() && s[*i] >= '0' && s[*i] <= '9') {
    if (n < kMaxWidth * 10) n = n * 10 + (s[*i] - '0');
    ++*i;
  }
  return n;
}

void Pad(Text& out, const Spec& spec, std::string_view sign, std::string_view body, bool zeros) {
  const int64_t fill = spec.width - CountCodePoints(body) - static_cast<int64_t>(sign.size());
  if (spec.minus) {
    out.Add(sign);
    out.Add(body);
    out.Repeat(" ", fill);
  } else if (zeros && spec.zero) {
    out.Add(sign);
    out.Repeat("0", fill);
    out.Add(body);
  } else {
    out.Repeat(" ", fill);
    out.Add(sign);
    out.Add(body);
  }
}

void FormatNumber(Text& out, Runtime& rt, const Spec& spec, const Value& v) {
  const std::string_view positive = spec.plus ? "+" : spec.space ? " " : "";
  char buffer[512];
  if (spec.type == 'd' || spec.type == 'i' || spec.type == 'u' || spec.type == 'x' ||
      spec.type == 'X' || spec.type == 'o') {
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (!v.numeric() || (!decimal && !v.integral())) {
      rt.Fail(absl::StrCat("%", std::string(1, spec.type), " format: a number is required, not ",
                           ToAbsl(TypeName(v))));
      return;
    }
    if (!v.integral() && !(std::fabs(v.as_float()) < 9.2e18)) {
      rt.Fail("%d format: the number is too large");
      return;
    }
    const int64_t n = v.integral() ? v.as_int() : static_cast<int64_t>(v.as_float());
    const uint64_t magnitude = n < 0 ? -static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
    const int base = decimal ? 10 : spec.type == 'o' ? 8 : 16;
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, magnitude, base).ptr;
    std::string body(buffer, end);
    if (spec.type == 'X') body = ToUpper(body);
    if (spec.precision > static_cast<int64_t>(body.size())) {
      body.insert(0, static_cast<size_t>(spec.precision) - body.size(), '0');
    }
    if (spec.alternate && !decimal)
      body.insert(0, spec.type == 'o' ? "0o" : spec.type == 'x' ? "0x" : "0X");
    Pad(out, spec, n < 0 ? "-" : positive, body, true);
    return;
  }
  if (!v.numeric()) {
    rt.Fail(absl::StrCat("must be real number, not ", ToAbsl(TypeName(v))));
    return;
  }
  const double d = v.as_float();
  const char form[] = {'%', '.', '*', spec.type, 0};
  const int precision =
      static_cast<int>(spec.precision < 0 ? 6 : std::min<int64_t>(spec.precision, 100));
  std::snprintf(buffer, sizeof buffer, form, precision, std::fabs(d));
  Pad(out, spec, std::signbit(d) && !std::isnan(d) ? "-" : positive, buffer, std::isfinite(d));
}

}  // namespace

Value PercentFormat(Runtime& rt, std::string_view format, const Value& arguments) {
  const bool tuple = arguments.is_seq() && arguments.seq().seq_kind == SeqKind::kTuple;
  const size_t available = tuple ? arguments.seq().items.size() : 1;
  size_t used = 0;
  bool by_name = false;
  Text out(rt);
  for (size_t i = 0; i < format.size() && !rt.failed();) {
    const size_t percent = std::min(format.find('%', i), format.size());
    out.Add(format.substr(i, percent - i));
    if (percent == format.size()) break;
    i = percent + 1;
    Spec spec;
    const Value* value = nullptr;
    if (i < format.size() && format[i] == '(') {
      const size_t close = format.find(')', i);
      if (close == std::string_view::npos) return rt.Fail("incomplete format key");
      if (!arguments.is_dict()) return rt.Fail("format requires a mapping");
      by_name = true;
      value = arguments.dict().Find(format.substr(i + 1, close - i - 1));
      if (value == nullptr) return rt.Fail("a key of the format is not in the mapping");
      i = close + 1;
    }
    for (; i < format.size(); ++i) {
      if (format[i] == '-')
        spec.minus = true;
      else if (format[i] == '0')
        spec.zero = true;
      else if (format[i] == '+')
        spec.plus = true;
      else if (format[i] == ' ')
        spec.space = true;
      else if (format[i] == '#')
        spec.alternate = true;
      else
        break;
    }
    spec.width = ReadNumber(format, &i);
    if (i < format.size() && format[i] == '.') spec.precision = ReadNumber(format, &++i);
    while (i < format.size() && (format[i] == 'l' || format[i] == 'h' || format[i] == 'L')) ++i;
    if (i >= format.size()) return rt.Fail("incomplete format");
    spec.type = format[i++];
    if (spec.type == '%') {
      out.Add("%");
      continue;
    }
    if (spec.width > kMaxWidth || spec.precision > kMaxWidth)
      return rt.Exhaust("width in a format");
    if (value == nullptr) {
      if (used >= available) return rt.Fail("not enough arguments for format string");
      value = tuple ? &arguments.seq().items[used] : &arguments;
      ++used;
    }
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a': {
        Value text = spec.type == 's' ? ToStr(rt, *value) : rt.Str(ReprOf(rt, *value));
        if (rt.failed()) return {};
        std::string_view body = text.text();
        if (spec.precision >= 0) body = body.substr(0, OffsetOf(body, spec.precision));
        Pad(out, spec, "", body, false);
        break;
      }
      case 'c': {
        std::string body;
        if (value->is_string() && CountCodePoints(value->text()) == 1) {
          body = value->text();
        } else if (value->integral() && value->as_int() >= 0 && value->as_int() < 0x110000 &&
                   (value->as_int() & ~int64_t{0x7FF}) != 0xD800) {
          AppendUtf8(body, static_cast<uint32_t>(value->as_int()));
        } else {
          return rt.Fail("%c requires int or char");
        }
        Pad(out, spec, "", body, false);
        break;
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        FormatNumber(out, rt, spec, *value);
        break;
      default:
        return rt.Fail(absl::StrCat("unsupported format character '",
                                    ToAbsl(Printable(std::string(1, spec.type))), "'"));
    }
  }
  if (!by_name && used < available && (tuple || !arguments.is_dict())) {
    return rt.Fail("not all arguments converted during string formatting");
  }
  return out.Done();
}

Value BraceFormat(Runtime& rt, std::string_view format, const CallArgs& args) {
  Text out(rt);
  size_t next = 0;
  for (size_t i = 0; i < format.size() && !rt.failed();) {
    const size_t brace = std::min(format.find_first_of("{}", i), format.size());
    out.Add(format.substr(i, brace - i));
    if (brace == format.size()) break;
    if (brace + 1 < format.size() && format[brace + 1] == format[brace]) {
      out.Add(format.substr(brace, 1));
      i = brace + 2;
      continue;
    }
    if (format[brace] == '}') return rt.Fail("Single '}' encountered in format string");
    const size_t close = format.find('}', brace);
    if (close == std::string_view::npos) return rt.Fail("Single '{' encountered in format string");
    // name!r:spec
    std::string_view field = format.substr(brace + 1, close - brace - 1), spec;
    char conversion = 0;
    const size_t mark = field.find_first_of("!:");
    if (mark != std::string_view::npos) {
      std::string_view rest = field.substr(mark);
      field = field.substr(0, mark);
      if (rest[0] == '!') {
        conversion = rest.size() > 1 ? rest[1] : '?';
        rest.remove_prefix(std::min<size_t>(2, rest.size()));
        if ((conversion != 'r' && conversion != 's') || (!rest.empty() && rest[0] != ':'))
          return rt.Fail("a format field takes the conversions !r and !s here");
      }
      if (!rest.empty()) spec = rest.substr(1);
    }
    if (spec.find('{') != std::string_view::npos)
      return rt.Fail("a format specification with fields of its own is not taken here");
    i = close + 1;
    const Value* value = nullptr;
    size_t number = 0;
    const auto parsed = std::from_chars(field.data(), field.data() + field.size(), number);
    if (field.empty()) {
      number = next++;
      if (number < args.positional.size()) value = &args.positional[number];
    } else if (parsed.ec == std::errc() && parsed.ptr == field.data() + field.size()) {
      if (number < args.positional.size()) value = &args.positional[number];
    } else if (field.find_first_of(".[{") != std::string_view::npos) {
      return rt.Fail("str.format takes {}, {0} and {name} fields here, without . and []");
    } else {
      for (const auto& [name, v] : args.named) {
        if (name == field) value = &v;
      }
    }
    if (value == nullptr) {
      return rt.Fail(
          absl::StrCat("no argument for the format field '{", ToAbsl(Printable(field)), "}'"));
    }
    if (conversion != 0) {
      const Value text = conversion == 'r' ? rt.Str(ReprOf(rt, *value)) : ToStr(rt, *value);
      if (!rt.failed()) AppendFormatted(out, rt, text, spec);
    } else if (spec.empty()) {
      AppendStr(out, rt, *value);
    } else {
      AppendFormatted(out, rt, *value, spec);
    }
  }
  return rt.failed() ? Value() : out.Done();
}

namespace {

struct Civil {
  int64_t year;
  int month, day, hour, minute, second, weekday, yearday;
};

// Days to civil date in the proleptic Gregorian calendar, by whole 400-year eras from 0000-03-01.
Civil ToCivil(int64_t unix_s) {
  int64_t days = unix_s / 86400, rest = unix_s % 86400;
  if (rest < 0) {
    rest += 86400;
    --days;
  }
  const int64_t shifted = days + 719468;
  const int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
  const int64_t of_era = shifted - era * 146097;
  const int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  const int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t shifted_month = (5 * of_year + 2) / 153;
  Civil c;
  c.day = static_cast<int>(of_year - (153 * shifted_month + 2) / 5 + 1);
  c.month = static_cast<int>(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
  c.year = year_of_era + era * 400 + (c.month <= 2 ? 1 : 0);
  c.hour = static_cast<int>(rest / 3600);
  c.minute = static_cast<int>(rest / 60 % 60);
  c.second = static_cast<int>(rest % 60);
  c.weekday = static_cast<int>(((days + 4) % 7 + 7) % 7);  // 0 is Sunday
  static constexpr int kBefore[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  const bool leap = (c.year % 4 == 0 && c.year % 100 != 0) || c.year % 400 == 0;
  c.yearday = kBefore[c.month - 1] + c.day + (leap && c.month > 2 ? 1 : 0);
  return c;
}

}  // namespace

std::string Strftime(int64_t unix_s, std::string_view format) {
  static constexpr const char* kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                          "Thursday", "Friday", "Saturday"};
  static constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                            "May",       "June",     "July",     "August",
                                            "September", "October",  "November", "December"};
  // Years 1..9999, as Python's datetime has them.
  const Civil c = ToCivil(std::min<int64_t>(std::max<int64_t>(unix_s, -62135596800), 253402300799));
  std::string out;
  const auto number = [&out](int64_t n, int width, char fill = '0') {
    std::string s = std::to_string(n);
    if (static_cast<int>(s.size()) < width)
      s.insert(0, static_cast<size_t>(width) - s.size(), fill);
    out += s;
  };
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    char d = format[++i];
    bool bare = false;  // %-d: no padding
    if (d == '-' && i + 1 < format.size()) {
      bare = true;
      d = format[++i];
    }
    const int two = bare ? 1 : 2;
    const int hour12 = c.hour % 12 == 0 ? 12 : c.hour % 12;
    switch (d) {
      case 'Y':
        number(c.year, 1);
        break;
      case 'y':
        number(c.year % 100, two);
        break;
      case 'C':
        number(c.year / 100, two);
        break;
      case 'm':
        number(c.month, two);
        break;
      case 'd':
        number(c.day, two);
        break;
      case 'e':
        number(c.day, two, ' ');
        break;
      case 'H':
        number(c.hour, two);
        break;
      case 'I':
        number(hour12, two);
        break;
      case 'M':
        number(c.minute, two);
        break;
      case 'S':
        number(c.second, two);
        break;
      case 'f':
        number(0, 6);
        break;
      case 'j':
        number(c.yearday, bare ? 1 : 3);
        break;
      case 'w':
        number(c.weekday, 1);
        break;
      case 'u':
        number(c.weekday == 0 ? 7 : c.weekday, 1);
        break;
      case 'U':
        number((c.yearday + 6 - c.weekday) / 7, two);
        break;
      case 'W':
        number((c.yearday + 6 - (c.weekday + 6) % 7) / 7, two);
        break;
      case 'p':
        out += c.hour < 12 ? "AM" : "PM";
        break;
      case 'A':
        out += kDays[c.weekday];
        break;
      case 'a':
        out += std::string_view(kDays[c.weekday]).substr(0, 3);
        break;
      case 'B':
        out += kMonths[c.month - 1];
        break;
      case 'b':
      case 'h':
        out += std::string_view(kMonths[c.month - 1]).substr(0, 3);
        break;
      case 'F':
        out += Strftime(unix_s, "%Y-%m-%d");
        break;
      case 'T':
      case 'X':
        out += Strftime(unix_s, "%H:%M:%S");
        break;
      case 'R':
        out += Strftime(unix_s, "%H:%M");
        break;
      case 'D':
      case 'x':
        out += Strftime(unix_s, "%m/%d/%y");
        break;
      case 'c':
        out += Strftime(unix_s, "%a %b %e %H:%M:%S %Y");
        break;
      case 's':
        number(unix_s, 1);
        break;
      case 'Z':
      case 'z':
        break;  // a naive time has no zone
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case '%':
        out += '%';
        break;
      default:
        out += '%';
        if (bare) out += '-';
        out += d;
    }
  }
  return out;
}

}  // namespace tutti::tokenizer::jinja
