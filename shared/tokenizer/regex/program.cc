#include "shared/tokenizer/regex/program.h"

#include <algorithm>

#include "shared/tokenizer/regex/compiler.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer::regex {

absl::StatusOr<std::unique_ptr<Program>> Program::Compile(std::string_view pattern) {
  TUTTI_ASSIGN_OR_RETURN(const auto root, ParsePattern(pattern));
  auto program = std::make_unique<Program>();
  TUTTI_RETURN_IF_ERROR(Compiler(program.get()).Run(*root));
  return program;
}

Program::Search::Search(const Program& program, std::string_view text)
    : program_(program),
      text_(text),
      size_(static_cast<uint32_t>(text.size())),
      words_(text.size() / 64 + 1),
      tried_(program.num_choices_ * words_),
      succeeded_(program.has_inner_ ? tried_.size() : 0),
      ends_(program.num_ends_ * (text.size() + 1)) {}

uint32_t Program::Search::Decode(uint32_t position, uint32_t* next) const {
  const CodePoint c = DecodeUtf8(text_.data() + position, text_.data() + size_);
  *next = position + c.length;
  return c.value;
}

uint32_t Program::Search::Before(uint32_t position) const {
  uint32_t at = position - 1;
  for (int back = 1; back < 4 && at > 0 && (static_cast<uint8_t>(text_[at]) & 0xC0) == 0x80; ++back)
    --at;
  uint32_t next;
  Decode(at, &next);
  return next == position ? at : position - 1;  // a byte that is no character
}

bool Program::Search::IsWord(uint32_t position) const {
  if (position >= size_) return false;
  uint32_t next;
  return program_.sets_[static_cast<size_t>(program_.word_set_)].Contains(Decode(position, &next));
}

bool Program::Search::Assert(Node::Assertion assertion, uint32_t p) const {
  using Assertion = Node::Assertion;
  switch (assertion) {
    case Assertion::kLineStart:  // behind a line break that something follows
      return p == 0 || (p < size_ && text_[p - 1] == '\n');
    case Assertion::kLineEnd:
      return p == size_ || text_[p] == '\n';
    case Assertion::kTextStart:
      return p == 0;
    case Assertion::kTextEnd:
      return p == size_;
    case Assertion::kTextEndOrNewline:
      return p == size_ || (p + 1 == size_ && text_[p] == '\n');
    case Assertion::kWordBoundary:
    case Assertion::kNoWordBoundary:
      return ((p > 0 && IsWord(Before(p))) != IsWord(p)) == (assertion == Assertion::kWordBoundary);
  }
  return false;
}

bool Program::Search::Behind(uint32_t look, uint32_t position) const {
  for (const std::vector<int32_t>& sets : program_.looks_[look]) {
    uint32_t at = position;
    size_t i = sets.size();
    for (; i > 0 && at > 0; --i) {
      const uint32_t before = Before(at);
      uint32_t next;
      if (!program_.sets_[static_cast<size_t>(sets[i - 1])].Contains(Decode(before, &next))) break;
      at = before;
    }
    if (i == 0) return true;
  }
  return false;
}

void Program::Search::Set(std::vector<uint64_t>& bits, uint32_t choice, uint32_t first,
                          uint32_t last) {
  uint64_t* row = bits.data() + choice * words_;
  const size_t a = first / 64, b = last / 64;
  const uint64_t low = ~uint64_t{0} << (first % 64), high = ~uint64_t{0} >> (63 - last % 64);
  if (a == b) {
    row[a] |= low & high;
    return;
  }
  row[a] |= low;
  for (size_t w = a + 1; w < b; ++w) row[w] = ~uint64_t{0};
  row[b] |= high;
}

