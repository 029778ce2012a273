// The feed-forward sublayer as a part that can be replaced: dense here; a mixture of experts, local
// or on other machines, is another class behind the same interface.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "shared/model/config.h"
#include "shared/model/model_weights.h"
#include "shared/model/workspace.h"

namespace tutti::model {

// Thread safety: one Run at a time over all layers (they share a workspace).
// Determinism: exact: row r of y depends on row r of x alone.
class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // Whether Run reads x.q, so that the caller quantises while a row is warm.
  virtual bool reads_quantized() const = 0;
  // y[r] = FFN(x[r]) for `rows` rows, x already normalised; no residual.
  //   x  [rows, hidden]   y  [rows, hidden], not overlapping x
  virtual void Run(const Exec& exec, const Activations& x, int64_t rows, float* y) = 0;
};

// Hidden activations of one step, shared by the layers.
struct FfnWorkspace {
  Buffer<float> hidden;              // [rows, ffn_size], when `down` has float weights
  QuantizedBuffer hidden_quantized;  // [rows, ffn_size], when it has quantised ones
  std::vector<ThreadScratch> threads;
};

// down(f(gate x) * up x), or down(f(up x)). `weights` and `workspace` are borrowed.
std::unique_ptr<FeedForward> MakeDenseFfn(const ModelConfig& config, const FfnWeights* weights,
                                          FfnWorkspace* workspace);

}  // namespace tutti::model
