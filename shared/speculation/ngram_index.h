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

// Chains of positions with the same last 4, 2 and 1 tokens (hashed: a candidate is always
// compared). Grows with its text; the text itself stays the caller's.
//
// Thread safety: none. Determinism: exact, and it could not show in a result.
// Cost: about 40 bytes a token; a token taken in looks at one place, a lookup at no more than 32.
class NgramIndex {
 public:
  // Takes in tokens [size(), tokens.size()). REQUIRES: the earlier ones are those of the last call.
  void Extend(std::span<const int32_t> tokens);
  size_t size() const { return size_; }

  // The longest match of the end of `tokens` that was found, the latest of equals. `nexts` gets
  // where each place goes on that was looked at and agrees in as many of the last 4, 2 or 1 tokens
  // as that one. REQUIRES: `tokens` are those of the last Extend.
  NgramMatch Find(std::span<const int32_t> tokens, std::vector<int64_t>* nexts) const;

 private:
  struct Chain {
    std::vector<int32_t> heads;     // by hash: the last position with it; 0: none
    std::vector<int32_t> previous;  // [size + 1]: the position before with the same hash
  };
  static constexpr int kOrders[] = {4, 2, 1};
  static constexpr int kPlaces[] = {16, 8, 8};  // that a lookup looks at
  static NgramMatch Walk(const Chain& chain, int order, int max_places,
                         std::span<const int32_t> tokens, std::vector<int64_t>* nexts);

  size_t size_ = 0;
  Chain chains_[3];
};

// The longest match of the end of `tokens` that ends at one of the places [first, last), the
// earliest of equals. Cost: a comparison a place.
NgramMatch FindWithin(std::span<const int32_t> tokens, int64_t first, int64_t last);

// The `count` tokens that would follow if the text went on as it did from `next` on. A repetition
// that runs into its own end goes on repeating.
void Continue(std::span<const int32_t> tokens, int64_t next, int32_t count,
              std::vector<int32_t>* out);

// Whether one of the places that go on as the draft does has another token than draft[i]. `nexts`,
// from Find, lose those that do not go on as draft[0 .. i] does: call it with i = 0, 1, 2 ...
bool IsContested(std::span<const int32_t> tokens, std::span<const int32_t> draft, size_t i,
                 std::vector<int64_t>* nexts);

}  // namespace tutti::speculation
