// Finished pages that outlive their sequences, found again by the tokens they hold.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "shared/kv_cache/page_pool.h"

namespace tutti::kv_cache {

// A radix tree whose edges are full pages: a node is the 16 token ids of a page below the node of
// the 16 before it, so a path from the root is a token prefix and its pages hold that prefix's K
// and V. Lookups compare the token ids themselves; no hash is trusted. The cache is one owner of
// each of its pages; sequences are others.
//
// A sequence walks the tree with a cursor (Match, then Extend page by page). It owns the page of
// every node on its path, so nodes under a live cursor are never evicted.
//
// Where K and V depend on a seed as well (ModelInfo::kv_depends_on_seed), a prefix is of one seed:
// the callers give it everywhere; of other models it is 0 everywhere.
//
// Thread safety: none; the engine's thread owns it.
// Determinism: exact: equal prefixes have equal K and V bits (docs/determinism.md), so it does not
// matter whose page is read.
class PrefixCache {
 public:
  using NodeId = int32_t;
  static constexpr NodeId kRoot = 0;

  // `pool` is borrowed and must outlive the cache.
  explicit PrefixCache(PagePool* pool);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Hit {
    NodeId cursor = kRoot;
    std::vector<PageId> pages;  // one reference each for the caller
  };
  // The longest cached prefix of `tokens` in full pages, at most `max_pages`.
  Hit Match(std::span<const int32_t> tokens, int32_t max_pages, uint64_t seed = 0);

  // How many pages Match would find, without touching anything.
  int32_t Peek(std::span<const int32_t> tokens, int32_t max_pages, uint64_t seed = 0) const;

  // Records that `page`, of which the caller holds a reference, holds the 16 `tokens` that follow
  // `cursor`. When the cache has them already, the caller's reference moves to the cached page and
  // its own page is given up. Returns the new cursor and the page to use from now on. REQUIRES: the
  // caller owns the pages of every node up to `cursor`; tokens.size() == 16.
  std::pair<NodeId, PageId> Extend(NodeId cursor, std::span<const int32_t> tokens, PageId page,
                                   uint64_t seed = 0);

  // Frees up to `num_pages` pages that nobody else owns, least recently used leaves first. Returns
  // how many it freed.
  int32_t Evict(int32_t num_pages);

  // Forgets the pages that were made with any of these shards (PagePool::MadeBy), and what follows
  // them. Returns how many. REQUIRES: no live cursor is at or below such a page.
  int32_t DropMadeBy(uint64_t shards);

  // Pages held by the cache alone: what Evict could free. Cost: one look at each node.
  int32_t NumEvictable() const;
  int32_t num_pages() const { return num_pages_; }
  // Does the path from the root to `cursor` hold `tokens`, page by page? (for invariant checks)
  bool PathHolds(NodeId cursor, std::span<const int32_t> tokens, uint64_t seed = 0) const;
  // owners[page] += 1 for each page the cache owns (for invariant checks).
  void CountOwners(std::vector<int32_t>* owners) const;

 private:
  struct Key {
    uint64_t seed = 0;
    std::array<int32_t, kPageTokens> tokens{};
    auto operator<=>(const Key&) const = default;
  };
  struct Node {
    Key key;
    PageId page = -1;
    NodeId parent = -1;
    uint64_t last_used = 0;
    std::map<Key, NodeId> children;
  };
  static Key ToKey(std::span<const int32_t> tokens, size_t page_index, uint64_t seed);
  void Touch(NodeId node);
  void Remove(NodeId node);

  PagePool* pool_;
  uint64_t tick_ = 0;
  int32_t num_pages_ = 0;
  std::vector<Node> nodes_;
  std::vector<NodeId> free_nodes_;
  std::set<std::pair<uint64_t, NodeId>> leaves_;  // by last use
};

}  // namespace tutti::kv_cache
