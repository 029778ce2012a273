// What the parser makes of a template. Immutable after parsing; shared by renders.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

// Expressions and statements nest at most this deep (a parse error beyond), so neither evaluation
// nor destruction can exhaust the stack.
inline constexpr int kMaxSyntaxDepth = 120;

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : uint8_t {
  kConst,      // value
  kName,       // name
  kTuple,      // children
  kList,       // children
  kDict,       // children: key, value, key, value, ...
  kNot,        // children[0]
  kNeg,        //
  kPos,        //
  kBinary,     // op, children[0..1]
  kAnd,        //
  kOr,         //
  kCompare,    // children[0] ops[0] children[1] ops[1] ...
  kConcat,     // children
  kCondition,  // children: then, test, [else]
  kAttribute,  // children[0].name
  kItem,       // children[0][children[1]]
  kSlice,      // children: start, stop, step; each may be null
  kCall,       // children[0](args)
  kFilter,     // children[0] | name(args); children[0] null inside a filter block
  kTest,       // children[0] is name(args)
};

enum class Op : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn
};

struct ArgList {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;       // *args
  ExprPtr star_star;  // **kwargs
};

struct Expr {
  ExprKind kind;
  Op op = Op::kAdd;
  int line = 0;
  int depth = 1;
  Value value;
  std::string name;
  std::vector<ExprPtr> children;
  std::vector<Op> ops;
  std::unique_ptr<ArgList> args;
};

enum class StatementKind : uint8_t {
  kText,      // text
  kPrint,     // expr
  kIf,        // branches
  kFor,       // target, expr (what), filter, body, orelse
  kSet,       // target, expr
  kSetBlock,  // target, filter (may be null), body
  kMacro,     // name, parameters, body
  kCall,      // call (a kCall expression), parameters, body
  kFilter,    // filter, body
  kWith,      // bindings, body
  kScope,     // body in a scope of its own ({% block %}, {% generation %})
  kBreak,
  kContinue,
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

// A name, a tuple of targets, or namespace.attribute.
struct Target {
  std::string name;
  std::string attribute;  // not empty: {% set name.attribute = ... %}
  std::vector<Target> parts;
  bool is_tuple = false;
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // null: none
};

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text;  // kText, or the name of a macro
  ExprPtr expr;
  ExprPtr filter;
  Target target;
  std::vector<std::pair<ExprPtr, Body>> branches;  // kIf; a null test is else
  std::vector<Parameter> parameters;
  // Macros: which of the special names the body mentions; others may not be passed.
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
  std::vector<std::pair<Target, ExprPtr>> bindings;  // kWith
  Body body;
  Body orelse;
};

}  // namespace tutti::tokenizer::jinja
