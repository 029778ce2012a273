#include "shared/tokenizer/jinja/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/function.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

std::string_view Symbol(Op op) {
  switch (op) {
    case Op::kAdd:
      return "+";
    case Op::kSub:
      return "-";
    case Op::kMul:
      return "*";
    case Op::kDiv:
      return "/";
    case Op::kFloorDiv:
      return "//";
    case Op::kMod:
      return "%";
    case Op::kPow:
      return "** or pow()";
    case Op::kLt:
      return "<";
    case Op::kLe:
      return "<=";
    case Op::kGt:
      return ">";
    case Op::kGe:
      return ">=";
    default:
      return "?";
  }
}

Value Unsupported(Runtime& rt, Op op, const Value& a, const Value& b) {
  if (op == Op::kAdd && a.is_string()) {
    return rt.Fail(
        absl::StrCat("can only concatenate str (not \"", ToAbsl(TypeName(b)), "\") to str"));
  }
  return rt.Fail(absl::StrCat("unsupported operand type(s) for ", ToAbsl(Symbol(op)), ": '",
                              ToAbsl(TypeName(a)), "' and '", ToAbsl(TypeName(b)), "'"));
}

Value Overflow(Runtime& rt) {
  rt.Exhaust("digits in an integer");
  return {};
}

Value IntPow(Runtime& rt, int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow(rt);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return Overflow(rt);
  }
  return Value::Int(result);
}

// Powers by whole exponents only: no library function decides a template's text.
Value FloatPow(Runtime& rt, double base, double exponent) {
  if (exponent != std::floor(exponent) || std::fabs(exponent) > 4096) {
    return rt.Fail("powers of floats must be whole numbers up to 4096 here");
  }
  const bool inverse = exponent < 0;
  double result = 1;
  for (int64_t n = static_cast<int64_t>(std::fabs(exponent)); n > 0; n >>= 1, base *= base) {
    if ((n & 1) != 0) result *= base;
  }
  if (inverse && result == 0) return rt.Fail("0.0 cannot be raised to a negative power");
  return Value::Float(inverse ? 1 / result : result);
}

Value IntOp(Runtime& rt, Op op, int64_t a, int64_t b) {
  int64_t r = 0;
  switch (op) {
    case Op::kAdd:
      return __builtin_add_overflow(a, b, &r) ? Overflow(rt) : Value::Int(r);
    case Op::kSub:
      return __builtin_sub_overflow(a, b, &r) ? Overflow(rt) : Value::Int(r);
    case Op::kMul:
      return __builtin_mul_overflow(a, b, &r) ? Overflow(rt) : Value::Int(r);
    case Op::kDiv:
      if (b == 0) return rt.Fail("division by zero");
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    case Op::kFloorDiv:
    case Op::kMod: {
      if (b == 0) return rt.Fail("integer division or modulo by zero");
      if (b == -1) {  // the one quotient that overflows
        if (op == Op::kMod) return Value::Int(0);
        return a == std::numeric_limits<int64_t>::min() ? Overflow(rt) : Value::Int(-a);
      }
      int64_t q = a / b, m = a % b;
      if (m != 0 && (m < 0) != (b < 0)) {
        --q;
        m += b;
      }
      return Value::Int(op == Op::kMod ? m : q);
    }
    default:
      return b < 0 ? FloatPow(rt, static_cast<double>(a), static_cast<double>(b))
                   : IntPow(rt, a, b);
  }
}

Value FloatOp(Runtime& rt, Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::Float(a + b);
    case Op::kSub:
      return Value::Float(a - b);
    case Op::kMul:
      return Value::Float(a * b);
    case Op::kDiv:
      return b == 0 ? rt.Fail("float division by zero") : Value::Float(a / b);
    case Op::kFloorDiv:
    case Op::kMod: {
      if (b == 0) return rt.Fail("float floor division by zero");
      double m = std::fmod(a, b);
      if (m != 0 && (m < 0) != (b < 0)) m += b;
      if (op == Op::kMod) return Value::Float(m);
      return Value::Float(std::floor((a - m) / b + 0.5));
    }
    default:
      return FloatPow(rt, a, b);
  }
}

