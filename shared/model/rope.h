// Tables of cosines and sines for rotary positions, grown as positions are first used.
// Determinism: exact: kernels::RopeTable has no libm in it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "shared/model/config.h"

namespace tutti::model {

// The inverse frequencies [rotary_dim / 2] of a config, scaling applied (linear; Llama 3; YaRN,
// Peng et al., arXiv:2309.00071). REQUIRES: config.Validate() is OK.
std::vector<double> InverseFrequencies(const RopeConfig& rope, int rotary_dim);

// YaRN's factor on cos and sin for a stretch of `factor` (sec. 3.4): 0.1 m ln(factor) + 1.
double YarnAttentionFactor(double factor, double m = 1.0);

// Thread safety: Reserve from one thread; Cos and Sin of reserved positions from any.
class RopeCache {
 public:
  RopeCache(const RopeConfig& rope, int rotary_dim, int64_t max_positions);

  // Makes positions [0, end) readable. Cost: 1024 positions at a time, once.
  void Reserve(int64_t end);
  const float* Cos(int64_t pos) const {
    return blocks_[pos / kBlock].get() + (pos % kBlock) * half_;
  }
  const float* Sin(int64_t pos) const { return Cos(pos) + kBlock * half_; }

 private:
  static constexpr int64_t kBlock = 1024;

  int half_;
  double attention_factor_;
  std::vector<double> inv_freq_;
  std::vector<std::unique_ptr<float[]>>
      blocks_;  // each cos [kBlock, half], then sin [kBlock, half]
};

}  // namespace tutti::model
