#include "shared/testing/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/blocks.h"
#include "shared/base/check.h"

namespace tutti::testing {
namespace {

using kernels::RawBlock;

const uint8_t* U8(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }
void PutHalf(std::byte* p, float v) {
  const uint16_t h = FloatToHalf(v);
  std::memcpy(p, &h, 2);
}
float GetHalf(const std::byte* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return HalfToFloat(h);
}
int Nearest(float v, int low, int high) {
  return std::clamp(static_cast<int>(std::nearbyint(v)), low, high);
}
// The scale as it will be read back, so that rounding it to f16 costs nothing more.
float AsHalf(float v) { return HalfToFloat(FloatToHalf(v)); }
float Inverse(float v) { return v != 0 ? 1 / v : 0; }

// Q4_0, Q5_0, Q8_0: d, then codes around `centre`; the value is d * (code - centre).
// Q4_1, Q5_1: d, m, then codes from 0; the value is d * code + m.
// Nibbles: element i < 16 in the low half of byte i, element i + 16 in the high half. Fifth bits:
// bit i of a 32-bit word before the nibbles.
struct Classic {
  int bits;
  bool has_min;
};
Classic FormOf(DType t) {
  switch (t) {
    case DType::kQ4_0:
      return {4, false};
    case DType::kQ4_1:
      return {4, true};
    case DType::kQ5_0:
      return {5, false};
    case DType::kQ5_1:
      return {5, true};
    default:
      return {8, false};
  }
}

void QuantizeClassic(Classic form, const float* x, RawBlock* out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const int top = (1 << form.bits) - 1;
  float d, m = 0;
  int centre = 0;
  if (form.has_min) {
    m = AsHalf(*low);
    d = AsHalf((*high - *low) / static_cast<float>(top));
  } else {
    const float amax = std::max(std::fabs(*low), std::fabs(*high));
    centre = 1 << (form.bits - 1);
    d = AsHalf(amax / static_cast<float>(centre - 1));
  }
  const float id = Inverse(d);
  out->d = FloatToHalf(d);
  out->m = FloatToHalf(m);
  for (int i = 0; i < 32; ++i) {
    out->u[i] = static_cast<uint8_t>(
        form.bits == 8 ? Nearest(x[i] * id, -127, 127)
                       : Nearest((x[i] - m) * id + static_cast<float>(centre), 0, top));
  }
}

void DequantizeClassic(Classic form, const std::byte* in, float* x) {
  const float d = GetHalf(in), m = form.has_min ? GetHalf(in + 2) : 0;
  in += form.has_min ? 4 : 2;
  if (form.bits == 8) {
    for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(static_cast<int8_t>(U8(in)[i]));
    return;
  }
  uint32_t fifth = 0;
  if (form.bits == 5) {
    std::memcpy(&fifth, in, 4);
    in += 4;
  }
  const int centre = form.has_min ? 0 : 1 << (form.bits - 1);
  for (int i = 0; i < 32; ++i) {
    const uint8_t byte = U8(in)[i % 16];
    const int code = (i < 16 ? byte & 15 : byte >> 4) | static_cast<int>((fifth >> i) & 1) << 4;
    x[i] = d * static_cast<float>(code - centre) + m;
  }
}

// Q4_K, Q5_K: super-blocks of 8 x 32. d, dmin (f16), 12 bytes of 6-bit scales and minima, [32 bytes
// of fifth bits], 128 bytes of nibbles. The value is (d * scale) * code - (dmin * min).
void UnpackScales(const uint8_t* q, int* sc, int* mn) {
  for (int j = 0; j < 4; ++j) {
    sc[j] = q[j] & 63;
    mn[j] = q[j + 4] & 63;
    sc[j + 4] = (q[j + 8] & 15) | (q[j] >> 6) << 4;
    mn[j + 4] = (q[j + 8] >> 4) | (q[j + 4] >> 6) << 4;
  }
}

void QuantizeK(int bits, const float* x, RawBlock* out) {
  const int top = (1 << bits) - 1;
  float scale[8], low[8];
  for (int j = 0; j < 8; ++j) {
    const auto [lo, hi] = std::minmax_element(x + 32 * j, x + 32 * j + 32);
    low[j] = -std::min(*lo, 0.0f);
    scale[j] = (*hi + low[j]) / static_cast<float>(top);
    if (scale[j] < 0) scale[j] = 0;
  }
  const float d = AsHalf(*std::max_element(scale, scale + 8) / 63);
  const float dmin = AsHalf(*std::max_element(low, low + 8) / 63);
  out->d = FloatToHalf(d);
  out->m = FloatToHalf(dmin);
  for (int j = 0; j < 8; ++j) {
    const int sc = Nearest(scale[j] * Inverse(d), 0, 63),
              mn = Nearest(low[j] * Inverse(dmin), 0, 63);
    out->sc[j] = static_cast<uint8_t>(sc);
    out->mn[j] = static_cast<uint8_t>(mn);
    const float ds = d * static_cast<float>(sc), dm = dmin * static_cast<float>(mn);
    for (int i = 32 * j; i < 32 * j + 32; ++i)
      out->u[i] = static_cast<uint8_t>(Nearest((x[i] + dm) * Inverse(ds), 0, top));
  }
}

void DequantizeK(int bits, const std::byte* in, float* x) {
  const float d = GetHalf(in), dmin = GetHalf(in + 2);
  int sc[8], mn[8];
  UnpackScales(U8(in + 4), sc, mn);
  const uint8_t* fifth = U8(in + 16);
  const uint8_t* nibbles = fifth + (bits == 5 ? 32 : 0);
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 32; ++i) {
      const uint8_t byte = nibbles[32 * (j / 2) + i];
      int code = j % 2 == 0 ? byte & 15 : byte >> 4;
      if (bits == 5) code |= (fifth[i] >> j & 1) << 4;
      x[32 * j + i] = d * static_cast<float>(sc[j]) * static_cast<float>(code) -
                      dmin * static_cast<float>(mn[j]);
    }
  }
}

