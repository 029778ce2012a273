// Which shard runs which expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tutti::exchange {

using ShardId = uint32_t;
inline constexpr ShardId kNoShard = UINT32_MAX;

struct PlacementShard {
  ShardId id = kNoShard;
  uint64_t key = 0;  // stable over restarts of the caller: a hash of the address
};

// One shard for each expert of a layer: every expert goes to the shard that it likes best (highest
// random weight over key, layer and expert) and that has room, with room for an equal share on
// each. So load is even, all callers agree without talking, and a shard that comes or goes moves
// few experts besides its own share. kNoShard everywhere when there are no shards.
// Determinism: exact. Never changes a token: any shard may run any expert.
std::vector<ShardId> PlaceLayer(std::span<const PlacementShard> shards, int layer, int num_experts);

// What a router says of who holds what: keys of shards for each expert, numbered layer *
// experts_per_layer + expert id. Some may not be there, or hold nothing by now.
using Holders = std::vector<std::vector<uint64_t>>;

}  // namespace tutti::exchange
