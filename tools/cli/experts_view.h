// What 'tutti status' and 'tutti experts' show of experts on shards.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "shared/base/status.h"
#include "tools/cli/state_dir.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::cli {

// Ids of expert shards by what the supervisor calls their process ("expert-0").
std::map<std::string, std::string> ShardNames(const ClusterState& state,
                                              const fleet::v1::GetFleetResponse& fleet);

// `names`: what people call a worker, by its id; without one the id.
//
// {"shards": [{id, name, state, assigned, resident, pinned, rows, share, memory_bytes,
//              memory_budget_bytes, queue_us, run_us}],
//  "experts": [{layer, expert, shards, resident, pinned, rows, share}],
//  "epoch", "moving", "num_layers", "experts_per_layer"}
// A shard's share is that of all rows, an expert's that of its layer's. Rows are counted since the
// shards started. null when no model has experts on shards; of several models the first.
nlohmann::json ExpertsJson(const fleet::v1::GetFleetResponse& fleet,
                           const std::map<std::string, std::string>& names);

// A line for each shard, then the experts, or of many the `max_rows` with the most rows.
std::string ExpertsTable(const nlohmann::json& experts, size_t max_rows);

}  // namespace tutti::cli