Value RepeatValue(Runtime& rt, const Value& v, int64_t times) {
  if (v.is_string()) {
    Text out(rt);
    out.Repeat(v.text(), times);
    return out.Done();
  }
  const SeqObject& seq = v.seq();
  std::vector<Value> items;
  if (times > 0 && !seq.items.empty()) {
    const int64_t size = static_cast<int64_t>(seq.items.size());
    if (times > rt.limits().memory_bytes / static_cast<int64_t>(sizeof(Value)) / size) {
      return rt.Exhaust("memory");
    }
    if (!rt.Room(times * size * static_cast<int64_t>(sizeof(Value)))) return {};
    items.reserve(static_cast<size_t>(times * size));
    for (int64_t i = 0; i < times; ++i)
      items.insert(items.end(), seq.items.begin(), seq.items.end());
  }
  return rt.List(std::move(items), seq.seq_kind);
}

bool Repeatable(const Value& v) {
  return v.is_string() || (v.is_seq() && (v.seq().seq_kind == SeqKind::kList ||
                                          v.seq().seq_kind == SeqKind::kTuple));
}

Value AddStrings(Runtime& rt, const Value& a, const Value& b) {
  const bool markup = a.markup() || b.markup();
  const Value left = markup && !a.markup() ? EscapeHtml(rt, a) : a;
  const Value right = markup && !b.markup() ? EscapeHtml(rt, b) : b;
  if (rt.failed()) return {};
  if (!rt.Room(static_cast<int64_t>(left.text().size() + right.text().size()))) return {};
  std::string s;
  s.reserve(left.text().size() + right.text().size());
  s.append(left.text()).append(right.text());
  return rt.Str(std::move(s)).WithMarkup(markup);
}

}  // namespace

Value BinaryOp(Runtime& rt, Op op, const Value& a, const Value& b) {
  if (rt.failed()) return {};
  if (a.undefined()) return rt.FailUndefined(a);
  if (op == Op::kMod && a.is_string()) return PercentFormat(rt, a.text(), b);
  if (b.undefined()) return rt.FailUndefined(b);
  if (a.integral() && b.integral()) return IntOp(rt, op, a.as_int(), b.as_int());
  if (a.numeric() && b.numeric()) return FloatOp(rt, op, a.as_float(), b.as_float());
  if (op == Op::kAdd) {
    if (a.is_string() && b.is_string()) return AddStrings(rt, a, b);
    if (Repeatable(a) && Repeatable(b) && a.is_seq() && b.is_seq() &&
        a.seq().seq_kind == b.seq().seq_kind) {
      const auto &x = a.seq().items, &y = b.seq().items;
      if (!rt.Room(static_cast<int64_t>((x.size() + y.size()) * sizeof(Value)))) return {};
      std::vector<Value> items(x);
      items.insert(items.end(), y.begin(), y.end());
      return rt.List(std::move(items), a.seq().seq_kind);
    }
  }
  if (op == Op::kMul) {
    if (Repeatable(a) && b.integral()) return RepeatValue(rt, a, b.as_int());
    if (Repeatable(b) && a.integral()) return RepeatValue(rt, b, a.as_int());
  }
  return Unsupported(rt, op, a, b);
}

Value Negate(Runtime& rt, const Value& v, bool positive) {
  if (rt.failed()) return {};
  if (v.undefined()) return rt.FailUndefined(v);
  if (v.integral()) {
    if (positive) return Value::Int(v.as_int());
    return v.as_int() == std::numeric_limits<int64_t>::min() ? Overflow(rt)
                                                             : Value::Int(-v.as_int());
  }
  if (v.kind() == Kind::kFloat) return Value::Float(positive ? v.as_float() : -v.as_float());
  return rt.Fail(absl::StrCat("bad operand type for unary ", positive ? "+" : "-", ": '",
                              ToAbsl(TypeName(v)), "'"));
}

bool EqualOp(Runtime& rt, const Value& a, const Value& b) {
  return rt.Step(std::min(WeightOf(a), WeightOf(b))) && Equal(a, b);
}

bool Less(Runtime& rt, const Value& a, const Value& b) {
  if (rt.failed()) return false;
  if (a.undefined() || b.undefined()) {
    rt.FailUndefined(a.undefined() ? a : b);
    return false;
  }
  if (a.integral() && b.integral()) return a.as_int() < b.as_int();
  if (a.numeric() && b.numeric()) return a.as_float() < b.as_float();
  if (a.is_string() && b.is_string()) {
    return rt.Step(std::min(WeightOf(a), WeightOf(b))) && a.text() < b.text();
  }
  if (a.is_seq() && b.is_seq() && a.seq().seq_kind == b.seq().seq_kind && Repeatable(a)) {
    const auto &x = a.seq().items, &y = b.seq().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!EqualOp(rt, x[i], y[i])) return Less(rt, x[i], y[i]);
    }
    return x.size() < y.size();
  }
  rt.Fail(absl::StrCat("'<' not supported between instances of '", ToAbsl(TypeName(a)), "' and '",
                       ToAbsl(TypeName(b)), "'"));
  return false;
}

