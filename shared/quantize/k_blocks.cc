// The formats of 256 elements: sub-blocks with small integer scales under one or two f16 for all.
#include <cstring>

#include "shared/base/check.h"
#include "shared/quantize/block_encoders.h"
#include "shared/quantize/fit.h"

namespace tutti::quantize {
namespace {

constexpr int kPolishMax = 3;

// A sub-block's fit divided by the f16 that all share: the nearest integer in [low, high].
int NearestInt(float v, int low, int high) {
  return static_cast<int>(NearestCode(v, static_cast<float>(low), static_cast<float>(high)));
}

// ---- Q4_K, Q5_K: 8 sub-blocks of 32, value = (d sc) q - (dmin mn), sc and mn in [0, 63] ----

struct AffineBlock {
  static constexpr int kSubs = 8, kSize = 32, kIntMax = 63;
  // Where the largest scale and the largest minimum come to lie in [0, 63].
  static constexpr float kTops[] = {63, 61.6f, 59, 55};

  struct Choice {
    float d = 0, dmin = 0, error = kNoError;
    int sc[kSubs] = {}, mn[kSubs] = {};
  };

  float top;  // of the codes
  Group<kSize> g[kSubs];
  AffineFit ideal[kSubs];

  float SubError(int j, const Choice& c, int sc, int mn) const {
    return AffineError(g[j], c.d * static_cast<float>(sc), -(c.dmin * static_cast<float>(mn)), top);
  }

  // The extremes of every sub-block at the ends of the code range.
  Choice Plain() const {
    float scale[kSubs], minimum[kSubs], scale_max = 0, minimum_max = 0;
    for (int j = 0; j < kSubs; ++j) {
      const auto [lo, hi] = std::minmax_element(g[j].x, g[j].x + kSize);
      minimum[j] = -std::min(*lo, 0.0f);
      scale[j] = std::max((*hi + minimum[j]) / top, 0.0f);
      scale_max = std::max(scale_max, scale[j]);
      minimum_max = std::max(minimum_max, minimum[j]);
    }
    Choice c{.d = AsHalf(scale_max / kIntMax), .dmin = AsHalf(minimum_max / kIntMax), .error = 0};
    for (int j = 0; j < kSubs; ++j) {
      c.sc[j] = NearestInt(scale[j] * Inverse(c.d), 0, kIntMax);
      c.mn[j] = NearestInt(minimum[j] * Inverse(c.dmin), 0, kIntMax);
      c.error += SubError(j, c, c.sc[j], c.mn[j]);
    }
    return c;
  }

  // The best integers next to each sub-block's own fit.
  Choice WithIntegers(float d, float dmin) const {
    Choice c{.d = d, .dmin = dmin, .error = 0};
    for (int j = 0; j < kSubs; ++j) {
      const int sc = NearestInt(ideal[j].scale * Inverse(d), 0, kIntMax);
      const int mn = NearestInt(-ideal[j].offset * Inverse(dmin), 0, kIntMax);
      float best = kNoError;
      for (int s = std::max(sc - 1, 0); s <= std::min(sc + 1, kIntMax); ++s) {
        for (int m = std::max(mn - 1, 0); m <= std::min(mn + 1, kIntMax); ++m) {
          const float error = SubError(j, c, s, m);
          if (!(error < best)) continue;
          best = error;
          c.sc[j] = s;
          c.mn[j] = m;
        }
      }
      c.error += best;
    }
    return c;
  }

