// Tokens that are found in the text itself, before anything cuts or merges it: special tokens and
// others that were added to a vocabulary. Determinism: exact.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for after normalisation, not before
  bool special = false;
};

// One hit, or the text between two (id -1).
struct Segment {
  uint32_t begin, end;
  int32_t id;
};

// Whether one of `breaks` (ascending offsets) lies inside of text[begin, end).
bool IsBroken(std::span<const uint32_t> breaks, uint32_t begin, uint32_t end);

// Finds a set of tokens: the leftmost, of those the longest. Immutable, shareable.
class AddedTokenFinder {
 public:
  static constexpr size_t kMaxTokenBytes = 1024;

  // Errors: INVALID_ARGUMENT  a content that is empty or over 1024 bytes, or all of them over 16 MB
  static absl::StatusOr<AddedTokenFinder> Make(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Appends the segments of text[begin, end) in order; they cover it. `with_special` false: special
  // tokens are text. Time: linear for ordinary sets, at worst times the longest token.
  // Special tokens that would lie across one of `breaks` (ascending offsets into `text`) are text.
  void Find(std::string_view text, uint32_t begin, uint32_t end, bool with_special,
            std::vector<Segment>* out, std::span<const uint32_t> breaks = {}) const;

  // Appends the offsets that Tokenizer::SpecialBreaks describes.
  void SpecialBreaks(std::string_view text, std::vector<uint32_t>* out) const;

 private:
  struct Edge {
    uint32_t node_and_byte;  // node << 8 | byte
    uint32_t child;
  };
  int Longest(std::string_view text, uint32_t at, uint32_t end) const;
  // The node behind `node` by this byte; 0: none.
  uint32_t Child(uint32_t node, char c) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_{};
  std::vector<Edge> edges_;             // of the trie, sorted
  std::vector<int32_t> token_of_;       // [node] index into tokens_, -1: none ends here
  std::vector<bool> leads_to_special_;  // [node] a special token ends here or further down
};

}  // namespace tutti::tokenizer
