// The feed-forward sublayer as a part that can be replaced: dense here; a mixture of experts, local
// or on other machines, is another class behind the same interface.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "shared/model/config.h"
#include "shared/model/model_weights.h"
#include "shared/model/workspace.h"
#include "shared/moe/drops.h"
#include "shared/moe/expert_backend.h"

namespace tutti::model {

// Thread safety: one call at a time over all layers (they share workspaces).
// Determinism: exact: row r of y depends on row r of x alone.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // Whether Start reads x.q, so that the caller quantises while a row is warm.
  virtual bool reads_quantized() const = 0;
  // y[r] = FFN(x[r]) for `rows` rows, x already normalised; no residual. It is complete when Finish
  // of the same lane returns; until then x and y stay valid. Between the two, rows may be computed
  // elsewhere while the caller does something else: one Start in each lane, over all layers.
  //   x  [rows, hidden]   y  [rows, hidden], not overlapping x   lane  [0, kMaxLanes)
  virtual void Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) = 0;
  // Errors: of experts that run elsewhere (moe::ExpertBackend::Wait); y then holds anything.
  virtual absl::Status Finish(const Exec& exec, int lane) = 0;
};

// Outputs [16 group_begin, 16 group_end) of f(gate x) * up x, or of f(up x) when `weights` has no
// gate, for `rows` rows of x. The tile [rows, width] lies in `scratch`, which is grown to it.
float* FfnHidden(const Exec& exec, const FfnWeights& weights, kernels::Activation activation,
                 const Activations& x, int64_t rows, int64_t group_begin, int64_t group_end,
                 ThreadScratch* scratch);

// Hidden activations of one step, shared by the layers.
struct FfnWorkspace {
  Buffer<float> hidden;              // [rows, ffn_size], when `down` has float weights
  QuantizedBuffer hidden_quantized;  // [rows, ffn_size], when it has quantised ones
  std::vector<ThreadScratch> threads;
};

// down(f(gate x) * up x), or down(f(up x)). `weights` and `workspace` are borrowed.
std::unique_ptr<FeedForward> MakeDenseFfn(const ModelConfig& config, const FfnWeights* weights,
                                          FfnWorkspace* workspace);

// What a mixture decided for the rows of a step; for tests and statistics.
struct RoutingView {
  int moe_layer = 0;
  int64_t rows = 0;
  std::span<const float> logits;   // [rows, experts]
  std::span<const int32_t> ids;    // [rows, top_k] ascending in a row
  std::span<const float> weights;  // [rows, top_k]
  std::span<const uint8_t> kept;   // [rows, top_k] 1 where the pair was run; empty: all were
};
using RoutingObserver = std::function<void(const RoutingView&)>;

// Buffers of the mixtures of a model, and what is between Start and Finish: of one lane.
struct MoeWorkspace {
  FfnWorkspace shared;
  Buffer<float> logits, shared_out, pairs_out;
  std::vector<int32_t> ids, offsets;
  std::vector<float> weights;
  Activations x;
  int64_t rows = 0;
  float* y = nullptr;
  // Only with options that leave pairs out (moe::GatingOptions::drops): where the rows stand, and
  // the routing before that; `ids`, `offsets` and `weights` have what is left.
  std::span<const moe::RowPlace> places;
  std::vector<int32_t> routed_ids;
  std::vector<float> routed_weights;
  std::vector<uint8_t> kept;
  RoutingObserver observer;  // may be empty

  // Room for the ids of `rows` rows that want `per_row` experts each, and their offsets.
  void SizeIds(int64_t rows, int64_t per_row);
  // The rows of x with the ids as they are now, as the experts of `weights` read them.
  moe::ExpertBatch Batch(int moe_layer, const MoeWeights& weights) const;
};
using MoeWorkspaces = std::array<MoeWorkspace, moe::ExpertBackend::kMaxLanes>;

// sum over the chosen experts of weight * expert(x), in ascending id, then the shared expert's.
// `moe_layer` counts mixtures alone. Everything else is borrowed.
std::unique_ptr<FeedForward> MakeMoeFfn(const ModelConfig& config, int moe_layer,
                                        const MoeWeights* weights, moe::ExpertBackend* experts,
                                        MoeWorkspaces* workspaces);

// The slices of a dense FFN (ModelConfig::ffn_slices), added in order. Borrows as MakeMoeFfn.
std::unique_ptr<FeedForward> MakeSlicedFfn(const ModelConfig& config, int moe_layer,
                                           const MoeWeights* weights, moe::ExpertBackend* experts,
                                           MoeWorkspaces* workspaces);

}  // namespace tutti::model
