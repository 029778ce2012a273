// Random weights and rows for tests and benchmarks of kernels.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "shared/base/philox.h"
#include "shared/tensor/dtype.h"

namespace tutti::kernels {

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                       DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// A stream of random numbers from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint32_t Bits() {
    const uint32_t i = static_cast<uint32_t>(next_++);
    return Philox4x32(seed_, {i, 0, 0, 0})[0];
  }
  // In [0, n).
  int64_t Below(int64_t n) { return static_cast<int64_t>(Bits() % static_cast<uint64_t>(n)); }
  // In (-1, 1).
  float Symmetric() { return 2 * UnitUniform(Bits()) - 1; }

 private:
  uint64_t seed_, next_ = 0;
};

inline void SetHalf(std::vector<std::byte>& data, size_t at, float value) {
  const uint16_t h = FloatToHalf(value);
  std::memcpy(data.data() + at, &h, 2);
}

// File bytes of a matrix: random integers everywhere, scales and minima finite and of both signs.
inline std::vector<std::byte> RandomWeights(DType dtype, int64_t rows, int64_t cols,
                                            uint64_t seed) {
  std::vector<std::byte> data(*StorageBytes(dtype, static_cast<uint64_t>(rows * cols)));
  Random random(seed);
  const DTypeTraits& t = Traits(dtype);
  const auto block_bytes = static_cast<size_t>(t.block_bytes);
  for (size_t at = 0; at < data.size(); at += block_bytes) {
    if (dtype == DType::kF32) {
      const float v = random.Symmetric();
      std::memcpy(data.data() + at, &v, 4);
    } else if (dtype == DType::kF16) {
      SetHalf(data, at, random.Symmetric());
    } else if (dtype == DType::kBF16) {
      const uint16_t h = FloatToBFloat16(random.Symmetric());
      std::memcpy(data.data() + at, &h, 2);
    } else {
      for (size_t i = 0; i < block_bytes; i += 2) {
        const uint32_t bits = random.Bits();
        std::memcpy(data.data() + at + i, &bits, 2);
      }
      if (dtype == DType::kQ6_K) {
        SetHalf(data, at + 208, 0.01f * random.Symmetric());
      } else {
        SetHalf(data, at, 0.01f * random.Symmetric());
        const bool has_min = dtype == DType::kQ4_1 || dtype == DType::kQ5_1 ||
                             dtype == DType::kQ4_K || dtype == DType::kQ5_K;
        if (has_min) SetHalf(data, at + 2, 0.1f * random.Symmetric());
      }
    }
  }
  return data;
}

}  // namespace tutti::kernels
