// The searches of blocks.h for one group of numbers: a scale, or a scale and an offset. Internal to
// this room. Sums run in 8 lanes (i mod 8) that are folded at the end.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "shared/tensor/dtype.h"

namespace tutti::quantize {

// N numbers to be fitted.
template <int N>
struct Group {
  float x[N];
};

inline constexpr int kFitLanes = 8;
inline constexpr float kNoError = std::numeric_limits<float>::infinity();

struct LaneSum {
  float lane[kFitLanes] = {};
  float Total() const {
    float a[4];
    for (int l = 0; l < 4; ++l) a[l] = lane[l] + lane[l + 4];
    return (a[0] + a[2]) + (a[1] + a[3]);
  }
};

// The scale as it will be read back.
inline float AsHalf(float v) { return HalfToFloat(FloatToHalf(v)); }
// 0 for scales so small that their inverse would not be finite: all codes are 0 then.
inline float Inverse(float scale) { return std::fabs(scale) > 1e-30f ? 1 / scale : 0; }
// The code nearest to v within [low, high]; adding and taking off 1.5 * 2^23 rounds to even.
inline float NearestCode(float v, float low, float high) {
  constexpr float kMagic = 12582912.0f;
  return (std::min(std::max(v, low), high) + kMagic) - kMagic;
}

// ---- value = scale * q, q in [low, high] ----

struct CodeRange {
  float low, high;
};
struct ScaleFit {
  float scale = 0, error = kNoError;
};

template <int N>
float ScaleError(const Group<N>& g, float scale, CodeRange codes) {
  const float inverse = Inverse(scale);
  LaneSum sum;
  for (int i = 0; i < N; i += kFitLanes) {
    for (int l = 0; l < kFitLanes; ++l) {
      const float x = g.x[i + l];
      const float r = x - scale * NearestCode(x * inverse, codes.low, codes.high);
      sum.lane[l] += r * r;
    }
  }
  return sum.Total();
}

// The least-squares scale of the codes that `first` gives; 0 when those are all 0.
template <int N>
float SolveScale(const Group<N>& g, float first, CodeRange codes) {
  const float inverse = Inverse(first);
  LaneSum xq, qq;
  for (int i = 0; i < N; i += kFitLanes) {
    for (int l = 0; l < kFitLanes; ++l) {
      const float x = g.x[i + l], q = NearestCode(x * inverse, codes.low, codes.high);
      xq.lane[l] += q * x;
      qq.lane[l] += q * q;
    }
  }
  const float below = qq.Total();
  return below > 0 ? xq.Total() / below : 0;
}

// `ends`: where in the code range the largest number may come to lie, the candidates; negative ones
// turn the scale's sign. `half`: the scale is stored as f16. The first candidate is the plain
// choice, taken as it is.
template <int N>
ScaleFit FitScale(const Group<N>& g, CodeRange codes, std::span<const float> ends, bool half) {
  constexpr int kPolishMax = 3;
  float largest = 0;
  for (int i = 0; i < N; ++i) largest = std::max(largest, std::fabs(g.x[i]));
  ScaleFit best;
  const auto offer = [&](float scale) {
    if (half) scale = AsHalf(scale);
    const float error = ScaleError(g, scale, codes);
    const bool better = error < best.error;
    if (better) best = {scale, error};
    return better;
  };
  offer(largest / codes.high);
  for (const float end : ends) offer(SolveScale(g, largest / end, codes));
  for (int i = 0; i < kPolishMax && offer(SolveScale(g, best.scale, codes)); ++i) {
  }
  return best;
}

// ---- value = scale * q + offset, q in [0, top] ----

struct AffineFit {
  float scale = 0, offset = 0, error = kNoError;
};
struct AffineRules {
  float top = 15;
  bool half = false;             // scale and offset are stored as f16
  bool offset_negative = false;  // the offset is 0 or below (K-quants)
};

template <int N>
float AffineError(const Group<N>& g, float scale, float offset, float top) {
  const float inverse = Inverse(scale);
  LaneSum sum;
  for (int i = 0; i < N; i += kFitLanes) {
    for (int l = 0; l < kFitLanes; ++l) {
      const float x = g.x[i + l];
      const float r = x - (scale * NearestCode((x - offset) * inverse, 0, top) + offset);
      sum.lane[l] += r * r;
    }
  }
  return sum.Total();
}

// Least squares for the codes that (scale, offset) give. A scale of 0 says that there is no
// solution (all codes are equal).
template <int N>
AffineFit SolveAffine(const Group<N>& g, float scale, float offset, const AffineRules& rules) {
  const float inverse = Inverse(scale);
  LaneSum sx, sq, sxq, sqq;
  for (int i = 0; i < N; i += kFitLanes) {
    for (int l = 0; l < kFitLanes; ++l) {
      const float x = g.x[i + l];
      const float q = NearestCode((x - offset) * inverse, 0, rules.top);
      sx.lane[l] += x;
      sq.lane[l] += q;
      sxq.lane[l] += q * x;
      sqq.lane[l] += q * q;
    }
  }
  const float x = sx.Total(), q = sq.Total(), xq = sxq.Total(), qq = sqq.Total();
  constexpr float n = N;
  const float determinant = n * qq - q * q;
  AffineFit fit;
  if (!(determinant > 0)) return fit;
  fit.scale = (n * xq - x * q) / determinant;
  if (rules.half) fit.scale = AsHalf(fit.scale);
  fit.offset = (x - fit.scale * q) / n;
  if (rules.offset_negative && fit.offset > 0) {
    fit.offset = 0;
    fit.scale = xq / qq;
  }
  if (rules.half) fit.offset = AsHalf(fit.offset);
  return fit;
}

// The numbers' range, with each end moved inwards by these shares of it, gives the candidates.
inline constexpr float kTrims[] = {-0.04f, 0.0f, 0.04f, 0.08f, 0.14f};

template <int N>
AffineFit FitAffine(const Group<N>& g, const AffineRules& rules) {
  constexpr int kPolishMax = 3;
  float low = g.x[0], high = g.x[0];
  for (int i = 1; i < N; ++i) {
    low = std::min(low, g.x[i]);
    high = std::max(high, g.x[i]);
  }
  if (rules.offset_negative) low = std::min(low, 0.0f);
  high = std::max(low, high);
  const float range = high - low;
  AffineFit best;
  const auto offer = [&](float scale, float offset) {
    if (scale < 0) return false;
    const float error = AffineError(g, scale, offset, rules.top);
    const bool better = error < best.error;
    if (better) best = {scale, offset, error};
    return better;
  };
  const auto stored = [&](float v) { return rules.half ? AsHalf(v) : v; };
  offer(stored(range / rules.top), stored(low));
  if (range == 0) return best;
  for (const float a : kTrims) {
    for (const float b : kTrims) {
      const float scale = range * (1 - a - b) / rules.top;
      const AffineFit fit = SolveAffine(g, scale, low + a * range, rules);
      if (fit.scale > 0) offer(fit.scale, fit.offset);
    }
  }
  for (int i = 0; i < kPolishMax; ++i) {
    const AffineFit fit = SolveAffine(g, best.scale, best.offset, rules);
    if (fit.scale <= 0 || !offer(fit.scale, fit.offset)) break;
  }
  return best;
}

}  // namespace tutti::quantize
