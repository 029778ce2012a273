// Filters over lists, dicts and whatever can be iterated over.
#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/jinja/filters.h"
#include "shared/tokenizer/jinja/methods.h"
#include "shared/tokenizer/jinja/ops.h"
#include "shared/tokenizer/jinja/unicode.h"

namespace tutti::tokenizer::jinja {
namespace {

// "a.b.0" or an index, applied to items; empty: the item itself.
class AttributeGetter {
 public:
  AttributeGetter(Runtime& rt, const Value* attribute, const Value* fallback = nullptr)
      : rt_(rt), fallback_(fallback) {
    if (attribute == nullptr || attribute->none()) return;
    if (!attribute->is_string()) {
      parts_.push_back(*attribute);
      return;
    }
    std::string_view rest = attribute->text();
    for (;;) {
      const size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      int64_t n = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), n);
      const bool digits =
          !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
      parts_.push_back(digits && parsed.ec == std::errc() ? Value::Int(n) : rt.Str(part));
      if (dot == std::string_view::npos || rt.failed()) return;
      rest.remove_prefix(dot + 1);
    }
  }

  Value operator()(const Value& item) const {
    Value v = item;
    for (const Value& part : parts_) {
      v = GetItem(rt_, v, part);
      if (v.undefined() && fallback_ != nullptr) v = *fallback_;
    }
    return v;
  }

 private:
  Runtime& rt_;
  const Value* fallback_;
  std::vector<Value> parts_;
};

Value IgnoreCase(Runtime& rt, const Value& v) {
  if (!v.is_string()) return v;
  return rt.Room(static_cast<int64_t>(v.text().size())) ? rt.Str(ToLower(v.text())) : Value();
}

Value LengthFilter(Runtime& rt, const Value& input, const CallArgs&) {
  return Value::Int(Length(rt, input));
}

Value ListFilter(Runtime& rt, const Value& input, const CallArgs&) {
  return rt.List(Iterate(rt, input));
}

Value FirstFilter(Runtime& rt, const Value& input, const CallArgs&) {
  if (input.is_seq() && input.seq().seq_kind == SeqKind::kGenerator) {
    SeqObject& seq = input.mutable_seq();
    if (seq.next < seq.items.size()) return seq.items[seq.next++];
    return rt.Missing("No first item, sequence was empty.");
  }
  if (input.is_seq() && !input.seq().items.empty()) return input.seq().items.front();
  const auto items = Iterate(rt, input);
  return items.empty() ? rt.Missing("No first item, sequence was empty.") : items.front();
}

Value LastFilter(Runtime& rt, const Value& input, const CallArgs&) {
  if (input.is_seq() && input.seq().seq_kind == SeqKind::kGenerator) {
    return rt.Fail("'generator' object is not reversible");
  }
  if (input.is_seq() && !input.seq().items.empty()) return input.seq().items.back();
  const auto items = Iterate(rt, input);
  return items.empty() ? rt.Missing("No last item, sequence was empty.") : items.back();
}

Value ReverseFilter(Runtime& rt, const Value& input, const CallArgs&) {
  auto items = Iterate(rt, input);
  std::reverse(items.begin(), items.end());
  if (!input.is_string()) return rt.List(std::move(items), SeqKind::kGenerator);
  Text out(rt);
  for (const Value& item : items) {
    if (rt.failed() || !out.Add(item.text())) return {};
  }
  return out.Done();
}

Value JoinFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "join", args, {"d", "attribute"});
  if (rt.failed()) return {};
  const Value separator = bound.given(0) ? ToStr(rt, *bound[0]) : rt.Str("");
  const AttributeGetter get(rt, bound[1]);
  Text out(rt);
  bool first = true;
  for (const Value& item : Iterate(rt, input)) {
    if (rt.failed()) return {};
    if (!first) out.Add(separator.text());
    first = false;
    AppendStr(out, rt, get(item));
  }
  return out.Done();
}

Value ItemsFilter(Runtime& rt, const Value& input, const CallArgs&) {
  if (input.undefined()) return rt.List({}, SeqKind::kGenerator);
  if (!input.is_dict()) return rt.Fail("Can only get item pairs from a mapping.");
  std::vector<Value> items;
  for (const auto& [key, value] : input.dict().entries) {
    items.push_back(rt.Tuple({key, value}));
    if (rt.failed()) return {};
  }
  return rt.List(std::move(items), SeqKind::kGenerator);
}

// Sorts by keys made once per item; stable, and in Python's order also when reversed.
Value Sorted(Runtime& rt, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  const auto compare = [&](const auto& a, const auto& b) {
    if (!rt.Step()) return false;
    return reverse ? Less(rt, b.first, a.first) : Less(rt, a.first, b.first);
  };
  std::stable_sort(keyed.begin(), keyed.end(), compare);
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& entry : keyed) items.push_back(std::move(entry.second));
  return rt.List(std::move(items));
}