namespace {

bool Contains(Runtime& rt, const Value& item, const Value& container) {
  if (container.is_string()) {
    if (!item.is_string()) {
      rt.Fail(absl::StrCat("'in <string>' requires string as left operand, not ",
                           ToAbsl(TypeName(item))));
      return false;
    }
    return rt.Step(WeightOf(container)) && container.text().find(item.text()) != std::string::npos;
  }
  if (container.is_dict()) {
    if (!Hashable(item)) {
      rt.Fail(absl::StrCat("unhashable type: '", ToAbsl(TypeName(item)), "'"));
      return false;
    }
    return rt.Step(8 * WeightOf(item)) && container.dict().Find(item) != nullptr;
  }
  if (!Iterable(container)) {
    rt.Fail(absl::StrCat("argument of type '", ToAbsl(TypeName(container)), "' is not iterable"));
    return false;
  }
  for (const Value& element : Iterate(rt, container)) {
    if (EqualOp(rt, element, item)) return true;
    if (rt.failed()) return false;
  }
  return false;
}

}  // namespace

bool CompareOp(Runtime& rt, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return EqualOp(rt, a, b);
    case Op::kNe:
      return !EqualOp(rt, a, b);
    case Op::kIn:
      return Contains(rt, a, b);
    case Op::kNotIn:
      return !Contains(rt, a, b);
    case Op::kLt:
      return Less(rt, a, b);
    case Op::kGt:
      return Less(rt, b, a);
    default:
      break;
  }
  // <= and >=: for floats a NaN makes both false, so not the negation of the other.
  const bool swap = op == Op::kGe;
  const Value &x = swap ? b : a, &y = swap ? a : b;
  if (Less(rt, x, y)) return true;
  return !rt.failed() && EqualOp(rt, x, y);
}

bool Iterable(const Value& v) {
  return v.undefined() || v.is_string() || v.is_seq() || v.is_dict() || v.kind() == Kind::kLoop;
}

std::vector<Value> Iterate(Runtime& rt, const Value& v) {
  std::vector<Value> out;
  if (rt.failed() || v.undefined()) return out;
  if (v.is_seq()) {
    if (v.seq().seq_kind == SeqKind::kGenerator) {
      SeqObject& seq = v.mutable_seq();
      out.assign(seq.items.begin() + static_cast<ptrdiff_t>(seq.next), seq.items.end());
      seq.next = seq.items.size();
    } else {
      out = v.seq().items;
    }
    rt.Step(static_cast<int64_t>(out.size()));
    return out;
  }
  if (v.is_dict()) {
    for (const auto& entry : v.dict().entries) out.push_back(entry.first);
    rt.Step(static_cast<int64_t>(out.size()));
    return out;
  }
  if (v.is_string()) {
    const std::string& s = v.text();
    if (!rt.Room(static_cast<int64_t>(s.size() * sizeof(Value)))) return out;
    for (size_t i = 0; i < s.size();) {
      const size_t n = static_cast<size_t>(DecodeAt(s, i).bytes);
      out.push_back(rt.Str(s.substr(i, n)));
      if (rt.failed()) return out;
      i += n;
    }
    return out;
  }
  rt.Fail(absl::StrCat("'", ToAbsl(TypeName(v)), "' object is not iterable"));
  return out;
}

int64_t Length(Runtime& rt, const Value& v) {
  if (v.undefined()) return 0;
  if (v.is_string()) {
    rt.Step(WeightOf(v));
    return v.string().ascii ? static_cast<int64_t>(v.text().size()) : CountCodePoints(v.text());
  }
  if (v.is_dict()) return static_cast<int64_t>(v.dict().entries.size());
  if (v.is_seq() && v.seq().seq_kind != SeqKind::kGenerator) {
    return static_cast<int64_t>(v.seq().items.size());
  }
  if (v.kind() == Kind::kLoop) return static_cast<int64_t>(v.loop().items.size());
  rt.Fail(absl::StrCat("object of type '", ToAbsl(TypeName(v)), "' has no len()"));
  return 0;
}

}  // namespace tutti::tokenizer::jinja
