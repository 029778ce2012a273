// Sets of code points: built by name and by range while a pattern is read, then frozen into tables
// that answer in a few loads. Determinism: exact.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer::regex {

// [first, last] ranges of code points, sorted, apart from each other.
class CharSet {
 public:
  using Range = std::pair<uint32_t, uint32_t>;
  static constexpr uint32_t kLast = 0x10FFFF;

  CharSet() = default;
  explicit CharSet(std::vector<Range> ranges);
  static CharSet Of(uint32_t c) { return CharSet({{c, c}}); }

  const std::vector<Range>& ranges() const { return ranges_; }
  bool Contains(uint32_t c) const;
  CharSet Union(const CharSet& other) const;
  CharSet Complement() const;
  CharSet Intersection(const CharSet& other) const;
  bool operator==(const CharSet&) const = default;

 private:
  std::vector<Range> ranges_;
};

// The same, ready for matching.
class CharTableSet {
 public:
  explicit CharTableSet(const CharSet& set);
  // False for anything past U+10FFFF, which stands for bytes that are not UTF-8.
  bool Contains(uint32_t c) const {
    if (c > CharSet::kLast) return false;
    const uint64_t word = bits_[size_t{block_of_[c >> 8]} * 4 + (c >> 6 & 3)];
    return word >> (c & 63) & 1;
  }

 private:
  std::vector<uint16_t> block_of_;  // [0x1100]
  std::vector<uint64_t> bits_;      // [blocks, 4]
};

// What Oniguruma takes \s, \w, \d and \h for.
CharSet Spaces();
CharSet WordChars();      // in a class
CharSet LoneWordChars();  // \w alone, and \b: superscripts and fractions below U+0100 too
CharSet DecimalDigits();
CharSet HexDigits();

// A POSIX bracket's name ("alpha"); nullopt: there is none of that name.
std::optional<CharSet> PosixClass(std::string_view name);

// The name in \p{...}: a general category in its short or long form, a script (as the Script
// property has it, not Script_Extensions), a POSIX name, or a binary property, in any case and with
// or without spaces, hyphens and underscores.
// Errors: INVALID_ARGUMENT  names what is not known, or a block ("InArabic"), which is not read
absl::StatusOr<CharSet> Property(std::string_view name);

// The code points that are `set` when case is ignored, one for one.
CharSet CaseClosure(const CharSet& set);

}  // namespace tutti::tokenizer::regex
