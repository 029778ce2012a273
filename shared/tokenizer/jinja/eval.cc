// Expressions.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/filters.h"
#include "shared/tokenizer/jinja/interpreter.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"

namespace tutti::tokenizer::jinja {

Value Interpreter::Eval(const Expr& e) {
  Depth depth(*this);
  if (!depth) return {};
  rt_.line = e.line;
  switch (e.kind) {
    case ExprKind::kConst:
      return e.value;
    case ExprKind::kName:
      return EvalName(e);
    case ExprKind::kTuple:
      return rt_.Tuple(EvalAll(e.children));
    case ExprKind::kList:
      return rt_.List(EvalAll(e.children));
    case ExprKind::kDict:
      return EvalDict(e);
    case ExprKind::kNot:
      return Value::Bool(!Truthy(Eval(*e.children[0])));
    case ExprKind::kNeg:
    case ExprKind::kPos:
      return Negate(rt_, Eval(*e.children[0]), e.kind == ExprKind::kPos);
    case ExprKind::kBinary: {
      const Value left = Eval(*e.children[0]);
      const Value right = Eval(*e.children[1]);
      rt_.line = e.line;
      return BinaryOp(rt_, e.op, left, right);
    }
    case ExprKind::kAnd: {
      Value left = Eval(*e.children[0]);
      return Truthy(left) ? Eval(*e.children[1]) : left;
    }
    case ExprKind::kOr: {
      Value left = Eval(*e.children[0]);
      return Truthy(left) ? left : Eval(*e.children[1]);
    }
    case ExprKind::kCompare:
      return EvalCompare(e);
    case ExprKind::kConcat:
      return EvalConcat(e);
    case ExprKind::kCondition:
      return EvalCondition(e);
    case ExprKind::kAttribute: {
      const Value object = Eval(*e.children[0]);
      rt_.line = e.line;
      return GetAttribute(rt_, object, e.name);
    }
    case ExprKind::kItem:
      return EvalItem(e);
    case ExprKind::kSlice:
      return rt_.Fail("a slice stands only in []");
    case ExprKind::kCall:
      return EvalCall(e, nullptr);
    case ExprKind::kFilter:
      return EvalFilter(e);
    case ExprKind::kTest:
      return EvalTest(e);
  }
  return {};
}

Value Interpreter::EvalName(const Expr& e) {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    const auto it = scope->variables.find(e.name);
    if (it != scope->variables.end()) return it->second;
  }
  return rt_.Missing(absl::StrCat("'", Printable(e.name, 200), "' is undefined"));
}

std::vector<Value> Interpreter::EvalAll(const std::vector<ExprPtr>& list) {
  std::vector<Value> out;
  out.reserve(list.size());
  for (const ExprPtr& e : list) {
    out.push_back(Eval(*e));
    if (rt_.failed()) break;
  }
  return out;
}

Value Interpreter::EvalDict(const Expr& e) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < e.children.size(); i += 2) {
    Value key = Eval(*e.children[i]);
    entries.emplace_back(std::move(key), Eval(*e.children[i + 1]));
    if (rt_.failed()) return {};
  }
  return rt_.Dict(std::move(entries));
}

