// Statements.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/interpreter.h"
#include "shared/tokenizer/jinja/ops.h"

namespace tutti::tokenizer::jinja {
namespace {

// Kept until the end of the render, on top of what its values weigh.
constexpr int64_t kScopeBytes = 256;

}  // namespace

Interpreter::Interpreter(Runtime& rt, int64_t now_unix_s)
    : rt_(rt), now_unix_s_(now_unix_s), root_(std::make_shared<Scope>()) {
  // Globals stand outside of the template's own variables, which may hide them.
  for (const char* name : {"range", "dict", "namespace", "raise_exception", "strftime_now"}) {
    auto f = std::make_shared<FunctionObject>();
    f->name = name;
    root_->variables[name] = Value::Function(std::move(f));
  }
  auto variables = std::make_shared<Scope>();
  variables->parent = root_;
  root_ = variables;
  scope_ = root_;
}

Interpreter::~Interpreter() {
  for (const auto& scope : scopes_) scope->variables.clear();
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

std::string Interpreter::Run(const Body& body) {
  Text out(rt_);
  Exec(body, out);
  return out.Take();
}

Interpreter::Flow Interpreter::Exec(const Body& body, Text& out) {
  for (const auto& s : body) {
    const Flow flow = ExecOne(*s, out);
    if (rt_.failed() || flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecOne(const Statement& s, Text& out) {
  Depth depth(*this);
  if (!depth) return Flow::kNext;
  rt_.line = s.line;
  switch (s.kind) {
    case StatementKind::kText:
      out.Add(s.text);
      break;
    case StatementKind::kPrint:
      AppendStr(out, rt_, Eval(*s.expr));
      break;
    case StatementKind::kIf:
      return ExecIf(s, out);
    case StatementKind::kFor:
      return ExecFor(s, out);
    case StatementKind::kSet:
      ExecSet(s);
      break;
    case StatementKind::kSetBlock:
      ExecSetBlock(s);
      break;
    case StatementKind::kMacro: {
      Value macro = MakeMacro(s);
      scope_->variables[s.text] = std::move(macro);
      break;
    }
    case StatementKind::kCall:
      ExecCall(s, out);
      break;
    case StatementKind::kFilter:
      ExecFilter(s, out);
      break;
    case StatementKind::kWith: {
      auto scope = std::make_shared<Scope>();
      scope->parent = scope_;
      // The values are those outside of the block.
      std::vector<Value> values;
      for (const auto& binding : s.bindings) values.push_back(Eval(*binding.second));
      const ScopePtr outer = std::exchange(scope_, scope);
      for (size_t i = 0; i < values.size(); ++i) Assign(s.bindings[i].first, values[i]);
      const Flow flow = Exec(s.body, out);
      scope_ = outer;
      return flow;
    }
    case StatementKind::kScope:
      return InScope(s.body, out);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  if (static_cast<int64_t>(out.str().size()) > rt_.limits().output_bytes) rt_.Exhaust("output");
  return Flow::kNext;
}

Interpreter::Flow Interpreter::InScope(const Body& body, Text& out) {
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  const ScopePtr outer = std::exchange(scope_, scope);
  const Flow flow = Exec(body, out);
  scope_ = outer;
  return flow;
}

Interpreter::Flow Interpreter::ExecIf(const Statement& s, Text& out) {
  for (const auto& [test, body] : s.branches) {
    if (test == nullptr || Truthy(Eval(*test))) return rt_.failed() ? Flow::kNext : Exec(body, out);
    if (rt_.failed()) break;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecFor(const Statement& s, Text& out) {
  const Value iterable = Eval(*s.expr);
  rt_.line = s.line;
  std::vector<Value> items = Iterate(rt_, iterable);
  const ScopePtr outer = scope_;
  if (s.filter != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      if (rt_.failed()) break;
      scope_ = std::make_shared<Scope>();
      scope_->parent = outer;
      Assign(s.target, item);
      if (Truthy(Eval(*s.filter))) kept.push_back(std::move(item));
    }
    scope_ = outer;
    items = std::move(kept);
  }
  if (rt_.failed()) return Flow::kNext;
  if (items.empty()) return InScope(s.orelse, out);

  auto loop = std::make_shared<LoopObject>();
  for (const Value& item : items)
    loop->value_depth = std::max(loop->value_depth, 1 + DepthOf(item));
  if (loop->value_depth > kMaxValueDepth) {
    rt_.Exhaust("nesting of values");
    return Flow::kNext;
  }
  loop->items = std::move(items);
  const int64_t bytes =
      static_cast<int64_t>(sizeof(LoopObject) + loop->items.size() * sizeof(Value));
  if (!rt_.Room(bytes)) return Flow::kNext;
  rt_.Adopt(*loop, bytes);
  for (loop->index = 0; loop->index < loop->items.size() && rt_.Step(); ++loop->index) {
    scope_ = std::make_shared<Scope>();
    scope_->parent = outer;
    scope_->variables["loop"] = Value::Loop(loop);
    Assign(s.target, loop->items[loop->index]);
    if (rt_.failed()) break;
    const Flow flow = Exec(s.body, out);
    if (rt_.failed() || flow == Flow::kBreak) break;
  }
  loop->ended = true;
  loop->last_changed.clear();
  if (loop->index > 0 && loop->index == loop->items.size()) --loop->index;
  scope_ = outer;
  return Flow::kNext;
}

void Interpreter::Assign(const Target& target, const Value& value) {
  if (rt_.failed()) return;
  if (target.is_tuple) {
    if (!Iterable(value)) {
      rt_.Fail(absl::StrCat("cannot unpack non-iterable ", ToAbsl(TypeName(value)), " object"));
      return;
    }
    const std::vector<Value> parts = Iterate(rt_, value);
    if (parts.size() != target.parts.size()) {
      rt_.Fail(absl::StrCat(parts.size() < target.parts.size() ? "not enough" : "too many",
                            " values to unpack (expected ", target.parts.size(), ", got ",
                            parts.size(), ")"));
      return;
    }
    for (size_t i = 0; i < parts.size(); ++i) Assign(target.parts[i], parts[i]);
    return;
  }
  if (target.attribute.empty()) {
    scope_->variables[target.name] = value;
    return;
  }
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    const auto it = scope->variables.find(target.name);
    if (it == scope->variables.end()) continue;
    if (it->second.kind() != Kind::kNamespace) break;
    NamespaceObject& ns = it->second.ns();
    if (ns.attributes.find(target.attribute) == ns.attributes.end()) {
      ns.bytes += 128;
      rt_.Hold(128);
    }
    ns.attributes[target.attribute] = value;
    return;
  }
  rt_.Fail("cannot assign attribute on non-namespace object");
}

void Interpreter::ExecSet(const Statement& s) {
  const Value value = Eval(*s.expr);
  rt_.line = s.line;
  Assign(s.target, value);
}

Value Interpreter::Capture(const Body& body) {
  Text out(rt_);
  Exec(body, out);
  return out.Done();
}

Value Interpreter::ApplyFilter(const Expr& filter, const Value& input) {
  const Value* outer = std::exchange(filter_input_, &input);
  Value result = Eval(filter);
  filter_input_ = outer;
  return result;
}

void Interpreter::ExecSetBlock(const Statement& s) {
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  const ScopePtr outer = std::exchange(scope_, scope);
  Value value = Capture(s.body);
  if (s.filter != nullptr) value = ApplyFilter(*s.filter, value);
  scope_ = outer;
  Assign(s.target, value);
}

void Interpreter::ExecFilter(const Statement& s, Text& out) {
  auto scope = std::make_shared<Scope>();
  scope->parent = scope_;
  const ScopePtr outer = std::exchange(scope_, scope);
  const Value body = Capture(s.body);
  AppendStr(out, rt_, ApplyFilter(*s.filter, body));
  scope_ = outer;
}

Value Interpreter::MakeMacro(const Statement& s) {
  auto f = std::make_shared<FunctionObject>();
  f->macro = &s;
  f->scope = scope_;
  if (!rt_.Room(kScopeBytes)) return {};
  rt_.Adopt(*f, sizeof(FunctionObject));
  rt_.Hold(kScopeBytes);
  scopes_.push_back(scope_);
  return Value::Function(std::move(f));
}

void Interpreter::ExecCall(const Statement& s, Text& out) {
  const Value caller = MakeMacro(s);
  AppendStr(out, rt_, EvalCall(*s.expr, &caller));
}

}  // namespace tutti::tokenizer::jinja