// Q6_K: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales (one per 16), d. In each
// half of 128: element 32 k + l has its low bits in byte l (k even) or l + 32 (k odd), low nibble
// for k < 2, and its high pair in bits 2 k of byte l. The value is d * scale * (code - 32).
void QuantizeQ6K(const float* x, RawBlock* out) {
  float scale[16];
  for (int j = 0; j < 16; ++j) {
    float amax = 0;
    for (int i = 0; i < 16; ++i) amax = std::max(amax, std::fabs(x[16 * j + i]));
    scale[j] = amax / 31;
  }
  const float d = AsHalf(*std::max_element(scale, scale + 16) / 127);
  out->d = FloatToHalf(d);
  for (int j = 0; j < 16; ++j) {
    const int sc = Nearest(scale[j] * Inverse(d), 0, 127);
    out->sc[j] = static_cast<uint8_t>(sc);
    for (int i = 16 * j; i < 16 * j + 16; ++i) {
      const float ds = d * static_cast<float>(sc);
      out->u[i] = static_cast<uint8_t>(Nearest(x[i] * Inverse(ds), -32, 31) + 32);
    }
  }
}

void DequantizeQ6K(const std::byte* in, float* x) {
  const uint8_t *ql = U8(in), *qh = ql + 128;
  const auto* scales = reinterpret_cast<const int8_t*>(qh + 64);
  const float d = GetHalf(in + 208);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128, k = e % 128 / 32, l = e % 32;
    const uint8_t byte = ql[64 * half + l + 32 * (k % 2)];
    const int code = (k < 2 ? byte & 15 : byte >> 4) | (qh[32 * half + l] >> (2 * k) & 3) << 4;
    x[e] = d * static_cast<float>(scales[e / 16]) * static_cast<float>(code - 32);
  }
}

}  // namespace

std::vector<std::byte> Quantize(DType dtype, std::span<const float> values) {
  const DTypeTraits& t = Traits(dtype);
  const auto block = static_cast<size_t>(t.block_elements),
             bytes = static_cast<size_t>(t.block_bytes);
  TUTTI_CHECK(values.size() % block == 0);
  std::vector<std::byte> out(values.size() / block * bytes);
  for (size_t b = 0; b < values.size() / block; ++b) {
    const float* x = values.data() + b * block;
    kernels::RawBlock raw;
    std::byte* p = out.data() + b * bytes;
    switch (dtype) {
      case DType::kF32:
        std::memcpy(p, x, 4);
        break;
      case DType::kF16:
        PutHalf(p, *x);
        break;
      case DType::kBF16: {
        const uint16_t h = FloatToBFloat16(*x);
        std::memcpy(p, &h, 2);
        break;
      }
      case DType::kQ4_K:
        QuantizeK(4, x, &raw);
        break;
      case DType::kQ5_K:
        QuantizeK(5, x, &raw);
        break;
      case DType::kQ6_K:
        QuantizeQ6K(x, &raw);
        break;
      default:
        QuantizeClassic(FormOf(dtype), x, &raw);
    }
    if (t.quantized) kernels::EncodeFileBlock(dtype, raw, p);
  }
  return out;
}

std::vector<float> Dequantize(DType dtype, std::span<const std::byte> bytes) {
  const DTypeTraits& t = Traits(dtype);
  const auto block = static_cast<size_t>(t.block_elements),
             width = static_cast<size_t>(t.block_bytes);
  TUTTI_CHECK(bytes.size() % width == 0);
  std::vector<float> out(bytes.size() / width * block);
  for (size_t b = 0; b < bytes.size() / width; ++b) {
    const std::byte* p = bytes.data() + b * width;
    float* x = out.data() + b * block;
    switch (dtype) {
      case DType::kF32:
        std::memcpy(x, p, 4);
        break;
      case DType::kF16:
        *x = GetHalf(p);
        break;
      case DType::kBF16: {
        uint16_t h;
        std::memcpy(&h, p, 2);
        *x = BFloat16ToFloat(h);
        break;
      }
      case DType::kQ4_K:
        DequantizeK(4, p, x);
        break;
      case DType::kQ5_K:
        DequantizeK(5, p, x);
        break;
      case DType::kQ6_K:
        DequantizeQ6K(p, x);
        break;
      default:
        DequantizeClassic(FormOf(dtype), p, x);
    }
  }
  return out;
}

}  // namespace tutti::testing
