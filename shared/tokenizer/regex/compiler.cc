#include "shared/tokenizer/regex/compiler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tutti::tokenizer::regex {
namespace {

constexpr size_t kInstructionsMax = 20000;
constexpr size_t kBehindMax = 256;  // characters of one lookbehind, over all alternatives

using Kind = Node::Kind;
using Greed = Node::Greed;

absl::Status Refuse(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

}  // namespace

int32_t Compiler::Add(Op op, int32_t a, int32_t b) {
  program_.code_.push_back({.op = op, .a = a, .b = b});
  return Here() - 1;
}

int32_t Compiler::AddChoice(Op op, int32_t a, int32_t b) {
  const int32_t at = Add(op, a, b);
  program_.code_.back().choice = static_cast<int32_t>(program_.num_choices_++);
  if (in_atomic_) program_.code_.back().ends = static_cast<int32_t>(program_.num_ends_++);
  return at;
}

int32_t Compiler::SetId(const CharSet& set) {
  const auto it = std::find(sets_.begin(), sets_.end(), set);
  if (it != sets_.end()) return static_cast<int32_t>(it - sets_.begin());
  sets_.push_back(set);
  program_.sets_.emplace_back(set);
  return static_cast<int32_t>(sets_.size() - 1);
}

Compiler::First Compiler::FirstOf(const Node& node) const {
  switch (node.kind) {
    case Kind::kSet:
      return {node.set, false};
    case Kind::kSequence: {
      First all{{}, true};
      for (const auto& kid : node.kids) {
        const First f = FirstOf(*kid);
        all.set = all.set.Union(f.set);
        if (!f.empty) return {all.set, false};
      }
      return all;
    }
    case Kind::kChoice: {
      First all;
      for (const auto& kid : node.kids) {
        const First f = FirstOf(*kid);
        all.set = all.set.Union(f.set);
        all.empty |= f.empty;
      }
      return all;
    }
    case Kind::kRepeat: {
      First f = FirstOf(*node.kids[0]);
      f.empty |= node.min == 0;
      return f;
    }
    case Kind::kAtomic:
      return FirstOf(*node.kids[0]);
    default:
      return {{}, true};
  }
}

absl::Status Compiler::Emit(const Node& node) {
  if (program_.code_.size() > kInstructionsMax || ++num_emitted_ > 10 * kInstructionsMax) {
    return Refuse(absl::StrCat("the pattern, with its repetitions written out, has over ",
                               kInstructionsMax, " steps"));
  }
  switch (node.kind) {
    case Kind::kEmpty:
      return absl::OkStatus();
    case Kind::kSet:
      Add(Op::kSet, SetId(node.set));
      return absl::OkStatus();
    case Kind::kSequence:
      for (const auto& kid : node.kids) TUTTI_RETURN_IF_ERROR(Emit(*kid));
      return absl::OkStatus();
    case Kind::kChoice:
      return EmitChoice(node);
    case Kind::kRepeat:
      return EmitRepeat(node);
    case Kind::kLook:
      return EmitLook(node);
    case Kind::kAtomic:
      return EmitAtomic(*node.kids[0]);
    case Kind::kAssertion:
      if (node.assertion == Node::Assertion::kWordBoundary ||
          node.assertion == Node::Assertion::kNoWordBoundary) {
        program_.word_set_ = SetId(LoneWordChars());
      }
      Add(Op::kAssert, static_cast<int32_t>(node.assertion));
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Compiler::EmitChoice(const Node& node) {
  std::vector<int32_t> jumps;
  for (size_t i = 0; i + 1 < node.kids.size(); ++i) {
    const int32_t split = AddChoice(Op::kSplit);
    const First first = FirstOf(*node.kids[i]);
    program_.code_[split].a = Here();
    if (!first.empty) program_.code_[split].first = SetId(first.set);
    TUTTI_RETURN_IF_ERROR(Emit(*node.kids[i]));
    jumps.push_back(Add(Op::kJump));
    program_.code_[split].b = Here();
  }
  TUTTI_RETURN_IF_ERROR(Emit(*node.kids.back()));
  for (const int32_t jump : jumps) program_.code_[jump].a = Here();
  return absl::OkStatus();
}

absl::Status Compiler::EmitOptional(const Node& kid, int times, bool lazy) {
  std::vector<int32_t> splits;
  const First first = FirstOf(kid);
  for (int i = 0; i < times; ++i) {
    const int32_t split = AddChoice(Op::kSplit);
    splits.push_back(split);
    (lazy ? program_.code_[split].b : program_.code_[split].a) = Here();
    if (!lazy && !first.empty) program_.code_[split].first = SetId(first.set);
    TUTTI_RETURN_IF_ERROR(Emit(kid));
  }
  for (const int32_t split : splits)
    (lazy ? program_.code_[split].a : program_.code_[split].b) = Here();
  return absl::OkStatus();
}

absl::Status Compiler::EmitRepeat(const Node& node) {
  const Node& kid = *node.kids[0];
  if (node.greed == Greed::kPossessive) {
    if (kid.kind != Kind::kSet) {
      Node greedy;
      greedy.kind = Kind::kRepeat;
      greedy.min = node.min;
      greedy.max = node.max;
      // The kid is lent for the call.
      auto* self = const_cast<Node*>(&node);
      greedy.kids.push_back(std::move(self->kids[0]));
      const absl::Status status = EmitAtomic(greedy);
      self->kids[0] = std::move(greedy.kids[0]);
      return status;
    }
    // As many as there are: what follows is none of them.
    const int32_t set = SetId(kid.set);
    for (int i = 0; i < node.min; ++i) Add(Op::kSet, set);
    if (node.max < 0) {
      AddChoice(Op::kLoop, set);
      Add(Op::kNotSet, set);
      return absl::OkStatus();
    }
    // X?+: one, or none where there is none.
    const int32_t split = AddChoice(Op::kSplit);
    program_.code_[split].a = Here();
    program_.code_[split].first = set;
    Add(Op::kSet, set);
    const int32_t jump = Add(Op::kJump);
    program_.code_[split].b = Here();
    Add(Op::kNotSet, set);
    program_.code_[jump].a = Here();
    return absl::OkStatus();
  }
  const bool lazy = node.greed == Greed::kLazy;
  for (int i = 0; i < node.min; ++i) TUTTI_RETURN_IF_ERROR(Emit(kid));
  if (node.max >= 0) return EmitOptional(kid, node.max - node.min, lazy);
  // (X*)*, (X+)* and (X?)* are X*.
  const Node* body = &kid;
  while (!lazy && body->kind == Kind::kRepeat && body->greed == Greed::kGreedy && body->min <= 1 &&
         (body->max < 0 || body->max == 1) && FirstOf(*body).empty) {
    body = body->kids[0].get();
  }
  const First first = FirstOf(*body);
  if (first.empty) return Refuse("a group that may match nothing is repeated without bound");
  if (body->kind == Kind::kSet && !lazy) {
    AddChoice(Op::kLoop, SetId(body->set));
    return absl::OkStatus();
  }
  const int32_t split = AddChoice(Op::kSplit);
  (lazy ? program_.code_[split].b : program_.code_[split].a) = Here();
  if (!lazy) program_.code_[split].first = SetId(first.set);
  TUTTI_RETURN_IF_ERROR(Emit(*body));
  Add(Op::kJump, split);
  (lazy ? program_.code_[split].a : program_.code_[split].b) = Here();
  return absl::OkStatus();
}

absl::Status Compiler::Sequences(const Node& node, Program::Sequences* out) {
  constexpr std::string_view kWhat =
      "a lookbehind other than characters one after the other, or alternatives of such, is not "
      "supported";
  switch (node.kind) {
    case Kind::kEmpty:
      out->emplace_back();
      return absl::OkStatus();
    case Kind::kSet:
      out->push_back({SetId(node.set)});
      return absl::OkStatus();
    case Kind::kChoice:
      for (const auto& kid : node.kids) TUTTI_RETURN_IF_ERROR(Sequences(*kid, out));
      return absl::OkStatus();
    case Kind::kSequence: {
      std::vector<int32_t> all;
      for (const auto& kid : node.kids) {
        Program::Sequences part;
        TUTTI_RETURN_IF_ERROR(Sequences(*kid, &part));
        if (part.size() != 1) return Refuse(kWhat);
        all.insert(all.end(), part[0].begin(), part[0].end());
      }
      out->push_back(std::move(all));
      return absl::OkStatus();
    }
    case Kind::kRepeat: {
      if (node.min != node.max || static_cast<size_t>(node.min) > kBehindMax) return Refuse(kWhat);
      Program::Sequences part;
      TUTTI_RETURN_IF_ERROR(Sequences(*node.kids[0], &part));
      if (part.size() != 1) return Refuse(kWhat);
      std::vector<int32_t> all;
      for (int i = 0; i < node.min && all.size() <= kBehindMax; ++i)
        all.insert(all.end(), part[0].begin(), part[0].end());
      out->push_back(std::move(all));
      return absl::OkStatus();
    }
    default:
      return Refuse(kWhat);
  }
}

absl::Status Compiler::EmitLook(const Node& node) {
  const Node& kid = *node.kids[0];
  if (node.behind) {
    Program::Sequences sequences;
    TUTTI_RETURN_IF_ERROR(Sequences(kid, &sequences));
    size_t all = 0;
    for (const auto& s : sequences) all += s.size() + 1;
    if (all > kBehindMax)
      return Refuse(absl::StrCat("a lookbehind of over ", kBehindMax, " characters"));
    program_.looks_.push_back(std::move(sequences));
    Add(Op::kBehind, static_cast<int32_t>(program_.looks_.size()) - 1);
    program_.code_.back().flag = node.negative;
    return absl::OkStatus();
  }
  if (kid.kind == Kind::kSet) {
    Add(node.negative ? Op::kNotSet : Op::kIsSet, SetId(kid.set));
    return absl::OkStatus();
  }
  program_.has_inner_ = true;
  const int32_t look = Add(Op::kLook);
  program_.code_[look].flag = node.negative;
  program_.code_[look].a = Here();
  const bool outer = std::exchange(in_atomic_, false);
  TUTTI_RETURN_IF_ERROR(Emit(kid));
  in_atomic_ = outer;
  Add(Op::kAccept);
  program_.code_[look].b = Here();
  return absl::OkStatus();
}

absl::Status Compiler::EmitAtomic(const Node& kid) {
  program_.has_inner_ = true;
  const int32_t atomic = Add(Op::kAtomic);
  program_.code_[atomic].a = Here();
  const bool outer = std::exchange(in_atomic_, true);
  TUTTI_RETURN_IF_ERROR(Emit(kid));
  in_atomic_ = outer;
  Add(Op::kAccept);
  program_.code_[atomic].b = Here();
  return absl::OkStatus();
}

absl::Status Compiler::Run(const Node& root) {
  TUTTI_RETURN_IF_ERROR(Emit(root));
  Add(Op::kAccept);
  return absl::OkStatus();
}

}  // namespace tutti::tokenizer::regex
