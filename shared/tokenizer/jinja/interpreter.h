// Runs a syntax tree over variables.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/tokenizer/jinja/ast.h"
#include "shared/tokenizer/jinja/function.h"
#include "shared/tokenizer/jinja/runtime.h"

namespace tutti::tokenizer::jinja {

// One render. Values live until the interpreter goes, which must be before its Runtime does.
class Interpreter {
 public:
  Interpreter(Runtime& rt, int64_t now_unix_s);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  void Define(std::string name, Value value) {
    root_->variables[std::move(name)] = std::move(value);
  }
  // What the template prints; check the Runtime for failure.
  std::string Run(const Body& body);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using ScopePtr = std::shared_ptr<Scope>;

  // Nesting of everything that recurses; false (and failed) past the limit.
  class Depth {
   public:
    explicit Depth(Interpreter& in) : in_(in) {
      ok_ = in_.rt_.Step();
      if (++in_.depth_ > in_.rt_.limits().depth && ok_) {
        in_.rt_.Exhaust("depth");
        ok_ = false;
      }
    }
    ~Depth() { --in_.depth_; }
    explicit operator bool() const { return ok_; }

   private:
    Interpreter& in_;
    bool ok_;
  };

  // eval.cc
  Value Eval(const Expr& e);
  Value EvalName(const Expr& e);
  Value EvalDict(const Expr& e);
  Value EvalCompare(const Expr& e);
  Value EvalConcat(const Expr& e);
  Value EvalCondition(const Expr& e);
  Value EvalItem(const Expr& e);
  Value EvalCall(const Expr& e, const Value* caller);
  Value EvalFilter(const Expr& e);
  Value EvalTest(const Expr& e);
  std::vector<Value> EvalAll(const std::vector<ExprPtr>& list);
  bool EvalArgs(const ArgList* list, CallArgs* args);
  Value Call(const Value& callee, CallArgs args);
  Value CallGlobal(const std::string& name, const CallArgs& args);
  Value CallMacro(const FunctionObject& macro, CallArgs args);
  Value Range(const CallArgs& args);
  Value MakeNamespace(const CallArgs& args);

  // exec.cc
  Flow Exec(const Body& body, Text& out);
  Flow ExecOne(const Statement& s, Text& out);
  Flow ExecIf(const Statement& s, Text& out);
  Flow ExecFor(const Statement& s, Text& out);
  void ExecSet(const Statement& s);
  void ExecSetBlock(const Statement& s);
  void ExecFilter(const Statement& s, Text& out);
  void ExecCall(const Statement& s, Text& out);
  Value MakeMacro(const Statement& s);
  void Assign(const Target& target, const Value& value);
  Value Capture(const Body& body);
  // Evaluates a chain of filters whose innermost input is `input`.
  Value ApplyFilter(const Expr& filter, const Value& input);
  Flow InScope(const Body& body, Text& out);

  Runtime& rt_;
  const int64_t now_unix_s_;
  ScopePtr root_;
  ScopePtr scope_;
  int depth_ = 0;
  const Value* filter_input_ = nullptr;
  // Whatever can come to hold itself; emptied, in the order of making, at the end.
  std::vector<std::shared_ptr<Scope>> scopes_;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;
};

}  // namespace tutti::tokenizer::jinja
