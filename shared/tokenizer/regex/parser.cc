#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/regex/class_parser.h"
#include "shared/tokenizer/regex/node.h"

namespace tutti::tokenizer::regex {
namespace {

using NodePtr = std::unique_ptr<Node>;
using Kind = Node::Kind;

NodePtr Make(Kind kind) {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  return node;
}
NodePtr SetNode(CharSet set) {
  auto node = Make(Kind::kSet);
  node->set = std::move(set);
  return node;
}
NodePtr Of(Node::Assertion assertion) {
  auto node = Make(Kind::kAssertion);
  node->assertion = assertion;
  return node;
}
NodePtr Wrap(Kind kind, NodePtr kid) {
  auto node = Make(kind);
  node->kids.push_back(std::move(kid));
  return node;
}
// One of the kids, tried in order; or one after the other.
NodePtr Join(Kind kind, std::vector<NodePtr> kids) {
  if (kids.size() == 1) return std::move(kids[0]);
  auto node = Make(kids.empty() ? Kind::kEmpty : kind);
  node->kids = std::move(kids);
  return node;
}

struct Options {
  bool ignore_case = false, dot_all = false, extended = false;
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : scan_{pattern} {}

  absl::StatusOr<NodePtr> Run() {
    TUTTI_ASSIGN_OR_RETURN(NodePtr node, Alternatives(Options{}, 0));
    if (!scan_.done()) return PatternError(scan_.at, "unmatched )");
    return node;
  }

 private:
  absl::StatusOr<NodePtr> Alternatives(Options options, int depth);
  absl::StatusOr<NodePtr> Atom(const Options& options, int depth);
  absl::StatusOr<NodePtr> Group(const Options& options, int depth);
  absl::StatusOr<NodePtr> Escape(const Options& options);
  absl::StatusOr<NodePtr> Literal(uint32_t c, const Options& options, size_t offset);
  absl::StatusOr<NodePtr> Repeated(NodePtr atom, const Options& options);
  bool TakeInterval(int* min, int* max);
  // "imx-imx" up to ) or :
  absl::Status TakeOptions(Options* options);
  void SkipComments(const Options& options);

