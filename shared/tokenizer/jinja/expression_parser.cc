#include "shared/tokenizer/jinja/expression_parser.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/runtime.h"

namespace tutti::tokenizer::jinja {

Value ConstantString(std::string text) {
  auto object = std::make_shared<StringObject>();
  object->ascii = IsAscii(text);
  object->text = std::move(text);
  return Value::String(std::move(object));
}

ExprPtr Constant(Value value, int line) {
  auto e = std::make_unique<Expr>();
  e->kind = ExprKind::kConst;
  e->line = line;
  e->value = std::move(value);
  return e;
}

void ExpressionParser::Fail(std::string_view message, int line) {
  if (failed()) return;
  status_ = absl::InvalidArgumentError(
      absl::StrCat("template:", line > 0 ? line : Current().line, ": ", ToAbsl(message)));
  pos_ = tokens_.size() - 1;
}

std::string ExpressionParser::Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kText:
      return "template data";
    case TokenKind::kBlockBegin:
      return "begin of statement block";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kPrintBegin:
      return "begin of print statement";
    case TokenKind::kPrintEnd:
      return "end of print statement";
    case TokenKind::kEnd:
      return "end of template";
    default:
      return Printable(token.text);
  }
}

Token ExpressionParser::Next() {
  Token token = tokens_[pos_];
  if (pos_ + 1 < tokens_.size()) ++pos_;
  return token;
}

bool ExpressionParser::SkipOperator(std::string_view op) {
  if (!Current().IsOperator(op)) return false;
  Next();
  return true;
}

bool ExpressionParser::SkipName(std::string_view name) {
  if (!Current().IsName(name)) return false;
  Next();
  return true;
}

void ExpressionParser::ExpectOperator(std::string_view op) {
  if (!SkipOperator(op)) {
    Fail(absl::StrCat("expected token '", ToAbsl(op), "', got '", Describe(Current()), "'"));
  }
}

std::string ExpressionParser::ExpectName() {
  if (Current().kind != TokenKind::kName) {
    Fail(absl::StrCat("expected a name, got '", Describe(Current()), "'"));
    return "";
  }
  return Next().text;
}

ExprPtr ExpressionParser::Make(ExprKind kind, int line, std::vector<ExprPtr> children) {
  auto e = std::make_unique<Expr>();
  e->kind = kind;
  e->line = line;
  for (const ExprPtr& child : children) {
    if (child != nullptr) e->depth = std::max(e->depth, child->depth + 1);
  }
  // Chains (a + b + c ...) are as deep as they are long.
  if (e->depth > kMaxSyntaxDepth) Fail("the expression is nested too deep or too long", line);
  e->children = std::move(children);
  return e;
}

namespace {
std::vector<ExprPtr> Pair(ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> v;
  v.push_back(std::move(a));
  v.push_back(std::move(b));
  return v;
}
std::vector<ExprPtr> One(ExprPtr a) {
  std::vector<ExprPtr> v;
  v.push_back(std::move(a));
  return v;
}
}  // namespace

ExprPtr ExpressionParser::ParseExpression(bool with_condition) {
  Nest nest(*this);
  if (failed()) return Constant({}, 0);
  ExprPtr expr = ParseOr();
  while (with_condition && Current().IsName("if")) {
    const int line = Next().line;
    std::vector<ExprPtr> children = Pair(std::move(expr), ParseOr());
    if (SkipName("else")) children.push_back(ParseExpression());
    expr = Make(ExprKind::kCondition, line, std::move(children));
  }
  return expr;
}

ExprPtr ExpressionParser::ParseOr() {
  ExprPtr left = ParseAnd();
  while (Current().IsName("or")) {
    const int line = Next().line;
    left = Make(ExprKind::kOr, line, Pair(std::move(left), ParseAnd()));
  }
  return left;
}

ExprPtr ExpressionParser::ParseAnd() {
  ExprPtr left = ParseNot();
  while (Current().IsName("and")) {
    const int line = Next().line;
    left = Make(ExprKind::kAnd, line, Pair(std::move(left), ParseNot()));
  }
  return left;
}

ExprPtr ExpressionParser::ParseNot() {
  if (!Current().IsName("not")) return ParseCompare();
  Nest nest(*this);
  if (failed()) return Constant({}, 0);
  const int line = Next().line;
  return Make(ExprKind::kNot, line, One(ParseNot()));
}

