// Attributes, items and slices, by the rules of Jinja's immutable sandbox: what would change a list
// or dict cannot be reached, nor can names with leading underscores of Python's objects.
#include <algorithm>
#include <array>
#include <limits>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/function.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

// "'dict object'", "'None'": how Jinja names an object in messages about it.
std::string ObjectRepr(const Value& v) {
  if (v.none()) return "None";
  if (v.kind() == Kind::kNamespace) return "jinja2.utils.Namespace object";
  if (v.kind() == Kind::kLoop) return "jinja2.runtime.LoopContext object";
  return absl::StrCat(ToAbsl(TypeName(v)), " object");
}

Value MissingAttribute(Runtime& rt, const Value& object, std::string_view name) {
  return rt.Missing(absl::StrCat("'", ObjectRepr(object), "' has no attribute '",
                                 ToAbsl(Printable(name, 200)), "'"));
}

// Indices below zero count from the end; false when outside.
bool ResolveIndex(int64_t index, int64_t size, int64_t* out) {
  if (index < 0) index += size;
  *out = index;
  return index >= 0 && index < size;
}

Value LoopAttribute(Runtime& rt, const Value& v, std::string_view name) {
  const LoopObject& loop = v.loop();
  const int64_t index = static_cast<int64_t>(loop.index);
  const int64_t length = static_cast<int64_t>(loop.items.size());
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(length - index);
  if (name == "revindex0") return Value::Int(length - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == length);
  if (name == "length") return Value::Int(length);
  if (name == "depth") return Value::Int(1);  // of recursive loops, which there are none of
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") {
    return index > 0 ? loop.items[loop.index - 1] : rt.Missing("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items[loop.index + 1] : rt.Missing("there is no next item");
  }
  if (name == "cycle" || name == "changed") return BindMethod(rt, v, name);
  return MissingAttribute(rt, v, name);
}

// What Python's getattr finds; undefined without a hint and `*found` false otherwise.
Value NativeAttribute(Runtime& rt, const Value& object, std::string_view name, bool* found) {
  *found = true;
  switch (object.kind()) {
    case Kind::kLoop:
      return LoopAttribute(rt, object, name);
    case Kind::kNamespace: {
      const auto& attributes = object.ns().attributes;
      const auto it = attributes.find(std::string(name));
      if (it != attributes.end()) return it->second;
      break;
    }
    case Kind::kFunction:
      if (object.function().is_macro() && name == "name")
        return rt.Str(object.function().macro->text);
      break;
    default:
      if (HasMethod(object, name)) return BindMethod(rt, object, name);
      if (ChangesObject(object, name) || (name.starts_with("__") && name.ends_with("__"))) {
        return rt.Missing(absl::StrCat("access to attribute '", ToAbsl(Printable(name, 200)),
                                       "' of '", ToAbsl(TypeName(object)), "' object is unsafe."));
      }
  }
  *found = false;
  return {};
}

// object[key] alone; `*found` false when Python would raise LookupError or TypeError.
Value NativeItem(Runtime& rt, const Value& object, const Value& key, bool* found) {
  *found = false;
  if (object.is_dict()) {
    if (!Hashable(key)) return {};
    rt.Step(WeightOf(key));
    const Value* value = object.dict().Find(key);
    *found = value != nullptr;
    return *found ? *value : Value();
  }
  if (!key.integral()) return {};
  int64_t index = 0;
  if (object.is_string()) {
    const StringObject& s = object.string();
    if (!ResolveIndex(key.as_int(), Length(rt, object), &index)) return {};
    *found = true;
    const size_t begin = s.ascii ? static_cast<size_t>(index) : OffsetOf(s.text, index);
    const size_t size = static_cast<size_t>(DecodeAt(s.text, begin).bytes);
    return rt.Str(s.text.substr(begin, size));
  }
  if (object.is_seq()) {
    const SeqObject& seq = object.seq();
    if (seq.seq_kind != SeqKind::kList && seq.seq_kind != SeqKind::kTuple &&
        seq.seq_kind != SeqKind::kRange) {
      return {};
    }
    if (!ResolveIndex(key.as_int(), static_cast<int64_t>(seq.items.size()), &index)) return {};
    *found = true;
    return seq.items[static_cast<size_t>(index)];
  }
  return {};
}

}  // namespace

