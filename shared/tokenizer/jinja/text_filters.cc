// Filters over strings and numbers.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/filters.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/string_methods.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

// A string method used as a filter, on str(input).
template <const char* kName>
Value AsMethod(Runtime& rt, const Value& input, const CallArgs& args) {
  const Value s = ToStr(rt, input);
  if (rt.failed() || !rt.Step(WeightOf(s))) return {};
  return FindStringMethod(kName)(rt, s, args);
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize",
               kTrim[] = "strip";

// Every part after white space, '-', '(', '{', '[' or '<' starts with a capital, the rest is lower
// case.
Value TitleFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "title", args, {});
  const Value s = ToStr(rt, input);
  if (rt.failed() || !rt.Room(static_cast<int64_t>(s.text().size() * 3))) return {};
  std::string out;
  bool starts = true;
  for (size_t i = 0; i < s.text().size();) {
    const CodePoint c = DecodeAt(s.text(), i);
    i += static_cast<size_t>(c.bytes);
    const bool separator =
        IsSpace(c.value) ||
        (c.value < 0x80 &&
         std::string_view("-({[<").find(static_cast<char>(c.value)) != std::string_view::npos);
    if (starts && !separator) {
      AppendUpper(out, c.value);
    } else {
      AppendLower(out, c.value);
    }
    starts = separator;
  }
  return rt.Str(std::move(out));
}

Value ReplaceFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "replace", args, {"old", "new", "count"}, 2);
  if (rt.failed()) return {};
  const Value s = ToStr(rt, input), from = ToStr(rt, *bound[0]), to = ToStr(rt, *bound[1]);
  const int64_t count = bound.given(2) && bound[2]->none() ? -1 : bound.Int(2, -1);
  return rt.failed() ? Value() : ReplaceAll(rt, s.text(), from.text(), to.text(), count);
}

Value StringFilter(Runtime& rt, const Value& input, const CallArgs&) { return ToStr(rt, input); }

Value SafeFilter(Runtime& rt, const Value& input, const CallArgs&) {
  return ToStr(rt, input).WithMarkup(true);
}

Value EscapeFilter(Runtime& rt, const Value& input, const CallArgs&) {
  return EscapeHtml(rt, input);
}
Value ForceEscape(Runtime& rt, const Value& input, const CallArgs&) {
  return EscapeHtml(rt, ToStr(rt, input).WithMarkup(false));
}

Value IndentFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "indent", args, {"width", "first", "blank"});
  if (rt.failed()) return {};
  if (!input.is_string()) {
    if (input.undefined()) return rt.FailUndefined(input);
    return rt.Fail(absl::StrCat("indent() wants a string, got '", ToAbsl(TypeName(input)), "'"));
  }
  std::string indent;
  if (bound.given(0) && bound[0]->is_string()) {
    indent = bound[0]->text();
  } else {
    const int64_t width = bound.Int(0, 4);
    Text spaces(rt);
    if (rt.failed() || !spaces.Repeat(" ", width)) return {};
    indent = spaces.Take();
  }
  if (!rt.Room(static_cast<int64_t>(input.text().size() * sizeof(std::string_view)))) return {};
  const std::string with_end = input.text() + "\n";
  const auto lines = SplitLines(with_end, false);
  Text out(rt);
  if (bound.Bool(1, false)) out.Add(indent);
  for (size_t i = 0; i < lines.size() && !rt.failed(); ++i) {
    if (i > 0) out.Add("\n");
    if (i > 0 && (bound.Bool(2, false) || !lines[i].empty())) out.Add(indent);
    out.Add(lines[i]);
  }
  return out.Done();
}

