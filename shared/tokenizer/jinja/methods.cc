#include "shared/tokenizer/jinja/methods.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/function.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/string_methods.h"

namespace tutti::tokenizer::jinja {

BoundArgs::BoundArgs(Runtime& rt, std::string_view function, const CallArgs& args,
                     std::initializer_list<std::string_view> names, size_t required)
    : rt_(rt), function_(function) {
  TUTTI_DCHECK(names.size() <= kMax);
  if (args.positional.size() > names.size()) {
    rt.Fail(absl::StrCat(ToAbsl(function), "() takes at most ", names.size(), " argument(s), got ",
                         args.positional.size()));
    return;
  }
  for (size_t i = 0; i < args.positional.size(); ++i) slots_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto* at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) {
      rt.Fail(absl::StrCat(ToAbsl(function), "() got an unexpected keyword argument '",
                           Printable(name), "'"));
      return;
    }
    const Value*& slot = slots_[at - names.begin()];
    if (slot != nullptr) {
      rt.Fail(absl::StrCat(ToAbsl(function), "() got multiple values for argument '",
                           Printable(name), "'"));
      return;
    }
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (slots_[i] == nullptr) {
      rt.Fail(absl::StrCat(ToAbsl(function), "() is missing its argument '",
                           ToAbsl(*(names.begin() + i)), "'"));
      return;
    }
  }
}

int64_t BoundArgs::Int(size_t i, int64_t fallback) const {
  if (slots_[i] == nullptr || rt_.failed()) return fallback;
  if (slots_[i]->integral()) return slots_[i]->as_int();
  rt_.Fail(absl::StrCat(ToAbsl(function_), "() wants an integer, got '",
                        ToAbsl(TypeName(*slots_[i])), "'"));
  return fallback;
}

bool BoundArgs::Bool(size_t i, bool fallback) const {
  return slots_[i] == nullptr ? fallback : Truthy(*slots_[i]);
}

std::string_view BoundArgs::Text(size_t i, std::string_view fallback) const {
  if (slots_[i] == nullptr || rt_.failed()) return fallback;
  if (slots_[i]->is_string()) return slots_[i]->text();
  rt_.Fail(absl::StrCat(ToAbsl(function_), "() wants a string, got '", ToAbsl(TypeName(*slots_[i])),
                        "'"));
  return fallback;
}

namespace {

using Method = Value (*)(Runtime&, const Value&, const CallArgs&);

Value DictGet(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "get", args, {"key", "default"}, 1);
  if (rt.failed()) return {};
  if (!Hashable(*bound[0])) {
    return rt.Fail(absl::StrCat("unhashable type: '", ToAbsl(TypeName(*bound[0])), "'"));
  }
  if (!rt.Step(WeightOf(*bound[0]))) return {};
  const Value* found = self.dict().Find(*bound[0]);
  if (found != nullptr) return *found;
  return bound.given(1) ? *bound[1] : Value::None();
}

Value DictItems(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "items", args, {});
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    items.push_back(rt.Tuple({key, value}));
    if (rt.failed()) return {};
  }
  return rt.List(std::move(items), SeqKind::kItems);
}

Value DictKeys(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "keys", args, {});
  std::vector<Value> items;
  for (const auto& entry : self.dict().entries) items.push_back(entry.first);
  return rt.List(std::move(items), SeqKind::kKeys);
}

Value DictValues(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "values", args, {});
  std::vector<Value> items;
  for (const auto& entry : self.dict().entries) items.push_back(entry.second);
  return rt.List(std::move(items), SeqKind::kValues);
}

Value Copy(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "copy", args, {});
  return self;  // nothing can change it
}

Value SeqIndex(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "index", args, {"value"}, 1);
  if (rt.failed()) return {};
  const auto& items = self.seq().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (EqualOp(rt, items[i], *bound[0])) return Value::Int(static_cast<int64_t>(i));
    if (rt.failed()) return {};
  }
  return rt.Fail(absl::StrCat(ReprOf(rt, *bound[0]), " is not in list"));
}

Value SeqCount(Runtime& rt, const Value& self, const CallArgs& args) {
  const BoundArgs bound(rt, "count", args, {"value"}, 1);
  if (rt.failed()) return {};
  int64_t n = 0;
  for (const Value& item : self.seq().items) n += EqualOp(rt, item, *bound[0]) ? 1 : 0;
  return Value::Int(n);
}

Value LoopCycle(Runtime& rt, const Value& self, const CallArgs& args) {
  if (args.positional.empty()) return rt.Fail("no items for cycling given");
  return args.positional[self.loop().index % args.positional.size()];
}

Value LoopChanged(Runtime& rt, const Value& self, const CallArgs& args) {
  LoopObject& loop = self.loop();
  bool same = loop.has_last_changed && loop.last_changed.size() == args.positional.size();
  for (size_t i = 0; same && i < args.positional.size(); ++i) {
    same = EqualOp(rt, loop.last_changed[i], args.positional[i]);
  }
  if (same) return Value::Bool(false);
  if (!loop.ended) {
    loop.has_last_changed = true;
    loop.last_changed = args.positional;
  }
  return Value::Bool(true);
}

using Table = std::map<std::string_view, Method>;

const Table& DictMethods() {
  static const Table table = {{"get", DictGet},
                              {"items", DictItems},
                              {"keys", DictKeys},
                              {"values", DictValues},
                              {"copy", Copy}};
  return table;
}
const Table& ListMethods() {
  static const Table table = {{"index", SeqIndex}, {"count", SeqCount}, {"copy", Copy}};
  return table;
}
const Table& LoopMethods() {
  static const Table table = {{"cycle", LoopCycle}, {"changed", LoopChanged}};
  return table;
}

Method Find(const Value& v, std::string_view name) {
  const Table* table = nullptr;
  if (v.is_string()) return FindStringMethod(name);
  if (v.is_dict()) table = &DictMethods();
  if (v.is_seq() && (v.seq().seq_kind == SeqKind::kList || v.seq().seq_kind == SeqKind::kTuple)) {
    if (v.seq().seq_kind == SeqKind::kTuple && name == "copy") return nullptr;
    table = &ListMethods();
  }
  if (v.kind() == Kind::kLoop) table = &LoopMethods();
  if (table == nullptr) return nullptr;
  const auto it = table->find(name);
  return it == table->end() ? nullptr : it->second;
}

}  // namespace

bool HasMethod(const Value& v, std::string_view name) { return Find(v, name) != nullptr; }

bool ChangesObject(const Value& v, std::string_view name) {
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::string_view kList[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
  if (v.is_dict()) return std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict);
  if (v.is_seq() && v.seq().seq_kind == SeqKind::kList) {
    return std::find(std::begin(kList), std::end(kList), name) != std::end(kList);
  }
  return false;
}

Value BindMethod(Runtime& rt, const Value& self, std::string_view name) {
  if (rt.failed() || !rt.Step()) return {};
  auto f = std::make_shared<FunctionObject>();
  f->name = std::string(name);
  f->self = self;
  f->is_method = true;
  rt.Adopt(*f, sizeof(FunctionObject));
  Value v = Value::Function(std::move(f));
  if (DepthOf(v) > kMaxValueDepth) return rt.Exhaust("nesting of values");
  return v;
}

Value CallMethod(Runtime& rt, const Value& function, const CallArgs& args) {
  const FunctionObject& f = function.function();
  const Method method = Find(f.self, f.name);
  TUTTI_CHECK(method != nullptr);
  if (!rt.Step(f.self.is_string() ? WeightOf(f.self) : 1)) return {};
  return method(rt, f.self, args);
}

}  // namespace tutti::tokenizer::jinja