Value GetAttribute(Runtime& rt, const Value& object, std::string_view name) {
  if (rt.failed()) return {};
  if (object.undefined()) return rt.FailUndefined(object);
  bool found = false;
  Value value = NativeAttribute(rt, object, name, &found);
  if (found) return value;
  if (object.numeric()) {  // Python's numbers
    const bool integral = object.integral();
    if (name == "real" || (integral && name == "numerator"))
      return integral ? Value::Int(object.as_int()) : object;
    if (name == "imag") return integral ? Value::Int(0) : Value::Float(0.0);
    if (integral && name == "denominator") return Value::Int(1);
  }
  if (object.is_dict()) {
    if (const Value* item = object.dict().Find(name); item != nullptr) return *item;
  }
  return MissingAttribute(rt, object, name);
}

Value GetItem(Runtime& rt, const Value& object, const Value& key) {
  if (rt.failed()) return {};
  if (object.undefined()) return rt.FailUndefined(object);
  bool found = false;
  Value value = NativeItem(rt, object, key, &found);
  if (found || rt.failed()) return value;
  if (key.is_string()) {
    value = NativeAttribute(rt, object, key.text(), &found);
    return found ? value : MissingAttribute(rt, object, key.text());
  }
  return rt.Missing(absl::StrCat(ObjectRepr(object), " has no element ", ReprOf(rt, key)));
}

Value GetSlice(Runtime& rt, const Value& object, const Value& start, const Value& stop,
               const Value& step_value) {
  if (rt.failed()) return {};
  if (object.undefined()) return rt.FailUndefined(object);
  for (const Value* v : {&start, &stop, &step_value}) {
    if (!v->none() && !v->integral()) {
      return rt.Fail("slice indices must be integers or None");
    }
  }
  const bool sliceable =
      object.is_string() || (object.is_seq() && (object.seq().seq_kind == SeqKind::kList ||
                                                 object.seq().seq_kind == SeqKind::kTuple ||
                                                 object.seq().seq_kind == SeqKind::kRange));
  if (!sliceable) {
    return rt.Fail(object.is_dict() ? std::string("unhashable type: 'slice'")
                                    : absl::StrCat("'", ToAbsl(TypeName(object)),
                                                   "' object is not subscriptable"));
  }
  const int64_t step = step_value.none() ? 1 : step_value.as_int();
  if (step == 0) return rt.Fail("slice step cannot be zero");
  const int64_t size = Length(rt, object);
  const int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto clamp = [&](const Value& v, int64_t fallback) {
    if (v.none()) return fallback;
    int64_t i = v.as_int();
    if (i < 0) i = i < -size ? low : std::max(i + size, low);
    return std::min(i, high);
  };
  const int64_t begin = clamp(start, step < 0 ? high : low);
  const int64_t end = clamp(stop, step < 0 ? low : high);
  int64_t count = 0;
  if (step > 0 && begin < end) count = (end - begin - 1) / step + 1;
  if (step < 0 && begin > end) {
    const uint64_t stride = -static_cast<uint64_t>(step);
    count = static_cast<int64_t>(static_cast<uint64_t>(begin - end - 1) / stride) + 1;
  }
  // From here on positions stay inside [0, size), so no sum overflows.
  if (object.is_string()) {
    const std::string& s = object.text();
    if (step == 1) {
      if (count == 0) return rt.Str("");
      if (object.string().ascii) {
        return rt.Str(s.substr(static_cast<size_t>(begin), static_cast<size_t>(count)));
      }
      const size_t from = OffsetOf(s, begin);
      const size_t length = OffsetOf(std::string_view(s).substr(from), count);
      return rt.Str(s.substr(from, length));
    }
    const std::vector<Value> characters = Iterate(rt, object);
    Text out(rt);
    for (int64_t i = 0; i < count && !rt.failed(); ++i) {
      out.Add(characters[static_cast<size_t>(begin + i * step)].text());
    }
    return out.Done();
  }
  if (!rt.Room(count * static_cast<int64_t>(sizeof(Value)))) return {};
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    items.push_back(object.seq().items[static_cast<size_t>(begin + i * step)]);
  }
  return rt.List(std::move(items), object.seq().seq_kind);
}

}  // namespace tutti::tokenizer::jinja
