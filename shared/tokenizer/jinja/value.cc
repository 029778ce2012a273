#include "shared/tokenizer/jinja/value.h"

#include "shared/base/hash.h"
#include "shared/tokenizer/jinja/function.h"

namespace tutti::tokenizer::jinja {

Value Value::Seq(std::shared_ptr<SeqObject> s) { return Value(Kind::kSeq, std::move(s)); }
Value Value::Dict(std::shared_ptr<DictObject> d) { return Value(Kind::kDict, std::move(d)); }
Value Value::Namespace(std::shared_ptr<NamespaceObject> n) {
  return Value(Kind::kNamespace, std::move(n));
}
Value Value::Function(std::shared_ptr<FunctionObject> f) {
  return Value(Kind::kFunction, std::move(f));
}
Value Value::Loop(std::shared_ptr<LoopObject> l) { return Value(Kind::kLoop, std::move(l)); }

const SeqObject& Value::seq() const { return *static_cast<const SeqObject*>(object_.get()); }
SeqObject& Value::mutable_seq() const { return *static_cast<SeqObject*>(object_.get()); }
const DictObject& Value::dict() const { return *static_cast<const DictObject*>(object_.get()); }
NamespaceObject& Value::ns() const { return *static_cast<NamespaceObject*>(object_.get()); }
const FunctionObject& Value::function() const {
  return *static_cast<const FunctionObject*>(object_.get());
}
LoopObject& Value::loop() const { return *static_cast<LoopObject*>(object_.get()); }
std::string_view Value::hint() const {
  return object_ == nullptr ? std::string_view("a value is undefined") : std::string_view(text());
}

namespace {

constexpr size_t kIndexFrom = 9;  // entries; below that a scan is quicker

bool NumberEqual(const Value& a, const Value& b) {
  if (a.integral() && b.integral()) return a.as_int() == b.as_int();
  return a.as_float() == b.as_float();
}

bool DictEqual(const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other)) return false;
  }
  return true;
}

bool SeqEqual(const Value& va, const Value& vb) {
  const SeqObject &a = va.seq(), &b = vb.seq();
  if (&a == &b) return true;
  if (a.seq_kind != b.seq_kind || a.items.size() != b.items.size()) return false;
  if (a.seq_kind == SeqKind::kGenerator || a.seq_kind == SeqKind::kValues) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!Equal(a.items[i], b.items[i])) return false;
  }
  return true;
}

}  // namespace

bool Equal(const Value& a, const Value& b) {
  if (a.numeric() && b.numeric()) return NumberEqual(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.text() == b.text();
    case Kind::kSeq:
      return SeqEqual(a, b);
    case Kind::kDict:
      return DictEqual(a.dict(), b.dict());
    default:
      return a.object() == b.object();
  }
}

bool Hashable(const Value& v) {
  if (v.is_dict()) return false;
  if (!v.is_seq()) return true;
  const SeqObject& seq = v.seq();
  if (seq.seq_kind == SeqKind::kGenerator || seq.seq_kind == SeqKind::kRange) return true;
  if (seq.seq_kind != SeqKind::kTuple) return false;
  for (const Value& item : seq.items) {
    if (!Hashable(item)) return false;
  }
  return true;
}

uint64_t HashOf(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return 1;
    case Kind::kNone:
      return 2;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat: {
      double d = v.as_float();  // equal numbers have equal doubles
      if (d == 0) d = 0;        // -0.0 == 0.0
      return Hash64(&d, sizeof d);
    }
    case Kind::kString:
      return Hash64(v.text());
    case Kind::kSeq: {
      uint64_t h = 3;
      if (v.seq().seq_kind != SeqKind::kTuple) return h;
      for (const Value& item : v.seq().items) {
        const uint64_t part = HashOf(item);
        h = Hash64(&part, sizeof part, h);
      }
      return h;
    }
    default: {
      const void* p = v.object().get();
      return Hash64(&p, sizeof p);
    }
  }
}

const Value* DictObject::Find(const Value& key) const {
  if (index_.empty()) {
    for (const auto& [k, v] : entries) {
      if (Equal(k, key)) return &v;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(HashOf(key));
  for (auto it = begin; it != end; ++it) {
    if (Equal(entries[it->second].first, key)) return &entries[it->second].second;
  }
  return nullptr;
}

const Value* DictObject::Find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [k, v] : entries) {
      if (k.is_string() && k.text() == key) return &v;
    }
    return nullptr;
  }
  const auto [begin, end] = index_.equal_range(Hash64(key));
  for (auto it = begin; it != end; ++it) {
    const auto& [k, v] = entries[it->second];
    if (k.is_string() && k.text() == key) return &v;
  }
  return nullptr;
}

void DictObject::Put(const Value& key, Value value) {
  if (const Value* found = Find(key); found != nullptr) {
    *const_cast<Value*>(found) = std::move(value);
    return;
  }
  entries.emplace_back(key, std::move(value));
  if (entries.size() == kIndexFrom) {
    for (uint32_t i = 0; i < entries.size(); ++i) index_.emplace(HashOf(entries[i].first), i);
  } else if (entries.size() > kIndexFrom) {
    index_.emplace(HashOf(key), static_cast<uint32_t>(entries.size() - 1));
  }
}

bool Truthy(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.as_int() != 0;
    case Kind::kFloat:
      return v.as_float() != 0;
    case Kind::kString:
      return !v.text().empty();
    case Kind::kSeq:
      return v.seq().seq_kind == SeqKind::kGenerator || !v.seq().items.empty();
    case Kind::kDict:
      return !v.dict().entries.empty();
    default:
      return true;
  }
}

int DepthOf(const Value& v) {
  if (v.is_seq()) return v.seq().depth;
  if (v.is_dict()) return v.dict().depth;
  // A bound method holds its receiver.
  if (v.kind() == Kind::kLoop) return v.loop().value_depth;
  if (v.kind() == Kind::kFunction) return 1 + DepthOf(v.function().self);
  return 0;
}

int64_t WeightOf(const Value& v) {
  if (v.is_seq()) return v.seq().weight;
  if (v.is_dict()) return v.dict().weight;
  if (v.is_string()) return 1 + static_cast<int64_t>(v.text().size() / 64);
  return 1;
}

std::string_view TypeName(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return v.markup() ? "Markup" : "str";
    case Kind::kSeq:
      switch (v.seq().seq_kind) {
        case SeqKind::kList:
          return "list";
        case SeqKind::kTuple:
          return "tuple";
        case SeqKind::kRange:
          return "range";
        case SeqKind::kGenerator:
          return "generator";
        case SeqKind::kKeys:
          return "dict_keys";
        case SeqKind::kValues:
          return "dict_values";
        case SeqKind::kItems:
          return "dict_items";
      }
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kFunction:
      return v.function().is_macro() ? "Macro" : "builtin_function_or_method";
    case Kind::kLoop:
      return "LoopContext";
  }
  return "object";
}

}  // namespace tutti::tokenizer::jinja
