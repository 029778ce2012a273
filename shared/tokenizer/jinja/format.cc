// Values as text: str(), repr(), json.dumps, HTML.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/function.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

void AppendStringRepr(Text& out, std::string_view s) {
  const bool single = s.find('\'') != std::string_view::npos;
  const char quote = single && s.find('"') == std::string_view::npos ? '"' : '\'';
  std::string r(1, quote);
  char hex[16];
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    if (c.value == static_cast<uint32_t>(quote) || c.value == '\\') {
      r += '\\';
      r += static_cast<char>(c.value);
    } else if (c.value == '\n') {
      r += "\\n";
    } else if (c.value == '\r') {
      r += "\\r";
    } else if (c.value == '\t') {
      r += "\\t";
    } else if (!IsPrintable(c.value)) {
      const char* form = c.value < 0x100 ? "\\x%02x" : c.value < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(hex, sizeof hex, form, c.value);
      r += hex;
    } else {
      r.append(s.substr(i, static_cast<size_t>(c.bytes)));
    }
    i += static_cast<size_t>(c.bytes);
    if (r.size() > 4096) {
      if (!out.Add(r)) return;
      r.clear();
    }
  }
  r += quote;
  out.Add(r);
}

void AppendItems(Text& out, Runtime& rt, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size() && !rt.failed(); ++i) {
    if (i > 0) out.Add(", ");
    AppendRepr(out, rt, items[i]);
  }
}

void AppendSeqRepr(Text& out, Runtime& rt, const Value& v) {
  const SeqObject& seq = v.seq();
  switch (seq.seq_kind) {
    case SeqKind::kGenerator:
      out.Add("<generator object>");
      return;
    case SeqKind::kRange: {
      const int64_t first = seq.items.empty() ? 0 : seq.items.front().as_int();
      const int64_t step = seq.items.size() < 2 ? 1 : seq.items[1].as_int() - first;
      const int64_t end = seq.items.empty() ? 0 : seq.items.back().as_int() + step;
      out.Add(absl::StrCat("range(", first, ", ", end));
      if (step != 1) out.Add(absl::StrCat(", ", step));
      out.Add(")");
      return;
    }
    case SeqKind::kTuple:
      out.Add("(");
      AppendItems(out, rt, seq.items);
      out.Add(seq.items.size() == 1 ? ",)" : ")");
      return;
    case SeqKind::kList:
      out.Add("[");
      AppendItems(out, rt, seq.items);
      out.Add("]");
      return;
    default:
      out.Add(TypeName(v));
      out.Add("([");
      AppendItems(out, rt, seq.items);
      out.Add("])");
  }
}

}  // namespace

std::string FloatRepr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same double, in scientific form: d.ddde[+-]xx.
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  std::string_view s(buffer, static_cast<size_t>(end - buffer));
  std::string sign;
  if (s.front() == '-') {
    sign = "-";
    s.remove_prefix(1);
  }
  const size_t e = s.find('e');
  int exponent = 0;
  const char* exponent_text = s.data() + e + (s[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_text, s.data() + s.size(), exponent);
  std::string digits(1, s[0]);
  if (e > 2) digits += s.substr(2, e - 2);
  const int num_digits = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (num_digits > 1) out += "." + digits.substr(1);
    std::snprintf(buffer, sizeof buffer, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return out + buffer;
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (num_digits <= exponent + 1) {
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - num_digits), '0') + ".0";
  }
  return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

void AppendRepr(Text& out, Runtime& rt, const Value& v) {
  if (!rt.Step()) return;
  switch (v.kind()) {
    case Kind::kUndefined:
      out.Add("Undefined");
      return;
    case Kind::kNone:
      out.Add("None");
      return;
    case Kind::kBool:
      out.Add(v.as_int() != 0 ? "True" : "False");
      return;
    case Kind::kInt:
      out.Add(std::to_string(v.as_int()));
      return;
    case Kind::kFloat:
      out.Add(FloatRepr(v.as_float()));
      return;
    case Kind::kString:
      if (v.markup()) out.Add("Markup(");
      AppendStringRepr(out, v.text());
      if (v.markup()) out.Add(")");
      return;
    case Kind::kSeq:
      AppendSeqRepr(out, rt, v);
      return;
    case Kind::kDict: {
      out.Add("{");
      bool first = true;
      for (const auto& [key, value] : v.dict().entries) {
        if (rt.failed()) return;
        if (!first) out.Add(", ");
        first = false;
        AppendRepr(out, rt, key);
        out.Add(": ");
        AppendRepr(out, rt, value);
      }
      out.Add("}");
      return;
    }
    case Kind::kNamespace:
      out.Add("<Namespace>");  // its attributes may hold itself
      return;
    case Kind::kFunction:
      out.Add(v.function().is_macro() ? "<Macro '" + v.function().macro->text + "'>"
                                      : "<function " + v.function().name + ">");
      return;
    case Kind::kLoop:
      out.Add(absl::StrCat("<LoopContext ", v.loop().index + 1, "/", v.loop().items.size(), ">"));
      return;
  }
}

void AppendStr(Text& out, Runtime& rt, const Value& v) {
  if (v.is_string()) {
    out.Add(v.text());
  } else if (!v.undefined()) {
    AppendRepr(out, rt, v);
  }
}

Value ToStr(Runtime& rt, const Value& v) {
  if (rt.failed()) return {};
  if (v.is_string()) return v;
  Text out(rt);
  AppendStr(out, rt, v);
  return out.Done();
}

