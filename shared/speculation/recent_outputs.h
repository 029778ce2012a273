// What was answered lately, to whom ever: the same question again gets much of the same answer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/speculation/ngram_index.h"

namespace tutti::speculation {

// A ring of the last `capacity` output tokens with the positions of their 4-grams. It holds token
// ids that other clients were sent; what is found changes when a token comes, never which, just as
// with a shared prefix cache. Capacity 0 keeps nothing.
//
// Thread safety: none. Determinism: exact, and it could not show in a result.
// Cost: 16 bytes for each token of the capacity; tens of ns a token added or looked up.
class RecentOutputs {
 public:
  explicit RecentOutputs(size_t capacity);

  void Add(std::span<const int32_t> output);
  // The longest match of the end of `tokens`, at least 4 long. `next` is for Continue.
  NgramMatch Find(std::span<const int32_t> tokens) const;
  // At most `count` tokens that followed there.
  void Continue(int64_t next, int32_t count, std::vector<int32_t>* out) const;

 private:
  void Append(int32_t token);
  // Positions count from the first token ever added; those before `first` were overwritten.
  int64_t first() const { return end_ > capacity() ? end_ - capacity() : 0; }
  int64_t capacity() const { return static_cast<int64_t>(tokens_.size()); }
  int32_t at(int64_t position) const { return tokens_[static_cast<size_t>(position % capacity())]; }

  std::vector<int32_t> tokens_;    // ring; -1 between outputs
  std::vector<int64_t> previous_;  // ring: by position after a 4-gram, the one before; 0: none
  std::vector<int64_t> heads_;
  int64_t end_ = 0;
};

}  // namespace tutti::speculation
