// Options that leave out some of a row's chosen experts (GShard, Lepikhin et al., arXiv:2006.16668,
// section 2.2 and algorithm 1): a random second expert, and a limit on what an expert takes. The
// others keep their weights; what is left out adds nothing, and the row goes on by its residual.
//
// In the paper both depend on the batch. Here they depend on the sequence alone: the random number
// on (seed, position, layer), the limit on the row's own window of positions, in order. So batch,
// chunks, prefix cache, preemption and resume change no bit (docs/determinism.md).
//
// Thread safety: pure functions over the caller's memory. Determinism: exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "shared/moe/gating.h"

namespace tutti::moe {

// Positions of one window, at multiples of it: a page of the KV cache.
inline constexpr int kWindowPositions = 16;

// Where a row stands.
struct RowPlace {
  uint64_t seed = 0;  // of the request
  int32_t pos = 0;
  // What the rows of this window asked for, per MoE layer: see RecordBytes. In the sequence's page,
  // so that it is there again whenever its keys and values are. nullptr without a limit.
  std::byte* records = nullptr;
};

// Bytes of one MoE layer's record of a window: [kWindowPositions][top_k] int16, the experts that
// were asked for, -1 where there are fewer. 0 when the options need none.
size_t RecordBytes(const GatingOptions& options);

// Rows of one window that an expert takes: capacity_factor times an even share, rounded up, at
// least 1; 0: all.
int ExpertCapacity(const GatingOptions& options);

// Does the row ask for its second expert? With a probability of twice its weight (of weights that
// sum to 1): always at one half, never at 0. The number is Philox(seed; layer, position,
// kRouteStream).
bool AsksSecond(uint64_t seed, int32_t pos, int moe_layer, float weight);

// What is left of a routed row.
//
//   ids, weights  [top_k] from Route
//   kept          [top_k] out: 1 where the pair stays
//
// The second expert is the one of less weight (of equal ones: the higher id). With a limit, an
// expert that earlier rows of the window asked for ExpertCapacity times takes no more; the row's
// record is written, and those of the window's earlier rows are read. (The paper asks for all first
// choices of a group before any second one, which a sequence that is not finished cannot.) A row
// whose weights are not numbers keeps all: its fault shows later. REQUIRES: rows of a sequence come
// in the order of their positions, each layer.
void DropPairs(const GatingOptions& options, int moe_layer, const RowPlace& place,
               std::span<const int32_t> ids, std::span<const float> weights,
               std::span<uint8_t> kept);

}  // namespace tutti::moe