Value TruncateFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "truncate", args, {"length", "killwords", "end", "leeway"});
  const int64_t length = bound.Int(0, 255);
  const std::string_view end = bound.Text(2, "...");
  const int64_t leeway = bound.given(3) && !bound[3]->none() ? bound.Int(3, 5) : 5;
  if (rt.failed()) return {};
  if (!input.is_string()) {
    if (input.undefined()) return rt.Str("");
    return rt.Fail(absl::StrCat("truncate() wants a string, got '", ToAbsl(TypeName(input)), "'"));
  }
  const int64_t end_length = CountCodePoints(end);
  if (length < end_length)
    return rt.Fail(absl::StrCat("expected length >= ", end_length, ", got ", length));
  if (leeway < 0) return rt.Fail(absl::StrCat("expected leeway >= 0, got ", leeway));
  const int64_t size = Length(rt, input);
  if (size <= leeway || size - leeway <= length) return input;
  std::string_view cut =
      std::string_view(input.text()).substr(0, OffsetOf(input.text(), length - end_length));
  if (!bound.Bool(1, false)) cut = cut.substr(0, cut.rfind(' '));
  return rt.Str(std::string(cut) + std::string(end));
}

Value CenterFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  CallArgs with_width = args;
  if (args.positional.empty() && args.named.empty())
    with_width.positional.push_back(Value::Int(80));
  const Value s = ToStr(rt, input);
  return rt.failed() ? Value() : FindStringMethod("center")(rt, s, with_width);
}

Value FormatFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return rt.Fail("can't handle positional and keyword arguments at the same time");
  }
  const Value s = ToStr(rt, input);
  if (rt.failed()) return {};
  if (args.named.empty()) return PercentFormat(rt, s.text(), rt.Tuple(args.positional));
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : args.named) entries.emplace_back(rt.Str(name), value);
  const Value dict = rt.Dict(std::move(entries));
  return rt.failed() ? Value() : PercentFormat(rt, s.text(), dict);
}

Value WordCount(Runtime& rt, const Value& input, const CallArgs&) {
  const Value s = ToStr(rt, input);
  if (rt.failed() || !rt.Step(WeightOf(s))) return {};
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < s.text().size();) {
    const CodePoint c = DecodeAt(s.text(), i);
    i += static_cast<size_t>(c.bytes);
    const bool word = c.value == '_' || IsAlpha(c.value) || IsNumeric(c.value);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::Int(words);
}

// `query`: as a key or value of a query, where a space is a plus.
bool AppendUrl(Text& out, Runtime& rt, const Value& v, bool query) {
  const Value s = ToStr(rt, v);
  if (rt.failed()) return false;
  for (const char c : s.text()) {
    const bool keep = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      std::string_view("_.-~").find(c) != std::string_view::npos ||
                      (c == '/' && !query);
    char hex[8];
    std::snprintf(hex, sizeof hex, "%%%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
    if (!(keep ? out.Add(c) : query && c == ' ' ? out.Add('+') : out.Add(hex))) return false;
  }
  return true;
}

// A text, or the pairs of a dict or a list as a query.
Value UrlEncode(Runtime& rt, const Value& input, const CallArgs&) {
  Text out(rt);
  if (!input.is_dict() && !input.is_seq()) {
    return AppendUrl(out, rt, input, false) ? out.Done() : Value();
  }
  bool first = true;
  const auto pair = [&](const Value& key, const Value& value) {
    if (!std::exchange(first, false) && !out.Add('&')) return false;
    return AppendUrl(out, rt, key, true) && out.Add('=') && AppendUrl(out, rt, value, true);
  };
  for (const Value& item : Iterate(rt, input)) {
    if (input.is_dict()) {
      if (!pair(item, GetItem(rt, input, item))) return {};
      continue;
    }
    const std::vector<Value> two = Iterate(rt, item);
    if (rt.failed()) return {};
    if (two.size() != 2) return rt.Fail("urlencode wants pairs of a key and a value");
    if (!pair(two[0], two[1])) return {};
  }
  return rt.failed() ? Value() : out.Done();
}

// float(text), without the underscores and spellings that no template uses.
std::optional<double> ReadFloat(std::string_view s) {
  s = Strip(s, nullptr, true, true);
  if (s.empty() || s.size() > 400) return std::nullopt;
  if (s.find_first_not_of("0123456789+-.eE") != std::string_view::npos) {
    const std::string lower = ToLower(s);
    if (lower == "inf" || lower == "+inf" || lower == "infinity")
      return std::numeric_limits<double>::infinity();
    if (lower == "-inf" || lower == "-infinity") return -std::numeric_limits<double>::infinity();
    if (lower == "nan") return std::numeric_limits<double>::quiet_NaN();
    return std::nullopt;
  }
  const std::string text(s);
  char* end = nullptr;
  const double d = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size()) return std::nullopt;
  return d;
}

