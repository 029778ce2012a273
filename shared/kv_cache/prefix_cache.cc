#include "shared/kv_cache/prefix_cache.h"

#include <algorithm>

#include "shared/base/check.h"

namespace tutti::kv_cache {

PrefixCache::PrefixCache(PagePool* pool) : pool_(pool), nodes_(1) {}

PrefixCache::~PrefixCache() {
  for (const Node& node : nodes_) {
    if (node.page >= 0) pool_->Unref(node.page);
  }
}

PrefixCache::Key PrefixCache::ToKey(std::span<const int32_t> tokens, size_t page_index,
                                    uint64_t seed) {
  Key key{.seed = seed};
  std::copy_n(tokens.begin() + static_cast<ptrdiff_t>(page_index * kPageTokens), kPageTokens,
              key.tokens.begin());
  return key;
}

void PrefixCache::Touch(NodeId id) {
  Node& node = nodes_[static_cast<size_t>(id)];
  if (node.children.empty() && leaves_.erase({node.last_used, id}) > 0) leaves_.insert({tick_, id});
  node.last_used = tick_;
}

int32_t PrefixCache::Peek(std::span<const int32_t> tokens, int32_t max_pages, uint64_t seed) const {
  const size_t limit =
      std::min(tokens.size() / kPageTokens, static_cast<size_t>(std::max(max_pages, 0)));
  NodeId at = kRoot;
  for (size_t i = 0; i < limit; ++i) {
    const Node& node = nodes_[static_cast<size_t>(at)];
    const auto child = node.children.find(ToKey(tokens, i, seed));
    if (child == node.children.end()) return static_cast<int32_t>(i);
    at = child->second;
  }
  return static_cast<int32_t>(limit);
}

PrefixCache::Hit PrefixCache::Match(std::span<const int32_t> tokens, int32_t max_pages,
                                    uint64_t seed) {
  const size_t limit =
      std::min(tokens.size() / kPageTokens, static_cast<size_t>(std::max(max_pages, 0)));
  ++tick_;
  Hit hit;
  for (size_t i = 0; i < limit; ++i) {
    const Node& node = nodes_[static_cast<size_t>(hit.cursor)];
    const auto child = node.children.find(ToKey(tokens, i, seed));
    if (child == node.children.end()) break;
    hit.cursor = child->second;
    Touch(hit.cursor);
    const PageId page = nodes_[static_cast<size_t>(hit.cursor)].page;
    pool_->Ref(page);
    hit.pages.push_back(page);
  }
  return hit;
}

std::pair<PrefixCache::NodeId, PageId> PrefixCache::Extend(NodeId cursor,
                                                           std::span<const int32_t> tokens,
                                                           PageId page, uint64_t seed) {
  TUTTI_CHECK(tokens.size() == kPageTokens);
  const Key key = ToKey(tokens, 0, seed);
  ++tick_;
  {
    const Node& parent = nodes_[static_cast<size_t>(cursor)];
    const auto child = parent.children.find(key);
    if (child != parent.children.end()) {
      Touch(child->second);
      const PageId cached = nodes_[static_cast<size_t>(child->second)].page;
      if (cached != page) {
        pool_->Ref(cached);
        pool_->Unref(page);
      }
      return {child->second, cached};
    }
  }
  NodeId id;
  if (free_nodes_.empty()) {
    id = static_cast<NodeId>(nodes_.size());
    nodes_.emplace_back();
  } else {
    id = free_nodes_.back();
    free_nodes_.pop_back();
  }
  Node& parent = nodes_[static_cast<size_t>(cursor)];
  leaves_.erase({parent.last_used, cursor});
  parent.children.emplace(key, id);
  Node& node = nodes_[static_cast<size_t>(id)];
  node.key = key;
  node.page = page;
  node.parent = cursor;
  node.last_used = tick_;
  leaves_.insert({tick_, id});
  pool_->Ref(page);
  ++num_pages_;
  return {id, page};
}

void PrefixCache::Remove(NodeId id) {
  Node& node = nodes_[static_cast<size_t>(id)];
  Node& parent = nodes_[static_cast<size_t>(node.parent)];
  leaves_.erase({node.last_used, id});
  parent.children.erase(node.key);
  if (parent.children.empty() && node.parent != kRoot)
    leaves_.insert({parent.last_used, node.parent});
  pool_->Unref(node.page);
  node = Node();
  free_nodes_.push_back(id);
  --num_pages_;
}

int32_t PrefixCache::Evict(int32_t num_pages) {
  int32_t freed = 0;
  auto it = leaves_.begin();
  while (freed < num_pages && it != leaves_.end()) {
    const NodeId id = it->second;
    if (pool_->RefCount(nodes_[static_cast<size_t>(id)].page) > 1) {
      ++it;  // a sequence holds it; at most one such leaf per sequence
      continue;
    }
    Remove(id);
    ++freed;
    it = leaves_.begin();  // the parent may have become the oldest leaf
  }
  return freed;
}

int32_t PrefixCache::DropMadeBy(uint64_t shards) {
  int32_t dropped = 0;
  for (NodeId id = kRoot + 1; id < static_cast<NodeId>(nodes_.size()); ++id) {
    const PageId page = nodes_[static_cast<size_t>(id)].page;
    if (page < 0 || (pool_->MadeBy(page) & shards) == 0) continue;
    // From the last leaf of the subtree up to its root.
    for (NodeId at = id;;) {
      const Node& node = nodes_[static_cast<size_t>(at)];
      if (!node.children.empty()) {
        at = node.children.begin()->second;
        continue;
      }
      const NodeId parent = node.parent;
      Remove(at);
      ++dropped;
      if (at == id) break;
      at = parent;
    }
  }
  return dropped;
}

int32_t PrefixCache::NumEvictable() const {
  int32_t count = 0;
  for (const Node& node : nodes_) {
    if (node.page >= 0 && pool_->RefCount(node.page) == 1) ++count;
  }
  return count;
}

bool PrefixCache::PathHolds(NodeId cursor, std::span<const int32_t> tokens, uint64_t seed) const {
  for (size_t page = tokens.size() / kPageTokens; page-- > 0;) {
    const Node& node = nodes_[static_cast<size_t>(cursor)];
    if (cursor == kRoot || node.key != ToKey(tokens, page, seed)) return false;
    cursor = node.parent;
  }
  return cursor == kRoot;
}

void PrefixCache::CountOwners(std::vector<int32_t>* owners) const {
  for (const Node& node : nodes_) {
    if (node.page >= 0) ++(*owners)[static_cast<size_t>(node.page)];
  }
}

}  // namespace tutti::kv_cache
