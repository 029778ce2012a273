// The part of the parser that reads expressions; the statement parser builds on it.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/jinja/ast.h"
#include "shared/tokenizer/jinja/lexer.h"

namespace tutti::tokenizer::jinja {

// Errors are sticky: after the first one every token reads as the end, so all loops stop.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const absl::Status& status() const { return status_; }
  bool failed() const { return !status_.ok(); }

 protected:
  const Token& Current() const { return tokens_[pos_]; }
  const Token& Ahead() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  Token Next();
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  void ExpectOperator(std::string_view op);
  std::string ExpectName();
  void Fail(std::string_view message, int line = 0);
  static std::string Describe(const Token& token);

  ExprPtr ParseExpression(bool with_condition = true);
  // One expression, or a tuple when commas stand between several; ends before `in` if `stop_at_in`.
  ExprPtr ParseTuple(bool with_condition, bool explicit_parentheses, bool stop_at_in = false);
  ExprPtr ParsePrimary();
  ExprPtr ParseCall(ExprPtr callee);
  ExprPtr ParsePostfix(ExprPtr node);
  ExprPtr ParseUnary(bool with_filter = true);
  ExprPtr ParseFilter(ExprPtr node, bool start_inline);
  std::unique_ptr<ArgList> ParseArguments();
  ExprPtr Make(ExprKind kind, int line, std::vector<ExprPtr> children = {});

  // Special names met since the macro began.
  struct Special {
    bool varargs = false, kwargs = false, caller = false;
  };
  Special special_;

  // Counts nesting while a rule runs.
  class Nest {
   public:
    explicit Nest(ExpressionParser& p) : p_(p) {
      if (++p_.depth_ > kMaxSyntaxDepth) p_.Fail("nested too deep");
    }
    ~Nest() { --p_.depth_; }

   private:
    ExpressionParser& p_;
  };

 private:
  ExprPtr ParseOr();
  ExprPtr ParseAnd();
  ExprPtr ParseNot();
  ExprPtr ParseCompare();
  ExprPtr ParseMath1();
  ExprPtr ParseConcat();
  ExprPtr ParseMath2();
  ExprPtr ParsePow();
  ExprPtr ParseFilterExpr(ExprPtr node);
  ExprPtr ParseTest(ExprPtr node);
  ExprPtr ParseSubscript(ExprPtr node);
  ExprPtr ParseSubscribed();
  ExprPtr ParseList();
  ExprPtr ParseDict();
  bool AtTupleEnd(bool stop_at_in) const;

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int depth_ = 0;
  absl::Status status_;
};

ExprPtr Constant(Value value, int line);
Value ConstantString(std::string text);

}  // namespace tutti::tokenizer::jinja