std::optional<int64_t> ReadInt(std::string_view s, int base) {
  s = Strip(s, nullptr, true, true);
  bool negative = false;
  if (!s.empty() && (s[0] == '-' || s[0] == '+')) {
    negative = s[0] == '-';
    s.remove_prefix(1);
  }
  if (base != 10 && s.size() > 2 && s[0] == '0') {
    const char b = static_cast<char>(s[1] | 0x20);
    if ((b == 'x' && base == 16) || (b == 'o' && base == 8) || (b == 'b' && base == 2))
      s.remove_prefix(2);
  }
  if (s.empty() || s[0] == '-') return std::nullopt;
  int64_t n = 0;
  const auto result = std::from_chars(s.data(), s.data() + s.size(), n, base);
  if (result.ec != std::errc() || result.ptr != s.data() + s.size()) return std::nullopt;
  return negative ? -n : n;
}

Value FromDouble(double d, const Value& fallback) {
  if (!(std::fabs(d) < 9.2e18)) return fallback;
  return Value::Int(static_cast<int64_t>(d));
}

Value IntFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "int", args, {"default", "base"});
  const Value fallback = bound.given(0) ? *bound[0] : Value::Int(0);
  const int64_t base = bound.Int(1, 10);
  if (rt.failed()) return {};
  if (input.undefined()) return rt.FailUndefined(input);
  if (input.integral()) return Value::Int(input.as_int());
  if (input.kind() == Kind::kFloat) return FromDouble(input.as_float(), fallback);
  if (!input.is_string()) return fallback;
  if (base >= 2 && base <= 36) {
    if (const auto n = ReadInt(input.text(), static_cast<int>(base))) return Value::Int(*n);
  }
  const auto d = ReadFloat(input.text());
  return d ? FromDouble(*d, fallback) : fallback;
}

Value FloatFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "float", args, {"default"});
  const Value fallback = bound.given(0) ? *bound[0] : Value::Float(0);
  if (input.undefined()) return rt.FailUndefined(input);
  if (input.numeric()) return Value::Float(input.as_float());
  if (!input.is_string()) return fallback;
  const auto d = ReadFloat(input.text());
  return d ? Value::Float(*d) : fallback;
}

Value AbsFilter(Runtime& rt, const Value& input, const CallArgs&) {
  if (input.undefined()) return rt.FailUndefined(input);
  if (input.kind() == Kind::kFloat) return Value::Float(std::fabs(input.as_float()));
  if (!input.integral()) {
    return rt.Fail(absl::StrCat("bad operand type for abs(): '", ToAbsl(TypeName(input)), "'"));
  }
  return input.as_int() < 0 ? Negate(rt, input, false) : Value::Int(input.as_int());
}

