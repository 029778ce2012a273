// The values that a template computes with: Python's, as far as chat templates use them.
//
// Ownership: a Value shares its heap object; objects are immutable once built, except namespaces
// and the cursor of a one-pass iterator. Every object made while rendering counts against the
// Runtime's memory and must not outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tutti::tokenizer::jinja {

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kSeq,
  kDict,
  kNamespace,
  kFunction,
  kLoop,
};

// What Python would call the sequence. A generator yields each item once and has no length.
enum class SeqKind : uint8_t { kList, kTuple, kRange, kGenerator, kKeys, kValues, kItems };

// Containers nested deeper than this are refused, so that walking a value cannot exhaust the stack;
// and those that hold more values (a shared one counts each time), so that a walk ends.
inline constexpr int kMaxValueDepth = 128;
inline constexpr int64_t kMaxValueWeight = 4'000'000;

// Base of heap objects; gives its bytes back to the meter of the render that made it.
struct Object {
  virtual ~Object() {
    if (meter != nullptr) *meter -= bytes;
  }
  int64_t* meter = nullptr;
  int64_t bytes = 0;
};

struct StringObject : Object {
  std::string text;   // UTF-8
  bool ascii = true;  // then positions are bytes
};
struct SeqObject;
struct DictObject;
struct NamespaceObject;
struct FunctionObject;
struct LoopObject;

class Value {
 public:
  Value() = default;  // undefined, without a hint
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool b) {
    Value v(Kind::kBool);
    v.int_ = b;
    return v;
  }
  static Value Int(int64_t i) {
    Value v(Kind::kInt);
    v.int_ = i;
    return v;
  }
  static Value Float(double d) {
    Value v(Kind::kFloat);
    v.float_ = d;
    return v;
  }
  // Undefined that says what was missing; `hint` is the text of the error its use raises.
  static Value Missing(std::shared_ptr<StringObject> hint) { return Value(Kind::kUndefined, hint); }
  static Value String(std::shared_ptr<StringObject> s) {
    return Value(Kind::kString, std::move(s));
  }
  static Value Seq(std::shared_ptr<SeqObject> s);
  static Value Dict(std::shared_ptr<DictObject> d);
  static Value Namespace(std::shared_ptr<NamespaceObject> n);
  static Value Function(std::shared_ptr<FunctionObject> f);
  static Value Loop(std::shared_ptr<LoopObject> l);

  Kind kind() const { return kind_; }
  bool undefined() const { return kind_ == Kind::kUndefined; }
  bool none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  bool is_seq() const { return kind_ == Kind::kSeq; }
  bool integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool numeric() const { return integral() || kind_ == Kind::kFloat; }

  // REQUIRES: the kind fits.
  int64_t as_int() const { return int_; }
  double as_float() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const StringObject& string() const { return *static_cast<const StringObject*>(object_.get()); }
  const std::string& text() const { return string().text; }
  const SeqObject& seq() const;
  SeqObject& mutable_seq() const;  // for the cursor of a generator alone
  const DictObject& dict() const;
  NamespaceObject& ns() const;
  const FunctionObject& function() const;
  const std::shared_ptr<Object>& object() const { return object_; }
  LoopObject& loop() const;
  std::string_view hint() const;  // of an undefined value

  // Strings marked safe for HTML (`safe`, `escape`): adding to one escapes the other side.
  bool markup() const { return markup_; }
  Value WithMarkup(bool m) const {
    Value v = *this;
    v.markup_ = m;
    return v;
  }

 private:
  explicit Value(Kind kind, std::shared_ptr<Object> object = nullptr)
      : kind_(kind), object_(std::move(object)) {}

  Kind kind_ = Kind::kUndefined;
  bool markup_ = false;
  union {
    int64_t int_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

struct SeqObject : Object {
  SeqKind seq_kind = SeqKind::kList;
  std::vector<Value> items;
  size_t next = 0;  // generators: the first item not yet taken
  int depth = 1;
  int64_t weight = 1;  // values inside, counted along every path
};

// Keeps the order of insertion, as Python's dict does.
struct DictObject : Object {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  int64_t weight = 1;

  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  // Adds or replaces. REQUIRES: `key` is hashable (see ops.h).
  void Put(const Value& key, Value value);

 private:
  std::unordered_multimap<uint64_t, uint32_t>
      index_;  // made once there are more than a few entries
};

// Mutable attributes (`namespace(...)`), changed by {% set ns.x = ... %}.
struct NamespaceObject : Object {
  std::unordered_map<std::string, Value> attributes;
  std::vector<std::string> order;
};

// Positional and named arguments of one call.
struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Equality of keys and values as Python has it (1 == 1.0 == True); identity for functions, loops
// and namespaces.
bool Equal(const Value& a, const Value& b);
bool Hashable(const Value& v);
// Equal values hash equally. REQUIRES: Hashable(v).
uint64_t HashOf(const Value& v);
bool Truthy(const Value& v);
// Nesting: 0 for scalars.
int DepthOf(const Value& v);
// What a walk over the value costs: 1 for scalars.
int64_t WeightOf(const Value& v);
// "str", "int", "NoneType", ... as in Python's messages.
std::string_view TypeName(const Value& v);

}  // namespace tutti::tokenizer::jinja