ExprPtr ExpressionParser::ParseCompare() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe},
                                                             {"<", Op::kLt},  {"<=", Op::kLe},
                                                             {">", Op::kGt},  {">=", Op::kGe}};
  const int line = Current().line;
  std::vector<ExprPtr> children = One(ParseMath1());
  std::vector<Op> ops;
  while (!failed()) {
    const size_t before = ops.size();
    for (const auto& [text, op] : kOps) {
      if (Current().IsOperator(text)) ops.push_back(op);
    }
    if (ops.size() > before) {
      Next();
    } else if (SkipName("in")) {
      ops.push_back(Op::kIn);
    } else if (Current().IsName("not") && Ahead().IsName("in")) {
      Next();
      Next();
      ops.push_back(Op::kNotIn);
    } else {
      break;
    }
    children.push_back(ParseMath1());
  }
  if (ops.empty()) return std::move(children[0]);
  ExprPtr e = Make(ExprKind::kCompare, line, std::move(children));
  e->ops = std::move(ops);
  return e;
}

ExprPtr ExpressionParser::ParseMath1() {
  ExprPtr left = ParseConcat();
  while (Current().IsOperator("+") || Current().IsOperator("-")) {
    const Token token = Next();
    left = Make(ExprKind::kBinary, token.line, Pair(std::move(left), ParseConcat()));
    left->op = token.text == "+" ? Op::kAdd : Op::kSub;
  }
  return left;
}

ExprPtr ExpressionParser::ParseConcat() {
  const int line = Current().line;
  std::vector<ExprPtr> parts = One(ParseMath2());
  while (SkipOperator("~")) parts.push_back(ParseMath2());
  if (parts.size() == 1) return std::move(parts[0]);
  return Make(ExprKind::kConcat, line, std::move(parts));
}

ExprPtr ExpressionParser::ParseMath2() {
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"*", Op::kMul}, {"/", Op::kDiv}, {"//", Op::kFloorDiv}, {"%", Op::kMod}};
  ExprPtr left = ParsePow();
  while (Current().kind == TokenKind::kOperator) {
    const auto* found = std::find_if(std::begin(kOps), std::end(kOps),
                                     [&](const auto& o) { return o.first == Current().text; });
    if (found == std::end(kOps)) break;
    const int line = Next().line;
    left = Make(ExprKind::kBinary, line, Pair(std::move(left), ParsePow()));
    left->op = found->second;
  }
  return left;
}

ExprPtr ExpressionParser::ParsePow() {
  ExprPtr left = ParseUnary();
  while (Current().IsOperator("**")) {
    const int line = Next().line;
    left = Make(ExprKind::kBinary, line, Pair(std::move(left), ParseUnary()));
    left->op = Op::kPow;
  }
  return left;
}

