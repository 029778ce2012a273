#include "shared/tokenizer/jinja/string_methods.h"

#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

template <typename F>
void ForEach(std::string_view s, F f) {
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    f(c.value, s.substr(i, static_cast<size_t>(c.bytes)));
    i += static_cast<size_t>(c.bytes);
  }
}

template <bool kLeft, bool kRight>
Value StripMethod(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "strip", args, {"chars"});
  if (rt.failed()) return {};
  if (!bound.given(0) || bound[0]->none())
    return rt.Str(Strip(self.text(), nullptr, kLeft, kRight));
  const std::string_view chars = bound.Text(0, "");
  if (!rt.Step(static_cast<int64_t>(chars.size() * (self.text().size() + 1) / 64))) return {};
  return rt.Str(Strip(self.text(), &chars, kLeft, kRight));
}

Value Upper(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "upper", args, {});
  return rt.Room(static_cast<int64_t>(self.text().size() * 3)) ? rt.Str(ToUpper(self.text()))
                                                               : Value();
}
Value Lower(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "lower", args, {});
  return rt.Room(static_cast<int64_t>(self.text().size() * 3)) ? rt.Str(ToLower(self.text()))
                                                               : Value();
}

Value Capitalize(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "capitalize", args, {});
  if (rt.failed() || self.text().empty()) return self;
  const std::string lower = ToLower(self.text());
  std::string out;
  AppendTitle(out, DecodeAt(self.text(), 0).value);
  // The lowered first character may differ in bytes from the original one.
  std::string first;
  AppendLower(first, DecodeAt(self.text(), 0).value);
  out += std::string_view(lower).substr(std::min(first.size(), lower.size()));
  return rt.Str(std::move(out));
}

Value Title(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "title", args, {});
  std::string out;
  bool in_word = false;
  ForEach(self.text(), [&](uint32_t c, std::string_view) {
    if (in_word) {
      AppendLower(out, c);
    } else {
      AppendTitle(out, c);
    }
    in_word = IsUpper(c) || IsLower(c);
  });
  return rt.Str(std::move(out));
}

Value SwapCase(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "swapcase", args, {});
  std::string out;
  ForEach(self.text(), [&](uint32_t c, std::string_view) {
    if (IsUpper(c)) {
      AppendLower(out, c);
    } else {
      AppendUpper(out, c);
    }
  });
  return rt.Str(std::move(out));
}

Value Replace(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "replace", args, {"old", "new", "count"}, 2);
  const std::string_view from = bound.Text(0, ""), to = bound.Text(1, "");
  const int64_t count = bound.Int(2, -1);
  return rt.failed() ? Value() : ReplaceAll(rt, self.text(), from, to, count);
}

// The separator of split; fails when it is empty.
std::string_view Separator(Runtime& rt, const BoundArgs& bound, bool* white_space) {
  *white_space = !bound.given(0) || bound[0]->none();
  if (*white_space) return {};
  const std::string_view sep = bound.Text(0, "");
  if (!rt.failed() && sep.empty()) rt.Fail("empty separator");
  return sep;
}

Value ToList(Runtime& rt, const std::vector<std::string_view>& parts) {
  if (!rt.Room(static_cast<int64_t>(parts.size() * (sizeof(Value) + sizeof(StringObject)))))
    return {};
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view p : parts) {
    items.push_back(rt.Str(p));
    if (rt.failed()) return {};
  }
  return rt.List(std::move(items));
}