std::string ReprOf(Runtime& rt, const Value& v) {
  Text out(rt);
  AppendRepr(out, rt, v);
  return out.Take();
}

namespace {

void AppendJsonString(Text& out, std::string_view s, bool ensure_ascii) {
  std::string r = "\"";
  char hex[16];
  for (size_t i = 0; i < s.size();) {
    const CodePoint c = DecodeAt(s, i);
    switch (c.value) {
      case '"':
        r += "\\\"";
        break;
      case '\\':
        r += "\\\\";
        break;
      case '\n':
        r += "\\n";
        break;
      case '\r':
        r += "\\r";
        break;
      case '\t':
        r += "\\t";
        break;
      case '\b':
        r += "\\b";
        break;
      case '\f':
        r += "\\f";
        break;
      default:
        if (c.value >= 0x10000 && ensure_ascii) {
          std::snprintf(hex, sizeof hex, "\\u%04x\\u%04x", 0xD800 + ((c.value - 0x10000) >> 10),
                        0xDC00 + ((c.value - 0x10000) & 0x3FF));
          r += hex;
        } else if (c.value < 0x20 || (ensure_ascii && c.value > 0x7E)) {
          std::snprintf(hex, sizeof hex, "\\u%04x", c.value);
          r += hex;
        } else {
          r.append(s.substr(i, static_cast<size_t>(c.bytes)));
        }
    }
    i += static_cast<size_t>(c.bytes);
    if (r.size() > 4096) {
      if (!out.Add(r)) return;
      r.clear();
    }
  }
  r += '"';
  out.Add(r);
}

std::string JsonScalar(const Value& v) {
  switch (v.kind()) {
    case Kind::kNone:
      return "null";
    case Kind::kBool:
      return v.as_int() != 0 ? "true" : "false";
    case Kind::kInt:
      return std::to_string(v.as_int());
    default:
      break;
  }
  const double d = v.as_float();
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
  return FloatRepr(d);
}

class JsonWriter {
 public:
  JsonWriter(Text& out, Runtime& rt, const JsonOptions& options)
      : out_(out), rt_(rt), options_(options) {}

  void Write(const Value& v) {
    if (!rt_.Step()) return;
    switch (v.kind()) {
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat:
        out_.Add(JsonScalar(v));
        return;
      case Kind::kString:
        AppendJsonString(out_, v.text(), options_.ensure_ascii);
        return;
      case Kind::kDict:
        WriteDict(v.dict());
        return;
      case Kind::kSeq:
        if (v.seq().seq_kind == SeqKind::kList || v.seq().seq_kind == SeqKind::kTuple) {
          WriteList(v.seq());
          return;
        }
        break;
      default:
        break;
    }
    rt_.Fail(absl::StrCat("Object of type ", ToAbsl(TypeName(v)), " is not JSON serializable"));
  }

 private:
  void NewLine() {
    if (!options_.indent) return;
    out_.Add("\n");
    out_.Repeat(*options_.indent, level_);
  }

  void WriteList(const SeqObject& seq) {
    if (seq.items.empty()) {
      out_.Add("[]");
      return;
    }
    out_.Add("[");
    ++level_;
    for (size_t i = 0; i < seq.items.size() && !rt_.failed(); ++i) {
      if (i > 0) out_.Add(options_.item_separator);
      NewLine();
      Write(seq.items[i]);
    }
    --level_;
    NewLine();
    out_.Add("]");
  }

  void WriteDict(const DictObject& dict) {
    if (dict.entries.empty()) {
      out_.Add("{}");
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (options_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto* a, const auto* b) { return Less(rt_, a->first, b->first); });
    }
    out_.Add("{");
    ++level_;
    bool first = true;
    for (const auto* entry : entries) {
      if (rt_.failed()) return;
      if (!first) out_.Add(options_.item_separator);
      first = false;
      NewLine();
      const Value& key = entry->first;
      if (key.is_string()) {
        AppendJsonString(out_, key.text(), options_.ensure_ascii);
      } else if (key.numeric() || key.none()) {
        out_.Add("\"" + JsonScalar(key) + "\"");
      } else {
        rt_.Fail(absl::StrCat("keys must be str, int, float, bool or None, not ",
                              ToAbsl(TypeName(key))));
        return;
      }
      out_.Add(options_.key_separator);
      Write(entry->second);
    }
    --level_;
    NewLine();
    out_.Add("}");
  }

  Text& out_;
  Runtime& rt_;
  const JsonOptions& options_;
  int64_t level_ = 0;
};

}  // namespace

void AppendJson(Text& out, Runtime& rt, const Value& v, const JsonOptions& options) {
  JsonWriter(out, rt, options).Write(v);
}

Value EscapeHtml(Runtime& rt, const Value& v) {
  if (rt.failed() || v.markup()) return v;
  const Value s = ToStr(rt, v);
  if (rt.failed()) return {};
  Text out(rt);
  const std::string& text = s.text();
  size_t done = 0;
  for (size_t i = 0; i < text.size() && !rt.failed(); ++i) {
    std::string_view entity;
    switch (text[i]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '"':
        entity = "&#34;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      default:
        continue;
    }
    out.Add(std::string_view(text).substr(done, i - done));
    out.Add(entity);
    done = i + 1;
  }
  out.Add(std::string_view(text).substr(done));
  return out.Done().WithMarkup(true);
}

}  // namespace tutti::tokenizer::jinja
