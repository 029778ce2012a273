#include "shared/speculation/ngram_index.h"

#include <algorithm>
#include <bit>

namespace tutti::speculation {
namespace {

constexpr int32_t kLongEnough = 32;  // no further look for a longer one

uint64_t HashOf(std::span<const int32_t> tokens) {
  uint64_t h = 0;
  for (const int32_t token : tokens) {
    h = (h ^ static_cast<uint32_t>(token)) * 0x9E3779B97F4A7C15ull;
    h ^= h >> 29;
  }
  return h;
}

// Tokens before `end` that agree with those at the end of the text.
int32_t MatchLength(std::span<const int32_t> tokens, size_t end) {
  const size_t limit = std::min<size_t>(end, kMaxMatch);
  size_t n = 0;
  while (n < limit && tokens[end - 1 - n] == tokens[tokens.size() - 1 - n]) ++n;
  return static_cast<int32_t>(n);
}

}  // namespace

void NgramIndex::Extend(std::span<const int32_t> tokens) {
  // When the tables get too full, all over again, with room to double.
  const bool refill = chains_[0].heads.size() < 2 * tokens.size();
  const size_t num_heads = std::bit_ceil(std::max<size_t>(4 * tokens.size(), 256));
  for (int i = 0; i < 3; ++i) {
    Chain& chain = chains_[i];
    if (refill) chain.heads.assign(num_heads, 0);
    chain.previous.resize(tokens.size() + 1, 0);
    const auto order = static_cast<size_t>(kOrders[i]);
    for (size_t end = std::max(refill ? 1 : size_ + 1, order); end <= tokens.size(); ++end) {
      const uint64_t hash = HashOf(tokens.subspan(end - order, order));
      int32_t& head = chain.heads[hash & (chain.heads.size() - 1)];
      chain.previous[end] = head;
      head = static_cast<int32_t>(end);
    }
  }
  size_ = tokens.size();
}

NgramMatch NgramIndex::Walk(const Chain& chain, int order, int max_places,
                            std::span<const int32_t> tokens, std::vector<int64_t>* nexts) {
  NgramMatch best;
  nexts->clear();
  int32_t end = chain.previous[tokens.size()];
  for (int i = 0; i < max_places && end > 0; ++i, end = chain.previous[static_cast<size_t>(end)]) {
    const int32_t length = MatchLength(tokens, static_cast<size_t>(end));
    if (length < order) continue;
    nexts->push_back(end);
    if (length <= best.length) continue;
    best = {length, end};
    if (length >= kLongEnough) break;
  }
  return best;
}

NgramMatch NgramIndex::Find(std::span<const int32_t> tokens, std::vector<int64_t>* nexts) const {
  nexts->clear();
  if (size_ == 0 || tokens.size() != size_) return {};
  for (int i = 0; i < 3; ++i) {
    const NgramMatch found = Walk(chains_[i], kOrders[i], kPlaces[i], tokens, nexts);
    if (found.length > 0) return found;
  }
  return {};
}

NgramMatch FindWithin(std::span<const int32_t> tokens, int64_t first, int64_t last) {
  NgramMatch best;
  first = std::max<int64_t>(first, 1);
  last = std::min(last, static_cast<int64_t>(tokens.size()));
  for (int64_t end = first; end < last; ++end) {
    if (tokens[static_cast<size_t>(end) - 1] != tokens.back()) continue;
    const int32_t length = MatchLength(tokens, static_cast<size_t>(end));
    if (length > best.length) best = {length, end};
  }
  return best;
}

void Continue(std::span<const int32_t> tokens, int64_t next, int32_t count,
              std::vector<int32_t>* out) {
  out->clear();
  const auto first = static_cast<size_t>(next);
  if (first >= tokens.size()) return;
  for (size_t i = first; out->size() < static_cast<size_t>(count); ++i) {
    out->push_back(i < tokens.size() ? tokens[i] : (*out)[i - tokens.size()]);
  }
}

bool IsContested(std::span<const int32_t> tokens, std::span<const int32_t> draft, size_t i,
                 std::vector<int64_t>* nexts) {
  const size_t goes_otherwise = std::erase_if(*nexts, [&](int64_t next) {
    const size_t at = static_cast<size_t>(next) + i;
    return (at < tokens.size() ? tokens[at] : draft[at - tokens.size()]) != draft[i];
  });
  return goes_otherwise > 0;
}

}  // namespace tutti::speculation
