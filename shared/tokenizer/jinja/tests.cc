// `x is ...`
#include <map>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/filters.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/string_methods.h"

namespace tutti::tokenizer::jinja {
namespace {

bool Defined(Runtime&, const Value& v, const CallArgs&) { return !v.undefined(); }
bool Undefined(Runtime&, const Value& v, const CallArgs&) { return v.undefined(); }
bool IsNone(Runtime&, const Value& v, const CallArgs&) { return v.none(); }
bool IsBoolean(Runtime&, const Value& v, const CallArgs&) { return v.kind() == Kind::kBool; }
bool IsTrue(Runtime&, const Value& v, const CallArgs&) {
  return v.kind() == Kind::kBool && v.as_int() != 0;
}
bool IsFalse(Runtime&, const Value& v, const CallArgs&) {
  return v.kind() == Kind::kBool && v.as_int() == 0;
}
bool IsInteger(Runtime&, const Value& v, const CallArgs&) { return v.kind() == Kind::kInt; }
bool IsFloat(Runtime&, const Value& v, const CallArgs&) { return v.kind() == Kind::kFloat; }
bool IsNumber(Runtime&, const Value& v, const CallArgs&) { return v.numeric(); }
bool IsString(Runtime&, const Value& v, const CallArgs&) { return v.is_string(); }
bool IsMapping(Runtime&, const Value& v, const CallArgs&) { return v.is_dict(); }
bool IsIterable(Runtime&, const Value& v, const CallArgs&) { return Iterable(v); }
bool IsCallable(Runtime&, const Value& v, const CallArgs&) {
  return v.kind() == Kind::kFunction || v.kind() == Kind::kLoop || v.undefined();
}
bool IsEscaped(Runtime&, const Value& v, const CallArgs&) { return v.markup(); }

bool IsSequence(Runtime&, const Value& v, const CallArgs&) {
  if (v.is_seq()) {
    const SeqKind kind = v.seq().seq_kind;
    return kind == SeqKind::kList || kind == SeqKind::kTuple || kind == SeqKind::kRange;
  }
  return v.is_string() || v.is_dict() || v.undefined();
}

bool Lower(Runtime& rt, const Value& v, const CallArgs&) {
  const Value s = ToStr(rt, v);
  return s.is_string() && rt.Step(WeightOf(s)) && IsLowerText(s.text());
}
bool Upper(Runtime& rt, const Value& v, const CallArgs&) {
  const Value s = ToStr(rt, v);
  return s.is_string() && rt.Step(WeightOf(s)) && IsUpperText(s.text());
}

bool Remainder(Runtime& rt, const Value& v, const Value& divisor, int64_t wanted) {
  const Value rest = BinaryOp(rt, Op::kMod, v, divisor);
  return !rt.failed() && Equal(rest, Value::Int(wanted));
}
bool Odd(Runtime& rt, const Value& v, const CallArgs&) {
  return Remainder(rt, v, Value::Int(2), 1);
}
bool Even(Runtime& rt, const Value& v, const CallArgs&) {
  return Remainder(rt, v, Value::Int(2), 0);
}
bool DivisibleBy(Runtime& rt, const Value& v, const CallArgs& args) {
  const BoundArgs bound(rt, "divisibleby", args, {"num"}, 1);
  return !rt.failed() && Remainder(rt, v, *bound[0], 0);
}

template <Op kOp>
bool Compare(Runtime& rt, const Value& v, const CallArgs& args) {
  const BoundArgs bound(rt, "comparison", args, {"other"}, 1);
  return !rt.failed() && CompareOp(rt, kOp, v, *bound[0]);
}

bool SameAs(Runtime& rt, const Value& v, const CallArgs& args) {
  const BoundArgs bound(rt, "sameas", args, {"other"}, 1);
  if (rt.failed() || v.kind() != bound[0]->kind()) return false;
  if (v.object() != nullptr && !v.is_string()) return v.object() == bound[0]->object();
  return EqualOp(rt, v, *bound[0]);
}

bool IsFilter(Runtime&, const Value& v, const CallArgs&) {
  return v.is_string() &&
         (FindTextFilter(v.text()) != nullptr || FindSequenceFilter(v.text()) != nullptr);
}
bool IsTest(Runtime&, const Value& v, const CallArgs&) {
  return v.is_string() && FindTest(v.text()) != nullptr;
}

}  // namespace

Test FindTest(std::string_view name) {
  static const std::map<std::string_view, Test> table = {
      {"defined", Defined},
      {"undefined", Undefined},
      {"none", IsNone},
      {"boolean", IsBoolean},
      {"true", IsTrue},
      {"false", IsFalse},
      {"integer", IsInteger},
      {"float", IsFloat},
      {"number", IsNumber},
      {"string", IsString},
      {"mapping", IsMapping},
      {"sequence", IsSequence},
      {"iterable", IsIterable},
      {"callable", IsCallable},
      {"escaped", IsEscaped},
      {"lower", Lower},
      {"upper", Upper},
      {"odd", Odd},
      {"even", Even},
      {"divisibleby", DivisibleBy},
      {"sameas", SameAs},
      {"in", Compare<Op::kIn>},
      {"eq", Compare<Op::kEq>},
      {"==", Compare<Op::kEq>},
      {"equalto", Compare<Op::kEq>},
      {"ne", Compare<Op::kNe>},
      {"!=", Compare<Op::kNe>},
      {"lt", Compare<Op::kLt>},
      {"<", Compare<Op::kLt>},
      {"lessthan", Compare<Op::kLt>},
      {"le", Compare<Op::kLe>},
      {"<=", Compare<Op::kLe>},
      {"gt", Compare<Op::kGt>},
      {">", Compare<Op::kGt>},
      {"greaterthan", Compare<Op::kGt>},
      {"ge", Compare<Op::kGe>},
      {">=", Compare<Op::kGe>},
      {"filter", IsFilter},
      {"test", IsTest},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

bool CallTest(Runtime& rt, std::string_view name, const Value& input, const CallArgs& args) {
  if (rt.failed() || !rt.Step()) return false;
  const Test test = FindTest(name);
  if (test == nullptr) {
    rt.Fail(absl::StrCat("No test named '", Printable(name), "'."));
    return false;
  }
  return test(rt, input, args);
}

}  // namespace tutti::tokenizer::jinja