// `inner`: of a lookahead or an atomic group, whose successes are remembered as well as failures. A
// pair that was tried and is still being tried cannot come up again before its end: every way from
// a choice back to it takes a character.
bool Program::Search::Run(uint32_t pc, uint32_t at, bool inner, uint32_t* end) {
  const size_t base = stack_.size();
  const auto& code = program_.code_;
  bool good = true;  // the instruction at pc is to be run at `at`; else: go back
  for (;;) {
    if (!good) {
      if (stack_.size() == base) return false;
      Frame& frame = stack_.back();
      const Instruction& i = code[frame.instruction];
      ++steps_;
      if (i.op == Op::kSplit && !frame.second) {
        frame.second = true;
        pc = static_cast<uint32_t>(i.b);
        at = frame.position;
        // Only where successes are remembered the choice stays on the stack.
        if (!inner) stack_.pop_back();
        good = true;
      } else if (i.op == Op::kLoop && frame.current > frame.position) {
        frame.current = Before(frame.current);
        at = frame.current;
        pc = frame.instruction + 1;
        good = true;
      } else {
        stack_.pop_back();
      }
      continue;
    }
    ++steps_;
    const Instruction& i = code[pc];
    bool done = false;  // all of this run has succeeded
    switch (i.op) {
      case Op::kSet:
      case Op::kIsSet:
      case Op::kNotSet: {
        uint32_t next = at;
        const bool is =
            at < size_ && program_.sets_[static_cast<size_t>(i.a)].Contains(Decode(at, &next));
        good = is == (i.op != Op::kNotSet);
        if (i.op == Op::kSet) at = next;
        ++pc;
        break;
      }
      case Op::kJump:
        pc = static_cast<uint32_t>(i.a);
        break;
      case Op::kSplit: {
        const auto choice = static_cast<uint32_t>(i.choice);
        if (i.first >= 0) {
          uint32_t next;
          if (at >= size_ ||
              !program_.sets_[static_cast<size_t>(i.first)].Contains(Decode(at, &next))) {
            pc = static_cast<uint32_t>(i.b);
            break;
          }
        }
        if (Has(tried_, choice, at)) {
          good = inner && Has(succeeded_, choice, at);
          if (good) {
            if (i.ends >= 0) *end = ends_[static_cast<size_t>(i.ends) * (size_ + 1) + at];
            done = true;
          }
          break;
        }
        Set(tried_, choice, at, at);
        stack_.push_back({pc, at, at, false});
        pc = static_cast<uint32_t>(i.a);
        break;
      }
      case Op::kLoop: {
        const auto choice = static_cast<uint32_t>(i.choice);
        const CharTableSet& set = program_.sets_[static_cast<size_t>(i.a)];
        uint32_t p = at, last = at;
        bool known = false;
        for (;;) {
          if (Has(tried_, choice, p)) {
            known = true;
            break;
          }
          last = p;
          uint32_t next;
          if (p >= size_ || !set.Contains(Decode(p, &next))) break;
          p = next;
          ++steps_;
        }
        if (known && inner && Has(succeeded_, choice, p)) {
          if (p > at) {
            Set(tried_, choice, at, last);
            stack_.push_back({pc, at, last, false});
          }
          if (i.ends >= 0) *end = ends_[static_cast<size_t>(i.ends) * (size_ + 1) + p];
          done = true;
          break;
        }
        if (known && p == at) {
          good = false;
          break;
        }
        Set(tried_, choice, at, last);
        stack_.push_back({pc, at, last, false});
        at = last;
        ++pc;
        break;
      }
      case Op::kLook: {
        uint32_t ignored = 0;
        good = Run(static_cast<uint32_t>(i.a), at, true, &ignored) != i.flag;
        pc = static_cast<uint32_t>(i.b);
        break;
      }
      case Op::kAtomic: {
        uint32_t to = at;
        good = Run(static_cast<uint32_t>(i.a), at, true, &to);
        at = to;
        pc = static_cast<uint32_t>(i.b);
        break;
      }
      case Op::kBehind:
        good = Behind(static_cast<uint32_t>(i.a), at) != i.flag;
        ++pc;
        break;
      case Op::kAssert:
        good = Assert(static_cast<Node::Assertion>(i.a), at);
        ++pc;
        break;
      case Op::kAccept:
        *end = at;
        done = true;
        break;
    }
    if (!done) continue;
    // What is on the stack led here.
    for (size_t f = base; inner && f < stack_.size(); ++f) {
      const Instruction& choice = code[stack_[f].instruction];
      const Frame& frame = stack_[f];
      Set(succeeded_, static_cast<uint32_t>(choice.choice), frame.position, frame.current);
      if (choice.ends < 0) continue;
      const size_t row = static_cast<size_t>(choice.ends) * (size_ + 1);
      for (uint32_t p = frame.position; p <= frame.current; ++p) ends_[row + p] = *end;
    }
    stack_.resize(base);
    return true;
  }
}

bool Program::Search::Next(size_t* begin, size_t* end) {
  while (next_ <= size_) {
    const auto at = static_cast<uint32_t>(next_);
    uint32_t to = 0;
    const bool found = Run(0, at, false, &to);
    if (!found || (to == at && last_end_ == at)) {
      if (at >= size_) {
        next_ = size_ + size_t{1};
        return false;
      }
      uint32_t after;
      Decode(at, &after);
      next_ = after;
      if (!found) continue;
      // The empty match was none: what it tried here does not fail.
    }
    // Pairs behind the match were tried in vain; those at its end were not.
    for (size_t choice = 0; choice < program_.num_choices_; ++choice)
      Word(tried_, static_cast<uint32_t>(choice), to) &= ~(uint64_t{1} << (to % 64));
    if (to == at && last_end_ == at) continue;
    *begin = at;
    *end = to;
    next_ = last_end_ = to;
    return true;
  }
  return false;
}

}  // namespace tutti::tokenizer::regex
