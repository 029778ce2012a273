#include "shared/exchange/placement.h"

#include <algorithm>

#include "shared/base/hash.h"

namespace tutti::exchange {

std::vector<ShardId> PlaceLayer(std::span<const PlacementShard> shards, int layer,
                                int num_experts) {
  std::vector<ShardId> out(static_cast<size_t>(num_experts), kNoShard);
  if (shards.empty()) return out;
  const size_t n = shards.size();
  const int room = (num_experts + static_cast<int>(n) - 1) / static_cast<int>(n);
  std::vector<int> used(n, 0);
  std::vector<std::pair<uint64_t, size_t>> order(n);
  for (int e = 0; e < num_experts; ++e) {
    for (size_t i = 0; i < n; ++i) {
      const uint64_t words[3] = {shards[i].key, static_cast<uint64_t>(layer),
                                 static_cast<uint64_t>(e)};
      order[i] = {Hash64(words, sizeof(words)), i};
    }
    std::sort(order.rbegin(), order.rend());
    for (const auto& [weight, i] : order) {
      if (used[i] >= room) continue;
      ++used[i];
      out[static_cast<size_t>(e)] = shards[i].id;
      break;
    }
  }
  return out;
}

}  // namespace tutti::exchange