Value RoundFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "round", args, {"precision", "method"});
  const int64_t precision = bound.Int(0, 0);
  const std::string_view method = bound.Text(1, "common");
  if (rt.failed()) return {};
  if (method != "common" && method != "ceil" && method != "floor") {
    return rt.Fail("method must be common, ceil or floor");
  }
  if (input.undefined()) return rt.FailUndefined(input);
  if (!input.numeric()) {
    return rt.Fail(
        absl::StrCat("type ", ToAbsl(TypeName(input)), " doesn't define __round__ method"));
  }
  if (precision < -20 || precision > 30) return rt.Fail("round() takes a precision from -20 to 30");
  double scale = 1;
  for (int64_t i = 0; i < std::abs(precision); ++i) scale *= 10;
  if (method != "common") {
    const double scaled = precision >= 0 ? input.as_float() * scale : input.as_float() / scale;
    const double r = method == "ceil" ? std::ceil(scaled) : std::floor(scaled);
    return Value::Float(precision >= 0 ? r / scale : r * scale);
  }
  if (input.integral()) {
    if (precision >= 0) return Value::Int(input.as_int());
    if (precision < -18) return Value::Int(0);
    // Half to even, as Python rounds integers.
    const __int128 unit = static_cast<__int128>(scale), n = input.as_int();
    __int128 q = n / unit, rest = n % unit;
    if (rest < 0) {
      rest += unit;
      --q;
    }
    if (rest * 2 > unit || (rest * 2 == unit && (q & 1) != 0)) ++q;
    return Value::Int(static_cast<int64_t>(q * unit));
  }
  const double d = input.as_float();
  if (!std::isfinite(d)) return input;
  if (precision < 0) return Value::Float(std::nearbyint(d / scale) * scale);
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), d);
  return Value::Float(std::strtod(buffer, nullptr));
}

Value ToJson(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (rt.failed()) return {};
  JsonOptions options;
  options.ensure_ascii = bound.Bool(0, false);
  options.sort_keys = bound.Bool(3, false);
  if (bound.given(1) && !bound[1]->none()) {
    if (bound[1]->is_string()) {
      options.indent = bound[1]->text();
    } else {
      const int64_t width = std::max<int64_t>(bound.Int(1, 0), 0);
      Text spaces(rt);
      if (rt.failed() || !spaces.Repeat(" ", width)) return {};
      options.indent = spaces.Take();
    }
    options.item_separator = ",";
  }
  if (bound.given(2) && !bound[2]->none()) {
    const Value& s = *bound[2];
    if (!s.is_seq() || s.seq().items.size() != 2 || !s.seq().items[0].is_string() ||
        !s.seq().items[1].is_string()) {
      return rt.Fail("tojson(separators) wants two strings");
    }
    options.item_separator = s.seq().items[0].text();
    options.key_separator = s.seq().items[1].text();
  }
  Text out(rt);
  AppendJson(out, rt, input, options);
  return out.Done();
}

Value DefaultFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "default", args, {"default_value", "boolean"});
  if (input.undefined() || (bound.Bool(1, false) && !Truthy(input))) {
    return bound.given(0) ? *bound[0] : rt.Str("");
  }
  return input;
}

}  // namespace

Filter FindTextFilter(std::string_view name) {
  static const std::map<std::string_view, Filter> table = {
      {"upper", AsMethod<kUpper>},
      {"lower", AsMethod<kLower>},
      {"capitalize", AsMethod<kCapitalize>},
      {"trim", AsMethod<kTrim>},
      {"title", TitleFilter},
      {"replace", ReplaceFilter},
      {"string", StringFilter},
      {"safe", SafeFilter},
      {"escape", EscapeFilter},
      {"e", EscapeFilter},
      {"forceescape", ForceEscape},
      {"indent", IndentFilter},
      {"truncate", TruncateFilter},
      {"center", CenterFilter},
      {"format", FormatFilter},
      {"wordcount", WordCount},
      {"urlencode", UrlEncode},
      {"int", IntFilter},
      {"float", FloatFilter},
      {"abs", AbsFilter},
      {"round", RoundFilter},
      {"tojson", ToJson},
      {"default", DefaultFilter},
      {"d", DefaultFilter},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

Value CallFilter(Runtime& rt, std::string_view name, const Value& input, const CallArgs& args) {
  if (rt.failed() || !rt.Step()) return {};
  Filter filter = FindTextFilter(name);
  if (filter == nullptr) filter = FindSequenceFilter(name);
  if (filter == nullptr) return rt.Fail(absl::StrCat("No filter named '", Printable(name), "'."));
  return filter(rt, input, args);
}

}  // namespace tutti::tokenizer::jinja