Value SortFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "sort", args, {"reverse", "case_sensitive", "attribute"});
  if (rt.failed()) return {};
  const bool case_sensitive = bound.Bool(1, false);
  // "a,b": by several attributes.
  std::vector<AttributeGetter> getters;
  std::vector<Value> names;
  if (bound.given(2) && bound[2]->is_string()) {
    std::string_view rest = bound[2]->text();
    for (;;) {
      const size_t comma = rest.find(',');
      names.push_back(rt.Str(rest.substr(0, comma)));
      if (comma == std::string_view::npos || rt.failed()) break;
      rest.remove_prefix(comma + 1);
    }
    for (const Value& name : names) getters.emplace_back(rt, &name);
  } else {
    getters.emplace_back(rt, bound[2]);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Iterate(rt, input)) {
    std::vector<Value> key;
    for (const auto& get : getters)
      key.push_back(case_sensitive ? get(item) : IgnoreCase(rt, get(item)));
    keyed.emplace_back(rt.List(std::move(key)), item);
    if (rt.failed()) return {};
  }
  return Sorted(rt, std::move(keyed), bound.Bool(0, false));
}

Value DictSort(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound.Text(1, "key");
  if (rt.failed()) return {};
  if (by != "key" && by != "value")
    return rt.Fail("You can only sort by either \"key\" or \"value\"");
  if (input.undefined()) return rt.FailUndefined(input);
  if (!input.is_dict()) return rt.Fail("dictsort() wants a mapping");
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.dict().entries) {
    const Value& what = by == "key" ? key : value;
    keyed.emplace_back(bound.Bool(0, false) ? what : IgnoreCase(rt, what), rt.Tuple({key, value}));
    if (rt.failed()) return {};
  }
  return Sorted(rt, std::move(keyed), bound.Bool(2, false));
}

Value UniqueFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "unique", args, {"case_sensitive", "attribute"});
  if (rt.failed()) return {};
  const AttributeGetter get(rt, bound[1]);
  std::vector<Value> out;
  DictObject seen;
  for (const Value& item : Iterate(rt, input)) {
    const Value key = bound.Bool(0, false) ? get(item) : IgnoreCase(rt, get(item));
    if (rt.failed()) return {};
    if (!Hashable(key))
      return rt.Fail(absl::StrCat("unhashable type: '", ToAbsl(TypeName(key)), "'"));
    if (!rt.Step(8 * WeightOf(key))) return {};
    if (seen.Find(key) != nullptr) continue;
    seen.Put(key, Value::None());
    out.push_back(item);
  }
  return rt.List(std::move(out), SeqKind::kGenerator);
}

template <bool kMax>
Value MinMax(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, kMax ? "max" : "min", args, {"case_sensitive", "attribute"});
  if (rt.failed()) return {};
  const AttributeGetter get(rt, bound[1]);
  const auto items = Iterate(rt, input);
  if (items.empty()) return rt.Missing("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    const Value key = bound.Bool(0, false) ? get(items[i]) : IgnoreCase(rt, get(items[i]));
    if (i == 0 || (kMax ? Less(rt, best_key, key) : Less(rt, key, best_key))) {
      best = i;
      best_key = key;
    }
    if (rt.failed()) return {};
  }
  return items[best];
}

Value SumFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "sum", args, {"attribute", "start"});
  if (rt.failed()) return {};
  const AttributeGetter get(rt, bound[0]);
  Value total = bound.given(1) ? *bound[1] : Value::Int(0);
  if (total.is_string()) return rt.Fail("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : Iterate(rt, input)) {
    total = BinaryOp(rt, Op::kAdd, total, get(item));
    if (rt.failed()) return {};
  }
  return total;
}

Value BatchFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "batch", args, {"linecount", "fill_with"}, 1);
  const int64_t size = bound.Int(0, 1);
  if (rt.failed()) return {};
  std::vector<Value> out, row;
  for (const Value& item : Iterate(rt, input)) {
    if (static_cast<int64_t>(row.size()) == size) {
      out.push_back(rt.List(std::move(row)));
      row = {};
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (bound.given(1) && !bound[1]->none() && static_cast<int64_t>(row.size()) < size) {
      if (size > 100'000) return rt.Exhaust("items in a batch");
      row.resize(static_cast<size_t>(size), *bound[1]);
    }
    out.push_back(rt.List(std::move(row)));
  }
  return rt.List(std::move(out), SeqKind::kGenerator);
}

Value SliceFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "slice", args, {"slices", "fill_with"}, 1);
  const int64_t slices = bound.Int(0, 1);
  if (rt.failed()) return {};
  if (slices < 1 || slices > 100'000) return rt.Fail("slice() wants 1 to 100000 slices");
  const auto items = Iterate(rt, input);
  const int64_t size = static_cast<int64_t>(items.size());
  const int64_t per_slice = size / slices, with_extra = size % slices;
  std::vector<Value> out;
  int64_t offset = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t n = per_slice + (i < with_extra ? 1 : 0);
    std::vector<Value> row(items.begin() + offset, items.begin() + offset + n);
    offset += n;
    if (bound.given(1) && !bound[1]->none() && i >= with_extra) row.push_back(*bound[1]);
    out.push_back(rt.List(std::move(row)));
    if (rt.failed()) return {};
  }
  return rt.List(std::move(out), SeqKind::kGenerator);
}