std::vector<std::string_view> SplitSpace(std::string_view s, int64_t max, bool from_right) {
  std::vector<std::string_view> parts;
  if (!from_right) {
    s = Strip(s, nullptr, true, false);
    while (!s.empty()) {
      if (static_cast<int64_t>(parts.size()) == max) {
        parts.push_back(s);
        break;
      }
      size_t end = 0;
      while (end < s.size() && !IsSpace(DecodeAt(s, end).value))
        end += static_cast<size_t>(DecodeAt(s, end).bytes);
      parts.push_back(s.substr(0, end));
      s = Strip(s.substr(end), nullptr, true, false);
    }
    return parts;
  }
  s = Strip(s, nullptr, false, true);
  while (!s.empty()) {
    if (static_cast<int64_t>(parts.size()) == max) {
      parts.push_back(s);
      break;
    }
    size_t begin = s.size();
    while (begin > 0) {
      size_t previous = begin - 1;
      while (previous > 0 && (s[previous] & 0xC0) == 0x80) --previous;
      if (IsSpace(DecodeAt(s, previous).value)) break;
      begin = previous;
    }
    parts.push_back(s.substr(begin));
    s = Strip(s.substr(0, begin), nullptr, false, true);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

template <bool kFromRight>
Value Split(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "split", args, {"sep", "maxsplit"});
  bool white_space = false;
  const std::string_view sep = Separator(rt, bound, &white_space);
  int64_t max = bound.Int(1, -1);
  if (rt.failed()) return {};
  if (max < 0) max = kAll;
  std::string_view s = self.text();
  // A view for each part at worst, before they are counted as values.
  if (!rt.Room(static_cast<int64_t>(s.size() * sizeof(std::string_view) / 2))) return {};
  if (white_space) return ToList(rt, SplitSpace(s, max, kFromRight));
  std::vector<std::string_view> parts;
  while (static_cast<int64_t>(parts.size()) < max) {
    const size_t at = kFromRight ? s.rfind(sep) : s.find(sep);
    if (at == std::string_view::npos) break;
    parts.push_back(kFromRight ? s.substr(at + sep.size()) : s.substr(0, at));
    s = kFromRight ? s.substr(0, at) : s.substr(at + sep.size());
  }
  parts.push_back(s);
  if (kFromRight) std::reverse(parts.begin(), parts.end());
  return ToList(rt, parts);
}

template <bool kFromRight>
Value Partition(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "partition", args, {"sep"}, 1);
  const std::string_view sep = bound.Text(0, "");
  if (rt.failed()) return {};
  if (sep.empty()) return rt.Fail("empty separator");
  const std::string_view s = self.text();
  const size_t at = kFromRight ? s.rfind(sep) : s.find(sep);
  if (at == std::string_view::npos) {
    if (kFromRight) return rt.Tuple({rt.Str(""), rt.Str(""), self});
    return rt.Tuple({self, rt.Str(""), rt.Str("")});
  }
  return rt.Tuple({rt.Str(s.substr(0, at)), rt.Str(sep), rt.Str(s.substr(at + sep.size()))});
}

Value SplitLinesMethod(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "splitlines", args, {"keepends"});
  if (!rt.Room(static_cast<int64_t>(self.text().size() * sizeof(std::string_view)))) return {};
  return ToList(rt, SplitLines(self.text(), bound.Bool(0, false)));
}

// `self` between the code points start and end, which count from the end when negative.
std::string_view Window(Runtime& rt, const BoundArgs& bound, const Value& self, int64_t* first) {
  const int64_t size = Length(rt, self);
  const auto clamp = [&](size_t i, int64_t fallback) {
    int64_t v = bound.given(i) && bound[i]->none() ? fallback : bound.Int(i, fallback);
    if (v < 0) v = v < -size ? 0 : v + size;
    return v;
  };
  const int64_t start = clamp(1, 0), end = std::min(clamp(2, size), size);
  *first = start;
  if (start > end) return {};
  const std::string_view s = self.text();
  const size_t from = OffsetOf(s, start);
  return s.substr(from, OffsetOf(s.substr(from), end - start));
}

template <bool kEnd>
Value StartsWith(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, kEnd ? "endswith" : "startswith", args, {"prefix", "start", "end"}, 1);
  int64_t first = 0;
  if (rt.failed()) return {};
  const std::string_view s = Window(rt, bound, self, &first);
  const bool outside = first > Length(rt, self);
  const auto test = [&](const Value& v) {
    if (!v.is_string()) {
      rt.Fail(absl::StrCat(kEnd ? "endswith" : "startswith",
                           " first arg must be str or a tuple of str, not ", ToAbsl(TypeName(v))));
      return false;
    }
    return !outside && (kEnd ? s.ends_with(v.text()) : s.starts_with(v.text()));
  };
  if (!bound[0]->is_seq() || bound[0]->seq().seq_kind != SeqKind::kTuple)
    return Value::Bool(test(*bound[0]));
  for (const Value& v : bound[0]->seq().items) {
    if (test(v)) return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool kRight, bool kMustFind>
Value FindMethod(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "find", args, {"sub", "start", "end"}, 1);
  const std::string_view sub = bound.Text(0, "");
  int64_t first = 0;
  if (rt.failed()) return {};
  const std::string_view s = Window(rt, bound, self, &first);
  const size_t at = first > Length(rt, self) ? std::string_view::npos
                    : kRight                 ? s.rfind(sub)
                                             : s.find(sub);
  if (at != std::string_view::npos) return Value::Int(first + CountCodePoints(s.substr(0, at)));
  return kMustFind ? rt.Fail("substring not found") : Value::Int(-1);
}

