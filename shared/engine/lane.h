// The pages of one token list, and the operations on them that a step needs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "shared/kv_cache/page_pool.h"
#include "shared/kv_cache/prefix_cache.h"

namespace tutti::engine {

// A sequence has one lane; a beam search one per running beam. Positions [0, computed) have their K
// and V in `pages`; the lane holds one reference to each page.
struct Lane {
  std::vector<kv_cache::PageId> pages;
  int32_t computed = 0;
  kv_cache::PrefixCache::NodeId cursor = kv_cache::PrefixCache::kRoot;
  int32_t num_registered = 0;  // pages up to the cursor
};

inline int32_t PagesFor(int64_t positions) {
  return static_cast<int32_t>((positions + kv_cache::kPageTokens - 1) / kv_cache::kPageTokens);
}

// The page pool with its prefix cache: evicts cached pages when the pool is empty.
// Thread safety: none.
class LaneStore {
 public:
  LaneStore(const kv_cache::PageLayout& layout, int32_t num_pages, bool prefix_cache);

  // Makes positions [computed, end) writable: allocates what is missing and copies a last page that
  // other lanes share. False when pages ran out; the lane stays valid and keeps what it got.
  bool Grow(Lane* lane, int32_t end);

  // Another owner of the same pages.
  Lane Fork(const Lane& lane);
  // Gives the pages up; the lane is empty afterwards.
  void Release(Lane* lane);

  // `seed` here and below: the sequence's, where K and V depend on it (kv_cache::PrefixCache).
  // Starts an empty lane from the cached prefix of `tokens`, at most `max_pages` of it.
  void AdoptPrefix(Lane* lane, std::span<const int32_t> tokens, int32_t max_pages, uint64_t seed);
  int32_t PeekPrefix(std::span<const int32_t> tokens, int32_t max_pages, uint64_t seed) const;
  // Enters the lane's full pages into the prefix cache, those of positions [0, end). Returns with
  // which shards those that are new in the lane were made: another's page may be there already.
  uint64_t Register(Lane* lane, std::span<const int32_t> tokens, int32_t end, uint64_t seed);

  // With which shards the lane's pages were made (kv_cache::PagePool::MadeBy).
  uint64_t MadeBy(const Lane& lane) const;
  // Cached pages that were made with any of these shards go. Returns how many. REQUIRES: no lane
  // holds such a page.
  int32_t DropMadeBy(uint64_t shards) { return cache_ ? cache_->DropMadeBy(shards) : 0; }

  // Could Grow hand out that many pages?
  bool HasAvailable(int32_t num_pages) const;
  int32_t NumCachedAlone() const { return cache_ ? cache_->NumEvictable() : 0; }
  bool caching() const { return cache_ != nullptr; }
  kv_cache::PagePool& pool() { return pool_; }
  const kv_cache::PagePool& pool() const { return pool_; }
  const kv_cache::PrefixCache* cache() const { return cache_.get(); }

 private:
  bool Allocate(kv_cache::PageId* page);

  kv_cache::PagePool pool_;
  std::unique_ptr<kv_cache::PrefixCache> cache_;  // after pool_: it gives its pages back first
};

}  // namespace tutti::engine
