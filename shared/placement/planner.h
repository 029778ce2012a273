// Which expert shards should hold which experts: a pure function of measured load, room and what
// is held now.
//
// The load of an expert is divided evenly among the shards that hold it. A batch of a layer is done
// when its slowest shard is, so what counts is the most loaded shard of each layer, then the most
// loaded shard over all layers.
//
// How: experts whose load is more than `replicate_above` fair shares of a shard get more copies,
// heaviest per copy first, as long as there is room; then copies that have no place go, heaviest
// first, to the least loaded shard with room; then, where a shard has more than `tolerance` above
// its fair share, copies move (or two change places) to less loaded ones. It starts from what is
// there, so what is good enough stays where it is; where not all fit, much lighter experts give way
// to those that have no place. The idea is that of expert-parallel load
// balancing (EPLB, DeepSeek-V3, arXiv:2412.19437, sec. 3.4), made incremental.
//
// Thread safety: pure functions. Determinism: exact in the plan; a plan never changes a token.
// Cost: 58 layers of 256 experts: about 20 ms on 32 shards, 100 ms on 320.
#pragma once

#include <cstdint>
#include <vector>

namespace tutti::placement {

// Experts are numbered layer * experts_per_layer + expert id, shards from 0.
using Assignment = std::vector<std::vector<int>>;  // [experts] shards, ascending

struct Pin {
  int expert = 0;
  int shard = -1;  // -1: wherever it is
};

struct PlanInput {
  int num_layers = 0, experts_per_layer = 0;
  std::vector<double> load;    // [experts] rows per time, any unit; empty: all the same
  std::vector<int64_t> slots;  // [shards] experts that fit; negative: no bound
  Assignment current;          // empty: nothing is anywhere; shards out of range are gone
  std::vector<Pin> pins;       // are placed first and not moved
};

// Change only speed and the number of moves.
struct PlanOptions {
  // A shard's fair share of a layer is the layer's load divided by the number of shards.
  double replicate_above = 1.25;  // fair shares of one copy
  double merge_below = 0.8;       // a copy goes when the others then have less than that each
  double tolerance = 0.1;         // above the fair share, that is not worth a move
  // False: experts that are nowhere are placed, and nothing else changes (a shard has left, and
  // what it had is wanted now).
  bool rebalance = true;
};

struct Plan {
  Assignment shards_of;
  int unplaced = 0;  // experts for which there is no room at all; their list is empty
};

// REQUIRES: load, when given, has one finite number >= 0 for each expert.
Plan MakePlan(const PlanInput& input, const PlanOptions& options = {});

// The load of the most loaded shard over the mean, each layer's weighed by its load; 1 is perfect,
// 0 means that there is no load or no shard.
double Imbalance(const PlanInput& input, const Assignment& assignment);

// Copies in `to` that are not in `from`: experts that must be loaded.
int CountLoads(const Assignment& from, const Assignment& to);

}  // namespace tutti::placement
