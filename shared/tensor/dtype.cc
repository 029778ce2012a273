#include "shared/tensor/dtype.h"

#include <limits>

namespace tutti {

const DTypeTraits& Traits(DType dtype) {
  static constexpr DTypeTraits kTraits[kNumDTypes] = {
      {"F32", 1, 4, false},     {"F16", 1, 2, false},     {"BF16", 1, 2, false},
      {"Q8_0", 32, 34, true},   {"Q4_0", 32, 18, true},   {"Q4_1", 32, 20, true},
      {"Q5_0", 32, 22, true},   {"Q5_1", 32, 24, true},   {"Q4_K", 256, 144, true},
      {"Q5_K", 256, 176, true}, {"Q6_K", 256, 210, true},
  };
  return kTraits[static_cast<int>(dtype)];
}

std::optional<size_t> StorageBytes(DType dtype, uint64_t elements) {
  const DTypeTraits& t = Traits(dtype);
  if (elements % static_cast<uint64_t>(t.block_elements) != 0) return std::nullopt;
  const uint64_t blocks = elements / static_cast<uint64_t>(t.block_elements);
  if (blocks > std::numeric_limits<size_t>::max() / static_cast<uint64_t>(t.block_bytes))
    return std::nullopt;
  return blocks * static_cast<uint64_t>(t.block_bytes);
}

float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7F800000u | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: an exact product in binary32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return __builtin_bit_cast(float, sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t rest = bits & 0x7FFFFFFF;
  if (rest > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00 | ((rest >> 13) & 0x3FF));
  if (rest >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00);  // rounds past 65504
  if (rest <
      0x38800000u) {  // subnormal: adding 2^-1 leaves the rounded value in the low mantissa bits
    const float shifted = __builtin_bit_cast(float, rest) + 0.5f;
    return static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3F000000u));
  }
  const uint32_t rounded = rest + 0xFFF + ((rest >> 13) & 1) - (112u << 23);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace tutti
