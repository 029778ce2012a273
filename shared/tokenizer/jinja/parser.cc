#include "shared/tokenizer/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/expression_parser.h"

namespace tutti::tokenizer::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;
using EndWords = std::initializer_list<std::string_view>;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body ParseAll() { return ParseBody({}); }

 private:
  StatementPtr New(StatementKind kind, int line) {
    auto s = std::make_unique<Statement>();
    s->kind = kind;
    s->line = line;
    return s;
  }

  // Statements up to a {% word %} of `end`; the word is the current token then.
  Body ParseBody(EndWords end) {
    Body body;
    Nest nest(*this);
    while (!failed()) {
      const int line = Current().line;
      switch (Current().kind) {
        case TokenKind::kEnd:
          if (end.size() > 0) {
            Fail(absl::StrCat("Unexpected end of template, expected '", ToAbsl(*(end.end() - 1)),
                              "'"));
          }
          return body;
        case TokenKind::kText: {
          StatementPtr s = New(StatementKind::kText, line);
          s->text = Next().text;
          body.push_back(std::move(s));
          break;
        }
        case TokenKind::kPrintBegin: {
          Next();
          StatementPtr s = New(StatementKind::kPrint, line);
          s->expr = ParseTuple(true, false);
          ExpectKind(TokenKind::kPrintEnd);
          body.push_back(std::move(s));
          break;
        }
        default: {
          Next();
          if (std::find_if(end.begin(), end.end(),
                           [&](std::string_view w) { return Current().IsName(w); }) != end.end()) {
            return body;
          }
          StatementPtr s = ParseStatement();
          if (s != nullptr) body.push_back(std::move(s));
          ExpectKind(TokenKind::kBlockEnd);
        }
      }
    }
    return body;
  }

  void ExpectKind(TokenKind kind) {
    if (Current().kind == kind) {
      Next();
    } else {
      Fail(absl::StrCat("expected ", kind == TokenKind::kPrintEnd ? "'}}'" : "'%}'", ", got '",
                        Describe(Current()), "'"));
    }
  }

  // The end of the tag that opened a block, then its body up to `end`.
  Body BlockBody(EndWords end) {
    SkipOperator(":");
    ExpectKind(TokenKind::kBlockEnd);
    return ParseBody(end);
  }

  StatementPtr ParseStatement() {
    const Token token = Current();
    if (token.kind != TokenKind::kName) {
      Fail("tag name expected");
      return nullptr;
    }
    Next();
    const std::string& tag = token.text;
    if (tag == "if") return ParseIf(token.line);
    if (tag == "for") return ParseFor(token.line);
    if (tag == "set") return ParseSet(token.line);
    if (tag == "macro") return ParseMacro(token.line);
    if (tag == "call") return ParseCallBlock(token.line);
    if (tag == "filter") {
      StatementPtr s = New(StatementKind::kFilter, token.line);
      s->filter = ParseFilter(nullptr, true);
      s->body = BlockBody({"endfilter"});
      Next();
      return s;
    }
    if (tag == "with") return ParseWith(token.line);
    if (tag == "print") {
      StatementPtr s = New(StatementKind::kPrint, token.line);
      s->expr = ParseTuple(true, false);
      return s;
    }
    if (tag == "block") {
      StatementPtr s = New(StatementKind::kScope, token.line);
      ExpectName();
      SkipName("scoped");
      SkipName("required");
      s->body = BlockBody({"endblock"});
      Next();
      if (Current().kind == TokenKind::kName) Next();
      return s;
    }
    if (tag == "generation") {
      StatementPtr s = New(StatementKind::kScope, token.line);
      s->body = BlockBody({"endgeneration"});
      Next();
      return s;
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) Fail(absl::StrCat("'", tag, "' outside loop"), token.line);
      return New(tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, token.line);
    }
    if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
      Fail(absl::StrCat("'", tag, "' is not available: a chat template stands alone"), token.line);
      return nullptr;
    }
    Fail(absl::StrCat("Encountered unknown tag '", Printable(tag), "'"), token.line);
    return nullptr;
  }

  StatementPtr ParseIf(int line) {
    StatementPtr s = New(StatementKind::kIf, line);
    ExprPtr test = ParseTuple(false, false);
    for (;;) {
      Body body = BlockBody({"elif", "else", "endif"});
      s->branches.emplace_back(std::move(test), std::move(body));
      const Token word = Next();
      if (failed() || word.text == "endif") return s;
      if (word.text == "else") {
        s->branches.emplace_back(nullptr, BlockBody({"endif"}));
        Next();
        return s;
      }
      test = ParseTuple(false, false);
    }
  }

  StatementPtr ParseFor(int line) {
    StatementPtr s = New(StatementKind::kFor, line);
    s->target = ParseTarget(false);
    if (!SkipName("in")) Fail(absl::StrCat("expected 'in', got '", Describe(Current()), "'"));
    s->expr = ParseTuple(false, false);
    if (SkipName("if")) s->filter = ParseExpression();
    if (SkipName("recursive")) Fail("recursive loops are not available");
    ++loops_;
    s->body = BlockBody({"else", "endfor"});
    --loops_;
    if (Next().text == "else") {
      s->orelse = BlockBody({"endfor"});
      Next();
    }
    return s;
  }

  StatementPtr ParseSet(int line) {
    StatementPtr s = New(StatementKind::kSet, line);
    s->target = ParseTarget(true);
    if (SkipOperator("=")) {
      s->expr = ParseTuple(true, false);
      return s;
    }
    s->kind = StatementKind::kSetBlock;
    if (Current().IsOperator("|")) s->filter = ParseFilter(nullptr, false);
    s->body = BlockBody({"endset"});
    Next();
    return s;
  }

  // name | name.attribute | a, b | (a, b)
  Target ParseTarget(bool with_attribute) {
    Target target;
    bool is_tuple = false;
    Nest nest(*this);
    while (!failed()) {
      if (SkipOperator("(")) {
        target.parts.push_back(ParseTarget(with_attribute));
        ExpectOperator(")");
      } else {
        target.parts.push_back(ParseTargetName(with_attribute));
      }
      if (!SkipOperator(",")) break;
      is_tuple = true;
      if (Current().IsName("in") || Current().IsOperator("=") || Current().IsOperator(")")) break;
    }
    if (failed()) return {};
    if (!is_tuple) {
      Target only = std::move(target.parts[0]);
      return only;
    }
    target.is_tuple = true;
    return target;
  }

  Target ParseTargetName(bool with_attribute) {
    Target target;
    const int line = Current().line;
    target.name = ExpectName();
    for (const std::string_view word : {"true", "false", "none", "True", "False", "None"}) {
      if (target.name == word) Fail(absl::StrCat("can't assign to '", target.name, "'"), line);
    }
    if (with_attribute && SkipOperator(".")) target.attribute = ExpectName();
    return target;
  }

  std::vector<Parameter> ParseParameters() {
    std::vector<Parameter> parameters;
    ExpectOperator("(");
    while (!failed() && !Current().IsOperator(")")) {
      if (!parameters.empty()) ExpectOperator(",");
      if (Current().IsOperator(")")) break;
      Parameter p;
      p.name = ExpectName();
      if (SkipOperator("=")) {
        p.fallback = ParseExpression();
      } else if (!parameters.empty() && parameters.back().fallback != nullptr) {
        Fail("non-default argument follows default argument");
      }
      parameters.push_back(std::move(p));
    }
    ExpectOperator(")");
    return parameters;
  }

  // break and continue do not reach out of a macro.
  void MacroBody(Statement& s, std::string_view end) {
    const int outer_loops = std::exchange(loops_, 0);
    const Special outer = std::exchange(special_, {});
    s.body = BlockBody({end});
    s.uses_varargs = special_.varargs;
    s.uses_kwargs = special_.kwargs;
    s.uses_caller = special_.caller;
    special_ = outer;
    loops_ = outer_loops;
    Next();
  }

  StatementPtr ParseMacro(int line) {
    StatementPtr s = New(StatementKind::kMacro, line);
    s->text = ExpectName();
    s->parameters = ParseParameters();
    MacroBody(*s, "endmacro");
    return s;
  }

  StatementPtr ParseCallBlock(int line) {
    StatementPtr s = New(StatementKind::kCall, line);
    if (Current().IsOperator("(")) s->parameters = ParseParameters();
    s->text = "caller";
    s->expr = ParseExpression();
    if (!failed() && s->expr->kind != ExprKind::kCall) Fail("expected call", line);
    MacroBody(*s, "endcall");
    return s;
  }

  StatementPtr ParseWith(int line) {
    StatementPtr s = New(StatementKind::kWith, line);
    while (!failed() && Current().kind != TokenKind::kBlockEnd) {
      if (!s->bindings.empty()) ExpectOperator(",");
      Target target = ParseTarget(false);
      ExpectOperator("=");
      s->bindings.emplace_back(std::move(target), ParseExpression());
    }
    s->body = BlockBody({"endwith"});
    Next();
    return s;
  }

  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  TUTTI_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  Parser parser(std::move(tokens));
  Body body = parser.ParseAll();
  if (parser.failed()) return parser.status();
  return body;
}

}  // namespace tutti::tokenizer::jinja