  // d and dmin by least squares over all codes of a choice, its integers kept.
  Choice Resolved(Choice c) const {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;  // a = sc q, b = mn: x is near d a - dmin b
    for (int j = 0; j < kSubs; ++j) {
      const float scale = c.d * static_cast<float>(c.sc[j]), inverse = Inverse(scale);
      const float offset = -(c.dmin * static_cast<float>(c.mn[j]));
      LaneSum sx, sq, sxq, sqq;
      for (int i = 0; i < kSize; i += kFitLanes) {
        for (int l = 0; l < kFitLanes; ++l) {
          const float x = g[j].x[i + l];
          const float q = NearestCode((x - offset) * inverse, 0, top);
          sx.lane[l] += x;
          sq.lane[l] += q;
          sxq.lane[l] += q * x;
          sqq.lane[l] += q * q;
        }
      }
      const double s = c.sc[j], m = c.mn[j];
      aa += s * s * sqq.Total();
      ab += s * m * sq.Total();
      bb += m * m * kSize;
      ax += s * sxq.Total();
      bx += m * sx.Total();
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant > 1e-9 * aa * bb) {
      c.d = AsHalf(static_cast<float>((ax * bb - bx * ab) / determinant));
      c.dmin = AsHalf(static_cast<float>((ax * ab - bx * aa) / determinant));
    } else if (aa > 0) {
      c.d = AsHalf(static_cast<float>((ax + c.dmin * ab) / aa));
    }
    c.error = kNoError;
    if (!(c.d >= 0) || !(c.dmin >= 0)) return c;
    c.error = 0;
    for (int j = 0; j < kSubs; ++j) c.error += SubError(j, c, c.sc[j], c.mn[j]);
    return c;
  }

  Choice Search() {
    float scale_max = 0, minimum_max = 0;
    for (int j = 0; j < kSubs; ++j) {
      ideal[j] = FitAffine(g[j], {.top = top, .offset_negative = true});
      scale_max = std::max(scale_max, ideal[j].scale);
      minimum_max = std::max(minimum_max, -ideal[j].offset);
    }
    Choice best = Plain();
    const auto offer = [&best](const Choice& c) {
      const bool better = c.error < best.error;
      if (better) best = c;
      return better;
    };
    for (const float t : kTops) offer(WithIntegers(AsHalf(scale_max / t), AsHalf(minimum_max / t)));
    for (int i = 0; i < kPolishMax; ++i) {
      const bool solved = offer(Resolved(best));
      if (!offer(WithIntegers(best.d, best.dmin)) && !solved) break;
    }
    return best;
  }

  void Encode(const float* x, kernels::RawBlock* out) {
    for (int j = 0; j < kSubs; ++j) std::memcpy(g[j].x, x + kSize * j, sizeof(g[j].x));
    const Choice c = Search();
    out->d = FloatToHalf(c.d);
    out->m = FloatToHalf(c.dmin);
    for (int j = 0; j < kSubs; ++j) {
      out->sc[j] = static_cast<uint8_t>(c.sc[j]);
      out->mn[j] = static_cast<uint8_t>(c.mn[j]);
      const float inverse = Inverse(c.d * static_cast<float>(c.sc[j]));
      const float offset = -(c.dmin * static_cast<float>(c.mn[j]));
      for (int i = 0; i < kSize; ++i) {
        out->u[kSize * j + i] =
            static_cast<uint8_t>(NearestCode((g[j].x[i] - offset) * inverse, 0, top));
      }
    }
  }
};

// ---- Q6_K: 16 sub-blocks of 16, value = (d sc) q, q in [-32, 31], sc in [-127, 127] ----

struct ScaledBlock {
  static constexpr int kSubs = 16, kSize = 16, kIntMax = 127;
  static constexpr CodeRange kCodes = {-32, 31};
  static constexpr float kEnds[] = {-32.4f, -31.8f, -31, -30, -29, -33.5f,
                                    31.4f,  30.8f,  30,  29,  28,  32.5f};
  static constexpr float kTops[] = {127, 125.4f, 122, 117};

  struct Choice {
    float d = 0, error = kNoError;
    int sc[kSubs] = {};
  };

  Group<kSize> g[kSubs];
  ScaleFit ideal[kSubs];

  float SubError(int j, float d, int sc) const {
    return ScaleError(g[j], d * static_cast<float>(sc), kCodes);
  }