Value Count(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "count", args, {"sub", "start", "end"}, 1);
  const std::string_view sub = bound.Text(0, "");
  int64_t first = 0, n = 0;
  if (rt.failed()) return {};
  std::string_view s = Window(rt, bound, self, &first);
  if (first > Length(rt, self)) return Value::Int(0);
  if (sub.empty()) return Value::Int(CountCodePoints(s) + 1);
  for (size_t at = s.find(sub); at != std::string_view::npos; at = s.find(sub, at + sub.size()))
    ++n;
  return Value::Int(n);
}

template <bool kSuffix>
Value RemovePrefix(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "removeprefix", args, {"prefix"}, 1);
  const std::string_view part = bound.Text(0, "");
  std::string_view s = self.text();
  if (rt.failed() || !(kSuffix ? s.ends_with(part) : s.starts_with(part))) return self;
  return rt.Str(kSuffix ? s.substr(0, s.size() - part.size()) : s.substr(part.size()));
}

Value Join(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "join", args, {"iterable"}, 1);
  if (rt.failed()) return {};
  Text out(rt);
  size_t i = 0;
  for (const Value& item : Iterate(rt, *bound[0])) {
    if (!item.is_string()) {
      return rt.Fail(absl::StrCat("sequence item ", i, ": expected str instance, ",
                                  ToAbsl(TypeName(item)), " found"));
    }
    if (i++ > 0) out.Add(self.text());
    if (!out.Add(item.text())) return {};
  }
  return out.Done();
}

enum class Side { kLeft, kRight, kBoth, kZero };
template <Side kSide>
Value Justify(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "just", args, {"width", "fillchar"}, 1);
  const std::string_view fill = kSide == Side::kZero ? "0" : bound.Text(1, " ");
  const int64_t width = bound.Int(0, 0);
  if (rt.failed()) return {};
  if (CountCodePoints(fill) != 1)
    return rt.Fail("The fill character must be exactly one character long");
  const int64_t size = Length(rt, self);
  if (width <= size) return self;
  const int64_t margin = width - size;
  Text out(rt);
  std::string_view s = self.text();
  if (kSide == Side::kZero && !s.empty() && (s[0] == '+' || s[0] == '-')) {
    out.Add(s.substr(0, 1));
    s.remove_prefix(1);
  }
  const int64_t left = kSide == Side::kLeft   ? 0
                       : kSide == Side::kBoth ? margin / 2 + (margin & width & 1)
                                              : margin;
  out.Repeat(fill, left);
  out.Add(s);
  out.Repeat(fill, margin - left);
  return out.Done();
}

Value ExpandTabs(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "expandtabs", args, {"tabsize"});
  const int64_t tab = bound.Int(0, 8);
  Text out(rt);
  int64_t column = 0;
  ForEach(self.text(), [&](uint32_t c, std::string_view bytes) {
    if (c == '\t') {
      if (tab > 0) {
        out.Repeat(" ", tab - column % tab);
        column += tab - column % tab;
      }
      return;
    }
    out.Add(bytes);
    column = c == '\n' || c == '\r' ? 0 : column + 1;
  });
  return out.Done();
}

template <bool (*kTest)(uint32_t)>
Value IsAll(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "is...", args, {});
  bool all = !self.text().empty();
  ForEach(self.text(), [&](uint32_t c, std::string_view) { all = all && kTest(c); });
  return Value::Bool(all);
}
bool Alnum(uint32_t c) { return IsAlpha(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c); }
bool Ascii(uint32_t c) { return c < 0x80; }

Value IsAsciiMethod(Runtime& rt, const Value& self, const CallArgs& args) {
  return self.text().empty() ? Value::Bool(true) : IsAll<Ascii>(rt, self, args);
}
Value IsLowerMethod(Runtime&, const Value& self, const CallArgs&) {
  return Value::Bool(IsLowerText(self.text()));
}
Value IsUpperMethod(Runtime&, const Value& self, const CallArgs&) {
  return Value::Bool(IsUpperText(self.text()));
}

Value IsTitle(Runtime&, const Value& self, const CallArgs&) {
  bool ok = true, cased = false, in_word = false;
  ForEach(self.text(), [&](uint32_t c, std::string_view) {
    if (IsUpper(c) || IsTitleLetter(c)) {
      ok = ok && !in_word;
      in_word = cased = true;
    } else if (IsLower(c)) {
      ok = ok && in_word;
      in_word = cased = true;
    } else {
      in_word = false;
    }
  });
  return Value::Bool(ok && cased);
}