ExprPtr ExpressionParser::ParseUnary(bool with_filter) {
  Nest nest(*this);
  if (failed()) return Constant({}, 0);
  ExprPtr node;
  if (Current().IsOperator("-") || Current().IsOperator("+")) {
    const Token token = Next();
    node = Make(token.text == "-" ? ExprKind::kNeg : ExprKind::kPos, token.line,
                One(ParseUnary(false)));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  return with_filter ? ParseFilterExpr(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::ParsePrimary() {
  const Token token = Current();
  switch (token.kind) {
    case TokenKind::kName: {
      Next();
      if (token.text == "true" || token.text == "True")
        return Constant(Value::Bool(true), token.line);
      if (token.text == "false" || token.text == "False")
        return Constant(Value::Bool(false), token.line);
      if (token.text == "none" || token.text == "None") return Constant(Value::None(), token.line);
      ExprPtr e = Make(ExprKind::kName, token.line);
      e->name = token.text;
      special_.varargs |= token.text == "varargs";
      special_.kwargs |= token.text == "kwargs";
      special_.caller |= token.text == "caller";
      return e;
    }
    case TokenKind::kString: {
      std::string text;
      while (Current().kind == TokenKind::kString) text += Next().text;
      return Constant(ConstantString(std::move(text)), token.line);
    }
    case TokenKind::kInt:
      Next();
      return Constant(Value::Int(token.integer), token.line);
    case TokenKind::kFloat:
      Next();
      return Constant(Value::Float(token.number), token.line);
    default:
      break;
  }
  if (SkipOperator("(")) {
    ExprPtr e = ParseTuple(true, true);
    ExpectOperator(")");
    return e;
  }
  if (token.IsOperator("[")) return ParseList();
  if (token.IsOperator("{")) return ParseDict();
  Fail(absl::StrCat("unexpected '", Describe(token), "'"));
  return Constant({}, token.line);
}

bool ExpressionParser::AtTupleEnd(bool stop_at_in) const {
  return Current().kind == TokenKind::kPrintEnd || Current().kind == TokenKind::kBlockEnd ||
         Current().kind == TokenKind::kEnd || Current().IsOperator(")") ||
         (stop_at_in && Current().IsName("in"));
}

ExprPtr ExpressionParser::ParseTuple(bool with_condition, bool explicit_parentheses,
                                     bool stop_at_in) {
  const int line = Current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (!failed()) {
    if (!items.empty()) ExpectOperator(",");
    if (AtTupleEnd(stop_at_in)) break;
    items.push_back(ParseExpression(with_condition));
    if (!Current().IsOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!explicit_parentheses) {
      Fail(absl::StrCat("Expected an expression, got '", Describe(Current()), "'"));
    }
  }
  return Make(ExprKind::kTuple, line, std::move(items));
}

ExprPtr ExpressionParser::ParseList() {
  const int line = Next().line;
  std::vector<ExprPtr> items;
  while (!failed() && !Current().IsOperator("]")) {
    if (!items.empty()) ExpectOperator(",");
    if (Current().IsOperator("]")) break;
    items.push_back(ParseExpression());
  }
  ExpectOperator("]");
  return Make(ExprKind::kList, line, std::move(items));
}

ExprPtr ExpressionParser::ParseDict() {
  const int line = Next().line;
  std::vector<ExprPtr> items;
  while (!failed() && !Current().IsOperator("}")) {
    if (!items.empty()) ExpectOperator(",");
    if (Current().IsOperator("}")) break;
    items.push_back(ParseExpression());
    ExpectOperator(":");
    items.push_back(ParseExpression());
  }
  ExpectOperator("}");
  return Make(ExprKind::kDict, line, std::move(items));
}

ExprPtr ExpressionParser::ParseCall(ExprPtr callee) {
  const int line = Current().line;
  auto args = ParseArguments();
  ExprPtr call = Make(ExprKind::kCall, line, One(std::move(callee)));
  call->args = std::move(args);
  return call;
}

ExprPtr ExpressionParser::ParsePostfix(ExprPtr node) {
  while (!failed()) {
    if (Current().IsOperator(".") || Current().IsOperator("[")) {
      node = ParseSubscript(std::move(node));
    } else if (Current().IsOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

ExprPtr ExpressionParser::ParseFilterExpr(ExprPtr node) {
  while (!failed()) {
    if (Current().IsOperator("|")) {
      node = ParseFilter(std::move(node), false);
    } else if (Current().IsName("is")) {
      node = ParseTest(std::move(node));
    } else if (Current().IsOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

ExprPtr ExpressionParser::ParseSubscript(ExprPtr node) {
  const Token token = Next();
  if (token.text == ".") {
    const Token attribute = Next();
    if (attribute.kind == TokenKind::kName) {
      ExprPtr e = Make(ExprKind::kAttribute, token.line, One(std::move(node)));
      e->name = attribute.text;
      e->value = ConstantString(attribute.text);
      return e;
    }
    if (attribute.kind != TokenKind::kInt) {
      Fail("expected name or number", attribute.line);
      return node;
    }
    return Make(ExprKind::kItem, token.line,
                Pair(std::move(node), Constant(Value::Int(attribute.integer), attribute.line)));
  }
  std::vector<ExprPtr> items;
  while (!failed() && !Current().IsOperator("]")) {
    if (!items.empty()) ExpectOperator(",");
    items.push_back(ParseSubscribed());
  }
  ExpectOperator("]");
  if (items.size() > 1 && std::any_of(items.begin(), items.end(), [](const ExprPtr& e) {
        return e->kind == ExprKind::kSlice;
      })) {
    Fail("a slice cannot be part of a tuple");
  }
  ExprPtr key = items.size() == 1 ? std::move(items[0])
                                  : Make(ExprKind::kTuple, token.line, std::move(items));
  return Make(ExprKind::kItem, token.line, Pair(std::move(node), std::move(key)));
}

ExprPtr ExpressionParser::ParseSubscribed() {
  const int line = Current().line;
  std::vector<ExprPtr> parts;
  if (SkipOperator(":")) {
    parts.push_back(nullptr);
  } else {
    ExprPtr first = ParseExpression();
    if (!SkipOperator(":")) return first;
    parts.push_back(std::move(first));
  }
  const auto at_end = [&] { return Current().IsOperator("]") || Current().IsOperator(","); };
  parts.push_back(Current().IsOperator(":") || at_end() ? nullptr : ParseExpression());
  parts.push_back(SkipOperator(":") && !at_end() ? ParseExpression() : nullptr);
  return Make(ExprKind::kSlice, line, std::move(parts));
}

std::unique_ptr<ArgList> ExpressionParser::ParseArguments() {
  Nest nest(*this);
  auto args = std::make_unique<ArgList>();
  const int line = Current().line;
  ExpectOperator("(");
  bool comma = false;
  const auto require = [&](bool ok) {
    if (!ok) Fail("invalid syntax for function call expression", line);
  };
  while (!failed() && !Current().IsOperator(")")) {
    if (comma) {
      ExpectOperator(",");
      if (Current().IsOperator(")")) break;
    }
    if (SkipOperator("*")) {
      require(args->star == nullptr && args->star_star == nullptr);
      args->star = ParseExpression();
    } else if (SkipOperator("**")) {
      require(args->star_star == nullptr);
      args->star_star = ParseExpression();
    } else if (Current().kind == TokenKind::kName && Ahead().IsOperator("=")) {
      require(args->star_star == nullptr);
      std::string name = Next().text;
      Next();
      args->named.emplace_back(std::move(name), ParseExpression());
    } else {
      require(args->star == nullptr && args->star_star == nullptr && args->named.empty());
      args->positional.push_back(ParseExpression());
    }
    comma = true;
  }
  ExpectOperator(")");
  return args;
}

ExprPtr ExpressionParser::ParseFilter(ExprPtr node, bool start_inline) {
  while (!failed() && (Current().IsOperator("|") || start_inline)) {
    if (!start_inline) Next();
    start_inline = false;
    const int line = Current().line;
    std::string name = ExpectName();
    while (SkipOperator(".")) name += "." + ExpectName();
    std::unique_ptr<ArgList> args;
    if (Current().IsOperator("(")) args = ParseArguments();
    node = Make(ExprKind::kFilter, line, One(std::move(node)));
    node->name = std::move(name);
    node->args = std::move(args);
  }
  return node;
}

ExprPtr ExpressionParser::ParseTest(ExprPtr node) {
  const int line = Next().line;
  const bool negated = SkipName("not");
  std::string name = ExpectName();
  while (SkipOperator(".")) name += "." + ExpectName();
  std::unique_ptr<ArgList> args;
  const Token& t = Current();
  if (t.IsOperator("(")) {
    args = ParseArguments();
  } else if ((t.kind == TokenKind::kName || t.kind == TokenKind::kString ||
              t.kind == TokenKind::kInt || t.kind == TokenKind::kFloat || t.IsOperator("[") ||
              t.IsOperator("{")) &&
             !t.IsName("else") && !t.IsName("or") && !t.IsName("and")) {
    if (t.IsName("is")) Fail("You cannot chain multiple tests with is");
    // `x is defined if y`: Jinja, too, takes the next word as the test's argument only where it can
    // start one; `if`, `in` and `not` are names to its lexer as well.
    args = std::make_unique<ArgList>();
    args->positional.push_back(ParsePostfix(ParsePrimary()));
  }
  ExprPtr test = Make(ExprKind::kTest, line, One(std::move(node)));
  test->name = std::move(name);
  test->args = std::move(args);
  return negated ? Make(ExprKind::kNot, line, One(std::move(test))) : std::move(test);
}

}  // namespace tutti::tokenizer::jinja
