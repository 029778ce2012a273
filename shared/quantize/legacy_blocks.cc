// The formats of 32 elements with one scale, or one scale and one minimum.
#include <cstring>

#include "shared/base/check.h"
#include "shared/quantize/block_encoders.h"
#include "shared/quantize/fit.h"

namespace tutti::quantize {
namespace {

constexpr int kBlock = 32;

// Candidates for where the largest number comes to lie. Codes reach one further down than up, so
// both signs count; a block with one large number is often better off with that one cut short.
constexpr float kEnds4[] = {-8.5f, -8,   -7.5f, -7,   -6.5f, -9.25f, -10, -11,
                            8.25f, 7.5f, 7,     6.5f, 6,     9,      10,  11};
constexpr float kEnds5[] = {-16.5f, -16, -15.5f, -15, -14.5f, -17.25f, -18, -19.5f,
                            15.5f,  15,  14.5f,  14,  16.25f, 17,      18,  19.5f};
constexpr float kEnds8[] = {127.4f, 126.7f, 126, 125, 123.5f, 122, 120, 118};

// value = d (code - offset); code - offset in [-offset, offset - 1], for Q8_0 in [-127, 127].
void EncodeScaled(const Group<kBlock>& g, CodeRange codes, std::span<const float> ends, int offset,
                  kernels::RawBlock* out) {
  const float d = FitScale(g, codes, ends, /*half=*/true).scale, inverse = Inverse(d);
  out->d = FloatToHalf(d);
  for (int i = 0; i < kBlock; ++i) {
    const float q = NearestCode(g.x[i] * inverse, codes.low, codes.high);
    out->u[i] = static_cast<uint8_t>(static_cast<int>(q) + offset);
  }
}

// value = d code + m
void EncodeAffine(const Group<kBlock>& g, float top, kernels::RawBlock* out) {
  const AffineFit fit = FitAffine(g, {.top = top, .half = true});
  const float inverse = Inverse(fit.scale);
  out->d = FloatToHalf(fit.scale);
  out->m = FloatToHalf(fit.offset);
  for (int i = 0; i < kBlock; ++i)
    out->u[i] = static_cast<uint8_t>(NearestCode((g.x[i] - fit.offset) * inverse, 0, top));
}

}  // namespace

void EncodeLegacyBlock(DType dtype, const float* x, kernels::RawBlock* out) {
  Group<kBlock> g;
  std::memcpy(g.x, x, sizeof(g.x));
  switch (dtype) {
    case DType::kQ8_0:
      return EncodeScaled(g, {-127, 127}, kEnds8, 0, out);
    case DType::kQ4_0:
      return EncodeScaled(g, {-8, 7}, kEnds4, 8, out);
    case DType::kQ5_0:
      return EncodeScaled(g, {-16, 15}, kEnds5, 16, out);
    case DType::kQ4_1:
      return EncodeAffine(g, 15, out);
    case DType::kQ5_1:
      return EncodeAffine(g, 31, out);
    default:
      TUTTI_CHECK(!"a type of 32 elements");
  }
}

}  // namespace tutti::quantize