  Choice Plain() const {
    float scale[kSubs], scale_max = 0;
    for (int j = 0; j < kSubs; ++j) {
      float largest = 0;
      for (const float x : g[j].x) largest = std::max(largest, std::fabs(x));
      scale[j] = largest / kCodes.high;
      scale_max = std::max(scale_max, scale[j]);
    }
    Choice c{.d = AsHalf(scale_max / kIntMax), .error = 0};
    for (int j = 0; j < kSubs; ++j) {
      c.sc[j] = NearestInt(scale[j] * Inverse(c.d), 0, kIntMax);
      c.error += SubError(j, c.d, c.sc[j]);
    }
    return c;
  }

  Choice WithIntegers(float d) const {
    Choice c{.d = d, .error = 0};
    for (int j = 0; j < kSubs; ++j) {
      const int sc = NearestInt(ideal[j].scale * Inverse(d), -kIntMax, kIntMax);
      float best = kNoError;
      for (int s = std::max(sc - 1, -kIntMax); s <= std::min(sc + 1, kIntMax); ++s) {
        const float error = SubError(j, d, s);
        if (!(error < best)) continue;
        best = error;
        c.sc[j] = s;
      }
      c.error += best;
    }
    return c;
  }

  Choice Resolved(Choice c) const {
    double aa = 0, ax = 0;  // a = sc q
    for (int j = 0; j < kSubs; ++j) {
      const float inverse = Inverse(c.d * static_cast<float>(c.sc[j]));
      LaneSum sxq, sqq;
      for (int i = 0; i < kSize; i += kFitLanes) {
        for (int l = 0; l < kFitLanes; ++l) {
          const float x = g[j].x[i + l], q = NearestCode(x * inverse, kCodes.low, kCodes.high);
          sxq.lane[l] += q * x;
          sqq.lane[l] += q * q;
        }
      }
      const double s = c.sc[j];
      aa += s * s * sqq.Total();
      ax += s * sxq.Total();
    }
    c.error = kNoError;
    if (!(aa > 0)) return c;
    c.d = AsHalf(static_cast<float>(ax / aa));
    c.error = 0;
    for (int j = 0; j < kSubs; ++j) c.error += SubError(j, c.d, c.sc[j]);
    return c;
  }

  Choice Search() {
    float scale_max = 0;
    for (int j = 0; j < kSubs; ++j) {
      ideal[j] = FitScale(g[j], kCodes, kEnds, /*half=*/false);
      scale_max = std::max(scale_max, std::fabs(ideal[j].scale));
    }
    Choice best = Plain();
    const auto offer = [&best](const Choice& c) {
      const bool better = c.error < best.error;
      if (better) best = c;
      return better;
    };
    for (const float t : kTops) offer(WithIntegers(AsHalf(scale_max / t)));
    for (int i = 0; i < kPolishMax; ++i) {
      const bool solved = offer(Resolved(best));
      if (!offer(WithIntegers(best.d)) && !solved) break;
    }
    return best;
  }

  void Encode(const float* x, kernels::RawBlock* out) {
    for (int j = 0; j < kSubs; ++j) std::memcpy(g[j].x, x + kSize * j, sizeof(g[j].x));
    const Choice c = Search();
    out->d = FloatToHalf(c.d);
    for (int j = 0; j < kSubs; ++j) {
      out->sc[j] = static_cast<uint8_t>(c.sc[j]);
      const float inverse = Inverse(c.d * static_cast<float>(c.sc[j]));
      for (int i = 0; i < kSize; ++i) {
        const float q = NearestCode(g[j].x[i] * inverse, kCodes.low, kCodes.high);
        out->u[kSize * j + i] = static_cast<uint8_t>(static_cast<int>(q) + 32);
      }
    }
  }
};

}  // namespace

void EncodeKBlock(DType dtype, const float* x, kernels::RawBlock* out) {
  switch (dtype) {
    case DType::kQ4_K:
      return AffineBlock{.top = 15}.Encode(x, out);
    case DType::kQ5_K:
      return AffineBlock{.top = 31}.Encode(x, out);
    case DType::kQ6_K:
      return ScaledBlock{}.Encode(x, out);
    default:
      TUTTI_CHECK(!"a type of 256 elements");
  }
}

}  // namespace tutti::quantize
