#include "shared/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tutti::model {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
double Llama3Frequency(const RopeConfig& rope, double freq) {
  const double wavelength = kTwoPi / freq;
  if (wavelength < rope.original_context / rope.high_freq_factor) return freq;
  if (wavelength > rope.original_context / rope.low_freq_factor) return freq / rope.factor;
  const double smooth = (rope.original_context / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * (freq / rope.factor) + smooth * freq;
}

// The (real) dimension whose wave turns `turns` times over the original context (YaRN, eq. 17).
double CorrectionDim(const RopeConfig& rope, int rotary_dim, double turns) {
  return rotary_dim * kernels::DetLog(rope.original_context / (turns * kTwoPi)) /
         (2.0 * kernels::DetLog(rope.theta));
}

void ApplyYarn(const RopeConfig& rope, int rotary_dim, std::vector<double>& freqs) {
  double low = CorrectionDim(rope, rotary_dim, rope.beta_fast);
  double high = CorrectionDim(rope, rotary_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < freqs.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    freqs[i] = freqs[i] / rope.factor * ramp + freqs[i] * (1.0 - ramp);
  }
}

}  // namespace

double YarnAttentionFactor(double factor, double m) {
  return factor <= 1.0 ? 1.0 : 0.1 * m * kernels::DetLog(factor) + 1.0;
}

std::vector<double> InverseFrequencies(const RopeConfig& rope, int rotary_dim) {
  std::vector<double> freqs(rotary_dim / 2);
  for (size_t i = 0; i < freqs.size(); ++i) {
    freqs[i] = 1.0 / kernels::DetPow(rope.theta, static_cast<double>(2 * i) / rotary_dim);
    if (!rope.divisors.empty()) freqs[i] /= rope.divisors[i];
  }
  switch (rope.scaling) {
    case RopeConfig::Scaling::kNone:
      break;
    case RopeConfig::Scaling::kLinear:
      for (double& f : freqs) f /= rope.factor;
      break;
    case RopeConfig::Scaling::kLlama3:
      for (double& f : freqs) f = Llama3Frequency(rope, f);
      break;
    case RopeConfig::Scaling::kYarn:
      ApplyYarn(rope, rotary_dim, freqs);
      break;
  }
  return freqs;
}

RopeCache::RopeCache(const RopeConfig& rope, int rotary_dim, int64_t max_positions)
    : half_(rotary_dim / 2),
      attention_factor_(rope.attention_factor),
      inv_freq_(InverseFrequencies(rope, rotary_dim)) {
  blocks_.reserve((max_positions + kBlock - 1) / kBlock);
}

void RopeCache::Reserve(int64_t end) {
  while (static_cast<int64_t>(blocks_.size()) * kBlock < end) {
    const int64_t first = static_cast<int64_t>(blocks_.size()) * kBlock;
    auto block = std::make_unique<float[]>(2 * kBlock * half_);
    kernels::RopeTable(inv_freq_.data(), half_, first, kBlock, attention_factor_, block.get(),
                       block.get() + kBlock * half_);
    blocks_.push_back(std::move(block));
  }
}

}  // namespace tutti::model
