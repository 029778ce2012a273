// Where did the last tokens of a text occur before? What followed there may follow again (copying
// from a reference, arXiv:2304.04487): in text that is quoted, edited or summed up, and in loops.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::speculation {

struct NgramMatch {
  int32_t length = 0;  // tokens that agree, at most kMaxMatch; 0: none found
  int64_t next = 0;    // index of the token that followed
};

inline constexpr int32_t kMaxMatch = 64;

// Chains of positions with the same last 4 tokens, and with the same last 2 (hashed: a candidate is
// always compared). Grows with its text; the text itself stays the caller's.
//
// Thread safety: none. Determinism: exact, and it could not show in a result.
// Cost: 24 bytes and about 50 ns a token taken in; a lookup looks at no more than 24 places.
class NgramIndex {
 public:
  // Takes in tokens [size(), tokens.size()). REQUIRES: the earlier ones are those of the last call.
  void Extend(std::span<const int32_t> tokens);
  size_t size() const { return size_; }

  // The longest match of the end of `tokens` that was found, the latest of equals; none shorter
  // than 2 tokens. REQUIRES: `tokens` are those of the last Extend.
  NgramMatch Find(std::span<const int32_t> tokens) const;

 private:
  struct Chain {
    std::vector<int32_t> heads;     // by hash: the last position with it; 0: none
    std::vector<int32_t> previous;  // [size + 1]: the position before with the same hash
  };
  void Insert(int order, std::span<const int32_t> tokens, size_t end);
  static NgramMatch Walk(const Chain& chain, int order, int max_places,
                         std::span<const int32_t> tokens);

  size_t size_ = 0;
  Chain long_, short_;
};

// The `count` tokens that would follow if the text went on as it did from `next` on. A repetition
// that runs into its own end goes on repeating.
void Continue(std::span<const int32_t> tokens, int64_t next, int32_t count,
              std::vector<int32_t>* out);

}  // namespace tutti::speculation