Value IsIdentifier(Runtime&, const Value& self, const CallArgs&) {
  bool ok = !self.text().empty(), first = true;
  ForEach(self.text(), [&](uint32_t c, std::string_view) {
    ok = ok && (c == '_' || IsAlpha(c) || (!first && IsDecimal(c)));
    first = false;
  });
  return Value::Bool(ok);
}

Value Format(Runtime& rt, const Value& self, const CallArgs& args) {
  return BraceFormat(rt, self.text(), args);
}

}  // namespace

bool IsLowerText(std::string_view s) {
  bool lower = false, upper = false;
  ForEach(s, [&](uint32_t c, std::string_view) {
    lower = lower || IsLower(c);
    upper = upper || IsUpper(c) || IsTitleLetter(c);
  });
  return lower && !upper;
}

bool IsUpperText(std::string_view s) {
  bool lower = false, upper = false;
  ForEach(s, [&](uint32_t c, std::string_view) {
    lower = lower || IsLower(c) || IsTitleLetter(c);
    upper = upper || IsUpper(c);
  });
  return upper && !lower;
}

std::vector<std::string_view> SplitLines(std::string_view s, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    size_t next = i + static_cast<size_t>(c.bytes);
    const bool end = (c.value >= 0x0A && c.value <= 0x0D) || (c.value >= 0x1C && c.value <= 0x1E) ||
                     c.value == 0x85 || c.value == 0x2028 || c.value == 0x2029;
    if (end) {
      if (c.value == '\r' && next < s.size() && s[next] == '\n') ++next;
      lines.push_back(s.substr(begin, (keep_ends ? next : i) - begin));
      begin = next;
    }
    i = next;
  }
  if (begin < s.size()) lines.push_back(s.substr(begin));
  return lines;
}

Value ReplaceAll(Runtime& rt, std::string_view s, std::string_view from, std::string_view to,
                 int64_t count) {
  if (count < 0) count = kAll;
  Text out(rt);
  if (from.empty()) {  // before every character, and at the end
    for (size_t i = 0; i < s.size() && !rt.failed();) {
      if (count-- > 0) out.Add(to);
      const size_t n = static_cast<size_t>(DecodeAt(s, i).bytes);
      out.Add(s.substr(i, n));
      i += n;
    }
    if (count > 0) out.Add(to);
    return out.Done();
  }
  size_t done = 0;
  for (size_t at = s.find(from); at != std::string_view::npos && count > 0 && !rt.failed();
       at = s.find(from, done), --count) {
    out.Add(s.substr(done, at - done));
    out.Add(to);
    done = at + from.size();
  }
  out.Add(s.substr(done));
  return out.Done();
}

StringMethod FindStringMethod(std::string_view name) {
  static const std::map<std::string_view, StringMethod> table = {
      {"strip", StripMethod<true, true>},
      {"lstrip", StripMethod<true, false>},
      {"rstrip", StripMethod<false, true>},
      {"upper", Upper},
      {"lower", Lower},
      {"casefold", Lower},
      {"capitalize", Capitalize},
      {"title", Title},
      {"swapcase", SwapCase},
      {"replace", Replace},
      {"split", Split<false>},
      {"rsplit", Split<true>},
      {"partition", Partition<false>},
      {"rpartition", Partition<true>},
      {"splitlines", SplitLinesMethod},
      {"startswith", StartsWith<false>},
      {"endswith", StartsWith<true>},
      {"find", FindMethod<false, false>},
      {"rfind", FindMethod<true, false>},
      {"index", FindMethod<false, true>},
      {"rindex", FindMethod<true, true>},
      {"count", Count},
      {"removeprefix", RemovePrefix<false>},
      {"removesuffix", RemovePrefix<true>},
      {"join", Join},
      {"ljust", Justify<Side::kLeft>},
      {"rjust", Justify<Side::kRight>},
      {"center", Justify<Side::kBoth>},
      {"zfill", Justify<Side::kZero>},
      {"expandtabs", ExpandTabs},
      {"format", Format},
      {"isalpha", IsAll<IsAlpha>},
      {"isdigit", IsAll<IsDigit>},
      {"isdecimal", IsAll<IsDecimal>},
      {"isnumeric", IsAll<IsNumeric>},
      {"isalnum", IsAll<Alnum>},
      {"isspace", IsAll<IsSpace>},
      {"isascii", IsAsciiMethod},
      {"islower", IsLowerMethod},
      {"isupper", IsUpperMethod},
      {"istitle", IsTitle},
      {"isidentifier", IsIdentifier},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace tutti::tokenizer::jinja