Value Interpreter::EvalCompare(const Expr& e) {
  Value left = Eval(*e.children[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = Eval(*e.children[i + 1]);
    rt_.line = e.line;
    if (rt_.failed() || !CompareOp(rt_, e.ops[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Interpreter::EvalConcat(const Expr& e) {
  Text out(rt_);
  for (const ExprPtr& part : e.children) {
    AppendStr(out, rt_, Eval(*part));
    if (rt_.failed()) return {};
  }
  return out.Done();
}

Value Interpreter::EvalCondition(const Expr& e) {
  if (Truthy(Eval(*e.children[1]))) return Eval(*e.children[0]);
  if (e.children.size() > 2) return Eval(*e.children[2]);
  return rt_.Missing(absl::StrCat("the inline if-expression on line ", e.line,
                                  " evaluated to false and no else section was defined."));
}

Value Interpreter::EvalItem(const Expr& e) {
  const Value object = Eval(*e.children[0]);
  const Expr& key = *e.children[1];
  if (key.kind != ExprKind::kSlice) {
    const Value k = Eval(key);
    rt_.line = e.line;
    return GetItem(rt_, object, k);
  }
  Value parts[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (key.children[i] != nullptr) parts[i] = Eval(*key.children[i]);
  }
  rt_.line = e.line;
  return GetSlice(rt_, object, parts[0], parts[1], parts[2]);
}

bool Interpreter::EvalArgs(const ArgList* list, CallArgs* args) {
  if (list == nullptr) return !rt_.failed();
  args->positional = EvalAll(list->positional);
  for (const auto& [name, e] : list->named) {
    args->named.emplace_back(name, Eval(*e));
    if (rt_.failed()) return false;
  }
  if (list->star != nullptr) {
    const Value star = Eval(*list->star);
    for (Value& v : Iterate(rt_, star)) args->positional.push_back(std::move(v));
  }
  if (list->star_star != nullptr) {
    const Value map = Eval(*list->star_star);
    if (rt_.failed()) return false;
    if (!map.is_dict()) {
      rt_.Fail("argument after ** must be a mapping");
      return false;
    }
    for (const auto& [key, value] : map.dict().entries) {
      if (!key.is_string()) {
        rt_.Fail("keywords must be strings");
        return false;
      }
      args->named.emplace_back(key.text(), value);
    }
  }
  return !rt_.failed();
}

Value Interpreter::EvalCall(const Expr& e, const Value* caller) {
  const Value callee = Eval(*e.children[0]);
  CallArgs args;
  if (!EvalArgs(e.args.get(), &args)) return {};
  if (caller != nullptr) args.named.emplace_back("caller", *caller);
  rt_.line = e.line;
  return Call(callee, std::move(args));
}

Value Interpreter::EvalFilter(const Expr& e) {
  const Value input = e.children[0] != nullptr   ? Eval(*e.children[0])
                      : filter_input_ != nullptr ? *filter_input_
                                                 : Value();
  CallArgs args;
  if (!EvalArgs(e.args.get(), &args)) return {};
  rt_.line = e.line;
  return CallFilter(rt_, e.name, input, args);
}

Value Interpreter::EvalTest(const Expr& e) {
  const Value input = Eval(*e.children[0]);
  CallArgs args;
  if (!EvalArgs(e.args.get(), &args)) return {};
  rt_.line = e.line;
  return Value::Bool(CallTest(rt_, e.name, input, args));
}

Value Interpreter::Call(const Value& callee, CallArgs args) {
  if (rt_.failed()) return {};
  if (callee.undefined()) return rt_.FailUndefined(callee);
  if (callee.kind() != Kind::kFunction) {
    return rt_.Fail(absl::StrCat("'", ToAbsl(TypeName(callee)), "' object is not callable"));
  }
  const FunctionObject& f = callee.function();
  if (f.is_macro()) return CallMacro(f, std::move(args));
  if (f.is_method) return CallMethod(rt_, callee, args);
  return CallGlobal(f.name, args);
}

Value Interpreter::CallMacro(const FunctionObject& macro, CallArgs args) {
  Depth depth(*this);
  if (!depth) return {};
  const Statement& s = *macro.macro;
  auto scope = std::make_shared<Scope>();
  scope->parent = macro.scope;
  const size_t num_parameters = s.parameters.size();
  std::vector<bool> given(num_parameters, false);
  std::vector<Value> extra;
  for (size_t i = 0; i < args.positional.size(); ++i) {
    if (i < num_parameters) {
      scope->variables[s.parameters[i].name] = std::move(args.positional[i]);
      given[i] = true;
    } else {
      extra.push_back(std::move(args.positional[i]));
    }
  }
  std::vector<std::pair<Value, Value>> extra_named;
  Value caller = Value();
  bool has_caller = false;
  for (auto& [name, value] : args.named) {
    const auto p = std::find_if(s.parameters.begin(), s.parameters.end(),
                                [&name = name](const Parameter& q) { return q.name == name; });
    if (p != s.parameters.end()) {
      const size_t i = static_cast<size_t>(p - s.parameters.begin());
      if (given[i]) {
        return rt_.Fail(
            absl::StrCat("macro '", s.text, "' got multiple values for argument '", name, "'"));
      }
      scope->variables[name] = std::move(value);
      given[i] = true;
    } else if (name == "caller") {
      caller = std::move(value);
      has_caller = true;
    } else {
      extra_named.emplace_back(rt_.Str(name), std::move(value));
    }
  }
  if (!extra.empty() && !s.uses_varargs) {
    return rt_.Fail(
        absl::StrCat("macro '", s.text, "' takes not more than ", num_parameters, " argument(s)"));
  }
  if (!extra_named.empty() && !s.uses_kwargs) {
    return rt_.Fail(
        absl::StrCat("macro '", s.text, "' takes no keyword argument '",
                     extra_named[0].first.is_string() ? extra_named[0].first.text() : "", "'"));
  }
  if (has_caller && !s.uses_caller) {
    return rt_.Fail(absl::StrCat("macro '", s.text, "' takes no keyword argument 'caller'"));
  }
  if (s.uses_varargs) scope->variables["varargs"] = rt_.Tuple(std::move(extra));
  if (s.uses_kwargs) scope->variables["kwargs"] = rt_.Dict(std::move(extra_named));
  if (s.uses_caller) {
    scope->variables["caller"] = has_caller ? caller : rt_.Missing("No caller defined");
  }
  const ScopePtr outer = std::exchange(scope_, scope);
  for (size_t i = 0; i < num_parameters && !rt_.failed(); ++i) {
    const Parameter& p = s.parameters[i];
    if (given[i]) continue;
    scope->variables[p.name] =
        p.fallback != nullptr
            ? Eval(*p.fallback)
            : rt_.Missing(absl::StrCat("parameter '", p.name, "' was not provided"));
  }
  const Value result = rt_.failed() ? Value() : Capture(s.body);
  scope_ = outer;
  return result;
}

Value Interpreter::CallGlobal(const std::string& name, const CallArgs& args) {
  if (name == "range") return Range(args);
  if (name == "namespace") return MakeNamespace(args);
  if (name == "raise_exception") {
    const BoundArgs bound(rt_, "raise_exception", args, {"message"}, 1);
    if (rt_.failed()) return {};
    Text out(rt_);
    AppendStr(out, rt_, *bound[0]);
    return rt_.failed() ? Value() : rt_.Refuse(out.str());
  }
  if (name == "strftime_now") {
    const BoundArgs bound(rt_, "strftime_now", args, {"format"}, 1);
    const std::string_view format = bound.Text(0, "");
    if (rt_.failed() || !rt_.Room(static_cast<int64_t>(format.size()) * 32)) return {};
    return rt_.Str(Strftime(now_unix_s_, format));
  }
  // dict(...)
  std::vector<std::pair<Value, Value>> entries;
  const BoundArgs bound(rt_, "dict", {args.positional, {}}, {"mapping"});
  if (rt_.failed()) return {};
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_dict()) {
      entries = from.dict().entries;
    } else {
      for (const Value& pair : Iterate(rt_, from)) {
        const std::vector<Value> parts = Iterate(rt_, pair);
        if (rt_.failed()) return {};
        if (parts.size() != 2) return rt_.Fail("dict() wants pairs of key and value");
        entries.emplace_back(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [key, value] : args.named) entries.emplace_back(rt_.Str(key), value);
  return rt_.Dict(std::move(entries));
}

Value Interpreter::Range(const CallArgs& args) {
  if (args.positional.empty() || args.positional.size() > 3 || !args.named.empty()) {
    return rt_.Fail("range expected 1 to 3 arguments");
  }
  int64_t n[3] = {0, 0, 1};
  for (size_t i = 0; i < args.positional.size(); ++i) {
    const Value& v = args.positional[i];
    if (v.undefined()) return rt_.FailUndefined(v);
    if (!v.integral()) {
      return rt_.Fail(
          absl::StrCat("'", ToAbsl(TypeName(v)), "' object cannot be interpreted as an integer"));
    }
    n[i] = v.as_int();
  }
  if (args.positional.size() == 1) std::swap(n[0], n[1]);
  const auto [start, stop, step] = std::tuple(n[0], n[1], n[2]);
  if (step == 0) return rt_.Fail("range() arg 3 must not be zero");
  // In 128 bits: no overflow for any three integers.
  const __int128 span =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = span <= 0 ? 0 : (span + stride - 1) / stride;
  if (count > rt_.limits().range) return rt_.Exhaust("items in a range");
  std::vector<Value> items;
  if (!rt_.Room(static_cast<int64_t>(count) * static_cast<int64_t>(sizeof(Value)))) return {};
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i)
    items.push_back(Value::Int(start + i * step));
  return rt_.List(std::move(items), SeqKind::kRange);
}

Value Interpreter::MakeNamespace(const CallArgs& args) {
  auto ns = std::make_shared<NamespaceObject>();
  for (const Value& v : args.positional) {
    if (!v.is_dict()) return rt_.Fail("namespace() wants a mapping or keyword arguments");
    for (const auto& [key, value] : v.dict().entries) {
      if (key.is_string()) ns->attributes[key.text()] = value;
    }
  }
  for (const auto& [key, value] : args.named) ns->attributes[key] = value;
  rt_.Adopt(*ns, static_cast<int64_t>(sizeof(NamespaceObject) + ns->attributes.size() * 128));
  if (!rt_.Room(ns->bytes)) return {};
  namespaces_.push_back(ns);
  return Value::Namespace(std::move(ns));
}

}  // namespace tutti::tokenizer::jinja
