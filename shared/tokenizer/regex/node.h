// A pattern as a tree, and reading one. The language is Oniguruma's with Ruby's syntax, which
// Hugging Face tokenizers uses: nested and intersected classes, \h, \p{...} by Script, ^ and $ at
// lines, (?m) for the dot, {n,m}+ as a repetition of a repetition.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/regex/char_set.h"

namespace tutti::tokenizer::regex {

struct Node {
  enum class Kind {
    kEmpty,
    kSet,        // one character of `set`
    kSequence,   // kids one after the other
    kChoice,     // the first kid that leads to a match
    kRepeat,     // kids[0], min to max times (max -1: any number)
    kLook,       // kids[0] matches here and is not taken
    kAtomic,     // kids[0] without going back into it
    kAssertion,  // of the position
  };
  enum class Greed { kGreedy, kLazy, kPossessive };
  enum class Assertion {
    kLineStart,
    kLineEnd,
    kTextStart,
    kTextEnd,
    kTextEndOrNewline,
    kWordBoundary,
    kNoWordBoundary
  };

  Kind kind = Kind::kEmpty;
  CharSet set;
  std::vector<std::unique_ptr<Node>> kids;
  int min = 0, max = 0;
  Greed greed = Greed::kGreedy;
  bool behind = false, negative = false;  // of kLook
  Assertion assertion = Assertion::kLineStart;
};

inline constexpr int kNestMax = 100;     // groups and classes
inline constexpr int kRepeatMax = 1000;  // in {n,m}

// Errors: INVALID_ARGUMENT  "offset <n>: ...": what is wrong there, or which construct cannot be
//                           matched exactly and in linear time (back references, calls, \X, ...)
absl::StatusOr<std::unique_ptr<Node>> ParsePattern(std::string_view pattern);

}  // namespace tutti::tokenizer::regex
