// Matching a pattern in time linear in the text, whatever the pattern.
//
// A backtracking matcher tries alternatives in the order of the pattern, as Oniguruma and PCRE2 do,
// and so finds the same matches; it is made linear by remembering which (instruction, position)
// pairs were tried: without back references what follows from a pair depends on the pair alone, so
// none is tried twice, also by the searches that begin at later positions. Memory: one bit, with
// lookahead two, for each byte of the text and each place of the pattern with a choice.
// Determinism: exact.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/regex/node.h"

namespace tutti::tokenizer::regex {

// Immutable, shareable between threads.
class Program {
 public:
  // Errors: INVALID_ARGUMENT  as ParsePattern; a pattern that becomes too large, repeats a group
  //                           that may match nothing without bound, or looks behind at more than
  //                           sequences of single characters
  static absl::StatusOr<std::unique_ptr<Program>> Compile(std::string_view pattern);

  // A search through one text, from left to right. Not shareable.
  class Search {
   public:
    Search(const Program& program, std::string_view text);
    // The next match, [begin, end) in bytes; false: none. An empty match right behind the last one
    // does not count, and the search goes on a character later.
    bool Next(size_t* begin, size_t* end);
    // Instructions run so far: what tests count instead of time.
    uint64_t steps() const { return steps_; }

   private:
    struct Frame {
      uint32_t instruction;
      uint32_t position;  // where the choice was made
      uint32_t current;   // of a loop: the position whose rest is being tried
      bool second;        // of a choice: its second branch is being tried
    };
    bool Run(uint32_t instruction, uint32_t position, bool inner, uint32_t* end);
    bool Behind(uint32_t look, uint32_t position) const;
    bool Assert(Node::Assertion assertion, uint32_t position) const;
    uint32_t Decode(uint32_t position, uint32_t* next) const;
    uint32_t Before(uint32_t position) const;  // REQUIRES: position > 0
    bool IsWord(uint32_t position) const;

    uint64_t& Word(std::vector<uint64_t>& bits, uint32_t choice, uint32_t position) {
      return bits[choice * words_ + position / 64];
    }
    bool Has(std::vector<uint64_t>& bits, uint32_t choice, uint32_t position) {
      return Word(bits, choice, position) >> (position % 64) & 1;
    }
    void Set(std::vector<uint64_t>& bits, uint32_t choice, uint32_t first, uint32_t last);

    const Program& program_;
    const std::string_view text_;
    const uint32_t size_;
    const size_t words_;                       // of a row of bits
    std::vector<uint64_t> tried_, succeeded_;  // [choices, words_]
    std::vector<uint32_t> ends_;               // [atomic choices, size_ + 1]
    std::vector<Frame> stack_;
    size_t next_ = 0, last_end_ = SIZE_MAX;
    uint64_t steps_ = 0;
  };

  size_t num_instructions() const { return code_.size(); }

 private:
  friend class Compiler;
  enum class Op : uint8_t {
    kSet,     // one character of set a
    kIsSet,   // the next character is of set a, and is not taken
    kNotSet,  // there is none, or it is not of set a
    kSplit,   // a, then b; `first`: the set that a begins with, or -1
    kJump,    // to a
    kLoop,    // any number of characters of set a, as many as possible first
    kLook,    // the code at a leads to kAccept; flag: it must not
    kBehind,  // looks_[a]; flag: negative
    kAtomic,  // the code at a, its first match; goes on at b
    kAssert,  // assertion a
    kAccept,
  };
  struct Instruction {
    Op op;
    bool flag = false;
    int32_t a = 0, b = 0, first = -1;
    int32_t choice = -1;  // row of bits
    int32_t ends = -1;    // row of ends, for choices inside of atomic groups
  };
  using Sequences = std::vector<std::vector<int32_t>>;  // of sets

  std::vector<Instruction> code_;
  std::vector<CharTableSet> sets_;
  std::vector<Sequences> looks_;
  int32_t word_set_ = -1;
  size_t num_choices_ = 0, num_ends_ = 0;
  bool has_inner_ = false;  // lookahead or atomic groups
};

}  // namespace tutti::tokenizer::regex
