#include "shared/speculation/recent_outputs.h"

#include <algorithm>
#include <array>
#include <bit>

namespace tutti::speculation {
namespace {

constexpr int64_t kOrder = 4;
constexpr int kPlaces = 8;
constexpr int32_t kBorder = -1;

uint64_t HashOf(const std::array<int32_t, kOrder>& tokens) {
  uint64_t h = 0;
  for (const int32_t token : tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15ull;
    h ^= h >> 29;
  }
  return h;
}

}  // namespace

RecentOutputs::RecentOutputs(size_t capacity)
    : tokens_(capacity), previous_(capacity), heads_(capacity == 0 ? 0 : std::bit_ceil(capacity)) {}

void RecentOutputs::Append(int32_t token) {
  tokens_[static_cast<size_t>(end_ % capacity())] = token;
  ++end_;
  int64_t& previous = previous_[static_cast<size_t>(end_ % capacity())];
  previous = 0;
  if (end_ - first() < kOrder || token == kBorder) return;
  std::array<int32_t, kOrder> gram;
  for (int64_t i = 0; i < kOrder; ++i) gram[static_cast<size_t>(i)] = at(end_ - kOrder + i);
  int64_t& head = heads_[HashOf(gram) & (heads_.size() - 1)];
  previous = head;
  head = end_;
}

void RecentOutputs::Add(std::span<const int32_t> output) {
  if (capacity() <= kOrder || output.size() <= static_cast<size_t>(kOrder)) return;
  for (const int32_t token : output) Append(token);
  Append(kBorder);
}

NgramMatch RecentOutputs::Find(std::span<const int32_t> tokens) const {
  NgramMatch best;
  if (end_ == 0 || tokens.size() < static_cast<size_t>(kOrder)) return best;
  std::array<int32_t, kOrder> gram;
  std::copy(tokens.end() - kOrder, tokens.end(), gram.begin());
  int64_t end = heads_[HashOf(gram) & (heads_.size() - 1)];
  for (int i = 0; i < kPlaces; ++i) {
    // The last token before `first` is being overwritten, so its successors' links are still whole.
    if (end <= first() || end >= end_) break;
    const int64_t limit =
        std::min({end - first(), static_cast<int64_t>(tokens.size()), int64_t{kMaxMatch}});
    int64_t n = 0;
    while (n < limit && at(end - 1 - n) == tokens[tokens.size() - 1 - static_cast<size_t>(n)]) ++n;
    if (n >= kOrder && n > best.length) best = {static_cast<int32_t>(n), end};
    const int64_t previous = previous_[static_cast<size_t>(end % capacity())];
    if (previous >= end) break;
    end = previous;
  }
  return best;
}

void RecentOutputs::Continue(int64_t next, int32_t count, std::vector<int32_t>* out) const {
  out->clear();
  for (int64_t i = next; i < end_ && i >= first(); ++i) {
    if (static_cast<int32_t>(out->size()) >= count || at(i) == kBorder) return;
    out->push_back(at(i));
  }
}

}  // namespace tutti::speculation