CallArgs Rest(const CallArgs& args, size_t skip) {
  CallArgs rest;
  rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(skip),
                         args.positional.end());
  rest.named = args.named;
  return rest;
}

// As Jinja: of a false value (none, an empty list) nothing is asked, not even the arguments.
Value MapFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  if (!Truthy(input)) return rt.List({}, SeqKind::kGenerator);
  std::vector<Value> out;
  if (args.positional.empty()) {
    const BoundArgs bound(rt, "map", args, {"attribute", "default"});
    if (rt.failed()) return {};
    if (!bound.given(0)) return rt.Fail("map requires a filter argument");
    const Value* fallback = bound.given(1) && !bound[1]->none() ? bound[1] : nullptr;
    const AttributeGetter get(rt, bound[0], fallback);
    for (const Value& item : Iterate(rt, input)) {
      out.push_back(get(item));
      if (rt.failed()) return {};
    }
    return rt.List(std::move(out), SeqKind::kGenerator);
  }
  if (!args.positional[0].is_string()) return rt.Fail("map wants the name of a filter");
  const CallArgs rest = Rest(args, 1);
  for (const Value& item : Iterate(rt, input)) {
    out.push_back(CallFilter(rt, args.positional[0].text(), item, rest));
    if (rt.failed()) return {};
  }
  return rt.List(std::move(out), SeqKind::kGenerator);
}

template <bool kKeep, bool kAttribute>
Value SelectFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  if (!Truthy(input)) return rt.List({}, SeqKind::kGenerator);
  size_t skip = 0;
  std::optional<AttributeGetter> get;
  if (kAttribute) {
    if (args.positional.empty()) return rt.Fail("Missing parameter for attribute name");
    get.emplace(rt, &args.positional[0]);
    skip = 1;
  }
  const bool by_test = args.positional.size() > skip;
  if (by_test && !args.positional[skip].is_string())
    return rt.Fail("select wants the name of a test");
  const CallArgs rest = by_test ? Rest(args, skip + 1) : CallArgs{};
  std::vector<Value> out;
  for (const Value& item : Iterate(rt, input)) {
    const Value v = kAttribute ? (*get)(item) : item;
    const bool ok = by_test ? CallTest(rt, args.positional[skip].text(), v, rest) : Truthy(v);
    if (rt.failed()) return {};
    if (ok == kKeep) out.push_back(item);
  }
  return rt.List(std::move(out), SeqKind::kGenerator);
}

Value GroupBy(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  if (rt.failed()) return {};
  const AttributeGetter get(rt, bound[0], bound[1]);
  const bool case_sensitive = bound.Bool(2, false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : Iterate(rt, input)) {
    keyed.emplace_back(case_sensitive ? get(item) : IgnoreCase(rt, get(item)), item);
    if (rt.failed()) return {};
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return rt.Step() && Less(rt, a.first, b.first);
  });
  std::vector<Value> out, group;
  for (size_t i = 0; i < keyed.size() && !rt.failed(); ++i) {
    group.push_back(keyed[i].second);
    if (i + 1 == keyed.size() || !EqualOp(rt, keyed[i].first, keyed[i + 1].first)) {
      // The first item's own spelling names the group.
      const Value name = get(group.front());
      out.push_back(rt.Tuple({name, rt.List(std::move(group))}));
      group = {};
    }
  }
  return rt.List(std::move(out));
}

Value AttrFilter(Runtime& rt, const Value& input, const CallArgs& args) {
  const BoundArgs bound(rt, "attr", args, {"name"}, 1);
  const std::string_view name = bound.Text(0, "");
  if (rt.failed()) return {};
  // Attributes alone: items of a dict do not count.
  if (input.is_dict() && !HasMethod(input, name)) {
    return rt.Missing(absl::StrCat("'dict object' has no attribute '", Printable(name), "'"));
  }
  return GetAttribute(rt, input, name);
}

}  // namespace

Filter FindSequenceFilter(std::string_view name) {
  static const std::map<std::string_view, Filter> table = {
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"list", ListFilter},
      {"first", FirstFilter},
      {"last", LastFilter},
      {"reverse", ReverseFilter},
      {"join", JoinFilter},
      {"items", ItemsFilter},
      {"sort", SortFilter},
      {"dictsort", DictSort},
      {"unique", UniqueFilter},
      {"min", MinMax<false>},
      {"max", MinMax<true>},
      {"sum", SumFilter},
      {"batch", BatchFilter},
      {"slice", SliceFilter},
      {"map", MapFilter},
      {"select", SelectFilter<true, false>},
      {"reject", SelectFilter<false, false>},
      {"selectattr", SelectFilter<true, true>},
      {"rejectattr", SelectFilter<false, true>},
      {"groupby", GroupBy},
      {"attr", AttrFilter},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace tutti::tokenizer::jinja
