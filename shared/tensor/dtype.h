// Element types of weights and caches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tutti {

// The quantised types store blocks along the last dimension, as GGUF defines them.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};
inline constexpr int kNumDTypes = 11;

struct DTypeTraits {
  std::string_view name;  // "F32", "Q4_1", ...
  int block_elements;     // 1, 32 or 256
  int block_bytes;        // bytes of one block in the file
  bool quantized;
};
const DTypeTraits& Traits(DType dtype);

// Bytes of `elements` elements, a multiple of the block; nullopt when not a multiple or on
// overflow.
std::optional<size_t> StorageBytes(DType dtype, uint64_t elements);

// IEEE binary16 and bfloat16 <-> binary32; narrowing rounds to nearest even. Exact, no intrinsics.
float HalfToFloat(uint16_t bits);
uint16_t FloatToHalf(float value);
inline float BFloat16ToFloat(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}
uint16_t FloatToBFloat16(float value);

}  // namespace tutti