  Scan scan_;
  std::vector<uint32_t> folded_;  // the literals before, where case is ignored
  size_t folded_end_ = 0;         // where the last of them ended
};

void Parser::SkipComments(const Options& options) {
  for (;;) {
    if (scan_.Take("(?#")) {
      while (!scan_.done() && scan_.peek() != ')') scan_.at += scan_.peek() == '\\' ? 2 : 1;
      scan_.at = std::min(scan_.at + 1, scan_.text.size());
      continue;
    }
    if (!options.extended || scan_.done()) return;
    const char c = scan_.peek();
    if (c == '#') {
      while (!scan_.done() && scan_.peek() != '\n') ++scan_.at;
    } else if (c == ' ' || (c >= '\t' && c <= '\r')) {
      ++scan_.at;
    } else {
      return;
    }
  }
}

absl::StatusOr<NodePtr> Parser::Alternatives(Options options, int depth) {
  if (depth > kNestMax) return PatternError(scan_.at, "groups are nested too deeply");
  std::vector<NodePtr> choices;
  std::vector<NodePtr> sequence;
  for (;;) {
    SkipComments(options);
    if (scan_.done() || scan_.peek() == ')') break;
    if (scan_.Take("|")) {
      choices.push_back(Join(Kind::kSequence, std::move(sequence)));
      sequence.clear();
      continue;
    }
    // (?i) holds to the end of the group, over the alternatives behind it, too.
    if (scan_.peek() == '(' && scan_.peek(1) == '?' &&
        std::string_view("imx-").find(scan_.peek(2)) != std::string_view::npos) {
      Scan before = scan_;
      scan_.at += 2;
      Options inner = options;
      TUTTI_RETURN_IF_ERROR(TakeOptions(&inner));
      if (scan_.Take(")")) {
        TUTTI_ASSIGN_OR_RETURN(NodePtr rest, Alternatives(inner, depth + 1));
        sequence.push_back(std::move(rest));
        break;
      }
      scan_ = before;
    }
    TUTTI_ASSIGN_OR_RETURN(NodePtr atom, Atom(options, depth));
    TUTTI_ASSIGN_OR_RETURN(atom, Repeated(std::move(atom), options));
    sequence.push_back(std::move(atom));
  }
  choices.push_back(Join(Kind::kSequence, std::move(sequence)));
  return Join(Kind::kChoice, std::move(choices));
}

absl::Status Parser::TakeOptions(Options* options) {
  bool on = true;
  for (;;) {
    switch (scan_.peek()) {
      case 'i':
        options->ignore_case = on;
        break;
      case 'm':
        options->dot_all = on;
        break;
      case 'x':
        options->extended = on;
        break;
      case '-':
        on = false;
        break;
      case ')':
      case ':':
        return absl::OkStatus();
      default:
        return PatternError(scan_.at, "an option that is none of i, m and x");
    }
    ++scan_.at;
  }
}

absl::StatusOr<NodePtr> Parser::Group(const Options& options, int depth) {
  const size_t start = scan_.at;
  ++scan_.at;  // (
  const auto close = [&](absl::StatusOr<NodePtr> node) -> absl::StatusOr<NodePtr> {
    if (node.ok() && !scan_.Take(")")) return PatternError(start, "( without its )");
    return node;
  };
  if (!scan_.Take("?")) {
    if (scan_.peek() == '*') return PatternError(start, "(*...) is not supported");
    return close(Alternatives(options, depth + 1));
  }
  if (scan_.Take(":")) return close(Alternatives(options, depth + 1));
  if (scan_.Take(">")) {
    TUTTI_ASSIGN_OR_RETURN(NodePtr kid, close(Alternatives(options, depth + 1)));
    return Wrap(Kind::kAtomic, std::move(kid));
  }
  for (const auto& [text, behind, negative] : {std::tuple{"=", false, false},
                                               {"!", false, true},
                                               {"<=", true, false},
                                               {"<!", true, true}}) {
    if (!scan_.Take(text)) continue;
    TUTTI_ASSIGN_OR_RETURN(NodePtr kid, close(Alternatives(options, depth + 1)));
    NodePtr node = Wrap(Kind::kLook, std::move(kid));
    node->behind = behind;
    node->negative = negative;
    return node;
  }
  if (scan_.peek() == '<' || scan_.peek() == '\'') {  // a name, which nothing refers to
    const char end = scan_.peek() == '<' ? '>' : '\'';
    const size_t at = scan_.text.find(end, scan_.at + 1);
    if (at == std::string_view::npos) return PatternError(start, "a group's name without its end");
    scan_.at = at + 1;
    return close(Alternatives(options, depth + 1));
  }
  Options inner = options;
  if (std::string_view("imx-").find(scan_.peek()) != std::string_view::npos && !scan_.done()) {
    TUTTI_RETURN_IF_ERROR(TakeOptions(&inner));
    if (scan_.Take(":")) return close(Alternatives(inner, depth + 1));
  }
  return PatternError(start,
                      absl::StrCat("(?", std::string(1, scan_.peek()), "...) is not supported"));
}

absl::StatusOr<NodePtr> Parser::Literal(uint32_t c, const Options& options, size_t offset) {
  if (c > CharSet::kLast) return PatternError(offset, "not UTF-8");
  if (!options.ignore_case) return SetNode(CharSet::Of(c));
  // Oniguruma lets one character equal several: refused, as sets cannot.
  constexpr std::string_view kPairs[] = {"ss", "ff", "fi", "fl", "st"};
  const CharSet closure = CaseClosure(CharSet::Of(c));
  uint32_t lower = c < 128 ? (c >= 'A' && c <= 'Z' ? c | 0x20 : c) : c;
  if (folded_end_ != offset) folded_.clear();
  folded_end_ = scan_.at;
  bool several = FoldsToSeveral(c);
  if (!folded_.empty()) {
    const uint32_t before = folded_.back();
    for (const std::string_view pair : kPairs) {
      several |=
          before == static_cast<uint32_t>(pair[0]) && lower == static_cast<uint32_t>(pair[1]);
    }
    several |= (lower >= 0x300 && lower <= 0x36F) || lower == 0x2BE || before == 0x2BC ||
               lower == 0x3B9 || lower == 0x399 || lower == 0x1FBE ||
               (lower >= 0x531 && lower <= 0x587);
  }
  folded_.push_back(lower);
  if (several) {
    return PatternError(offset,
                        "characters that equal others in another number when case is ignored");
  }
  return SetNode(closure);
}

absl::StatusOr<NodePtr> Parser::Escape(const Options& options) {
  using Assertion = Node::Assertion;
  const size_t start = scan_.at;
  ++scan_.at;  // the backslash
  TUTTI_ASSIGN_OR_RETURN(auto set, TakeShorthand(scan_, options.ignore_case, false));
  if (set.has_value()) return SetNode(*std::move(set));
  const char c = scan_.peek();
  const auto take = [&](NodePtr node) {
    ++scan_.at;
    return node;
  };
  switch (c) {
    case 'A':
      return take(Of(Assertion::kTextStart));
    case 'z':
      return take(Of(Assertion::kTextEnd));
    case 'Z':
      return take(Of(Assertion::kTextEndOrNewline));
    case 'b':
      return take(Of(Assertion::kWordBoundary));
    case 'B':
      return take(Of(Assertion::kNoWordBoundary));
    case 'N':
      return take(SetNode(CharSet::Of('\n').Complement()));
    case 'O':
      return take(SetNode(CharSet({{0, CharSet::kLast}})));
    case 'R': {  // \r\n, or one of the line breaks
      ++scan_.at;
      std::vector<NodePtr> pair;
      pair.push_back(SetNode(CharSet::Of('\r')));
      pair.push_back(SetNode(CharSet::Of('\n')));
      std::vector<NodePtr> choices;
      choices.push_back(Join(Kind::kSequence, std::move(pair)));
      choices.push_back(SetNode(CharSet({{'\n', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}})));
      return Wrap(Kind::kAtomic, Join(Kind::kChoice, std::move(choices)));
    }
    default:
      break;
  }
  // \10 and above are characters by their octal numbers, as there are no groups to refer to.
  const bool octal = c >= '1' && c <= '7' && scan_.peek(1) >= '0' && scan_.peek(1) <= '7';
  if (c >= '1' && c <= '9' && !octal)
    return PatternError(start, "back references are not supported");
  TUTTI_ASSIGN_OR_RETURN(const uint32_t literal, TakeEscapedChar(scan_, /*in_class=*/false));
  return Literal(literal, options, start);
}

absl::StatusOr<NodePtr> Parser::Atom(const Options& options, int depth) {
  const size_t start = scan_.at;
  switch (scan_.peek()) {
    case '(':
      return Group(options, depth);
    case '[': {
      TUTTI_ASSIGN_OR_RETURN(CharSet set, TakeClass(scan_, options.ignore_case, 0));
      return SetNode(std::move(set));
    }
    case '\\':
      return Escape(options);
    case '.':
      ++scan_.at;
      return SetNode(options.dot_all ? CharSet({{0, CharSet::kLast}})
                                     : CharSet::Of('\n').Complement());
    case '^':
      ++scan_.at;
      return Of(Node::Assertion::kLineStart);
    case '$':
      ++scan_.at;
      return Of(Node::Assertion::kLineEnd);
    case '*':
    case '+':
    case '?':
      return PatternError(start, "nothing before it to repeat");
    default: {
      const uint32_t c = scan_.TakeChar();
      return Literal(c, options, start);
    }
  }
}

// "{n}", "{n,}", "{,m}", "{n,m}"; false: the brace is a character.
bool Parser::TakeInterval(int* min, int* max) {
  Scan s = scan_;
  if (!s.Take("{")) return false;
  const auto number = [&](int* out) {
    const size_t first = s.at;
    *out = 0;
    while (s.peek() >= '0' && s.peek() <= '9' && s.at < first + 6)
      *out = *out * 10 + (s.text[s.at++] - '0');
    return s.at > first;
  };
  const bool low = number(min);
  if (s.Take(",")) {
    const bool high = number(max);
    if (!low && !high) return false;
    if (!high) *max = -1;
  } else {
    if (!low) return false;
    *max = *min;
  }
  if (!s.Take("}")) return false;
  scan_ = s;
  return true;
}

absl::StatusOr<NodePtr> Parser::Repeated(NodePtr atom, const Options& options) {
  for (;;) {
    SkipComments(options);
    const size_t start = scan_.at;
    auto node = Make(Kind::kRepeat);
    bool interval = false;
    if (scan_.Take("*")) {
      node->max = -1;
    } else if (scan_.Take("+")) {
      node->min = 1;
      node->max = -1;
    } else if (scan_.Take("?")) {
      node->max = 1;
    } else if (TakeInterval(&node->min, &node->max)) {
      interval = true;
    } else {
      return atom;
    }
    if (node->max >= 0 && node->min > node->max)
      return PatternError(start, "the first number is above the second");
    if (node->min > kRepeatMax || node->max > kRepeatMax) {
      return PatternError(start, absl::StrCat("more than ", kRepeatMax, " repetitions"));
    }
    if (atom->kind == Kind::kAssertion) {
      return PatternError(start, "a position cannot be repeated");
    }
    // In Ruby's syntax {n}? is an optional {n}, and {n,m}+ a repetition of {n,m}.
    const bool exact = interval && node->min == node->max;
    if (!exact && scan_.Take("?")) {
      node->greed = Node::Greed::kLazy;
    } else if (!interval && scan_.Take("+")) {
      node->greed = Node::Greed::kPossessive;
    }
    node->kids.push_back(std::move(atom));
    atom = std::move(node);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Node>> ParsePattern(std::string_view pattern) {
  if (size_t bad = 0; !IsValidUtf8(pattern, &bad)) return PatternError(bad, "not UTF-8");
  return Parser(pattern).Run();
}

}  // namespace tutti::tokenizer::regex
