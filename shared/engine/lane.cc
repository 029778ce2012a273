#include "shared/engine/lane.h"

#include <algorithm>
#include <cstring>

namespace tutti::engine {

using kv_cache::kPageTokens;
using kv_cache::PageId;

LaneStore::LaneStore(const kv_cache::PageLayout& layout, int32_t num_pages, bool prefix_cache)
    : pool_(layout, num_pages) {
  if (prefix_cache) cache_ = std::make_unique<kv_cache::PrefixCache>(&pool_);
}

bool LaneStore::Allocate(PageId* page) {
  if (pool_.num_free() == 0 && (!cache_ || cache_->Evict(1) == 0)) return false;
  *page = pool_.Allocate().value();
  return true;
}

bool LaneStore::Grow(Lane* lane, int32_t end) {
  const size_t first = static_cast<size_t>(lane->computed / kPageTokens);
  for (size_t i = first; i < lane->pages.size(); ++i) {
    if (pool_.RefCount(lane->pages[i]) == 1) continue;
    PageId copy;
    if (!Allocate(&copy)) return false;
    std::memcpy(pool_.Data(copy), pool_.Data(lane->pages[i]), pool_.layout().PageBytes());
    pool_.AddMakers(copy, pool_.MadeBy(lane->pages[i]));
    pool_.Unref(lane->pages[i]);
    lane->pages[i] = copy;
  }
  const size_t want = static_cast<size_t>(PagesFor(end));
  while (lane->pages.size() < want) {
    PageId page;
    if (!Allocate(&page)) return false;
    lane->pages.push_back(page);
  }
  return true;
}

Lane LaneStore::Fork(const Lane& lane) {
  for (PageId page : lane.pages) pool_.Ref(page);
  return lane;
}

void LaneStore::Release(Lane* lane) {
  for (PageId page : lane->pages) pool_.Unref(page);
  *lane = Lane();
}

void LaneStore::AdoptPrefix(Lane* lane, std::span<const int32_t> tokens, int32_t max_pages,
                            uint64_t seed) {
  Release(lane);
  if (!cache_) return;
  auto hit = cache_->Match(tokens, max_pages, seed);
  lane->cursor = hit.cursor;
  lane->pages = std::move(hit.pages);
  lane->num_registered = static_cast<int32_t>(lane->pages.size());
  lane->computed = lane->num_registered * kPageTokens;
}

int32_t LaneStore::PeekPrefix(std::span<const int32_t> tokens, int32_t max_pages,
                              uint64_t seed) const {
  return cache_ ? cache_->Peek(tokens, max_pages, seed) : 0;
}

uint64_t LaneStore::MadeBy(const Lane& lane) const {
  uint64_t made_by = 0;
  for (PageId page : lane.pages) made_by |= pool_.MadeBy(page);
  return made_by;
}

uint64_t LaneStore::Register(Lane* lane, std::span<const int32_t> tokens, int32_t end,
                             uint64_t seed) {
  if (!cache_) return 0;
  uint64_t made_by = 0;
  const int32_t full = std::min(lane->computed, end) / kPageTokens;
  for (; lane->num_registered < full; ++lane->num_registered) {
    const size_t i = static_cast<size_t>(lane->num_registered);
    const auto [cursor, page] = cache_->Extend(
        lane->cursor, tokens.subspan(i * kPageTokens, kPageTokens), lane->pages[i], seed);
    lane->cursor = cursor;
    lane->pages[i] = page;
    made_by |= pool_.MadeBy(page);
  }
  return made_by;
}

bool LaneStore::HasAvailable(int32_t num_pages) const {
  const int32_t num_free = pool_.num_free();
  return num_free >= num_pages || num_free + NumCachedAlone() >= num_pages;
}

}  // namespace tutti::engine
