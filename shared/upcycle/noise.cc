#include "shared/upcycle/noise.h"

#include <cmath>
#include <limits>

#include "kernels/kernels.h"
#include "shared/base/philox.h"
#include "shared/quantize/blocks.h"
#include "shared/upcycle/cluster.h"

namespace tutti::upcycle {
namespace {

constexpr float kRootThree = 1.7320508f;  // a uniform number in (-1/2, 1/2) has variance 1/12

// Two near-normal numbers: each the sum of four 16-bit uniform ones.
struct Pair {
  float x[2];
};
Pair NearNormal(const NoiseStream& s, uint64_t index) {
  const auto block = Philox4x32(s.seed, {static_cast<uint32_t>(index),
                                         static_cast<uint32_t>(index >> 32), s.expert, s.tensor});
  const auto sum = [](uint32_t a, uint32_t b) {  // of integers: exact
    return static_cast<int32_t>((a >> 16) + (a & 0xFFFF) + (b >> 16) + (b & 0xFFFF));
  };
  const auto unit = [](int32_t sum) {
    return (static_cast<float>(sum + 2) * 0x1p-16f - 2.0f) * kRootThree;
  };
  return {{unit(sum(block[0], block[1])), unit(sum(block[2], block[3]))}};
}

float LargestValue(DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kBF16) return 0x1p127f;
  return quantize::kValueMax;
}

}  // namespace

void EncodeWithNoise(const weights::TensorInfo& source, const NoiseStream& stream, int64_t first,
                     int64_t n, std::vector<float>* scratch, std::byte* out, NoiseChange* change) {
  const int64_t cols = source.shape.back();
  const int64_t count = n * cols, begin = first * cols;
  scratch->resize(static_cast<size_t>(3 * count));
  const std::span<float> all(*scratch);
  const auto size = static_cast<size_t>(count), width = static_cast<size_t>(cols);
  const auto x = all.first(size), y = all.subspan(size, size), back = all.subspan(2 * size);
  const size_t offset = *StorageBytes(source.dtype, static_cast<uint64_t>(begin));
  kernels::DequantizeBlocks(source.dtype, source.data.data() + offset, count, x.data());
  const float limit = LargestValue(source.dtype);
  for (size_t row = 0; row < size; row += width) {
    const auto values = x.subspan(row, width);
    const float rms = std::sqrt(Dot(values, values) / static_cast<float>(cols));
    const float scale = static_cast<float>(stream.noise) * rms;
    for (size_t i = 0; i < width; ++i) {
      const auto element = static_cast<uint64_t>(begin) + row + i;
      const Pair pair = NearNormal(stream, element / 2);
      y[row + i] = values[i] + scale * pair.x[element % 2];
      if (std::fabs(y[row + i]) <= limit) continue;  // false for NaN too
      change->bad_element = static_cast<int64_t>(element);
      return;
    }
  }
  quantize::EncodeBlocks(source.dtype, y, out);
  kernels::DequantizeBlocks(source.dtype, out, count, back.data());
  for (size_t i = 0; i < size; ++i) {
    const double value = x[i], moved = static_cast<double>(back[i]) - value;
    change->squares += value * value;
    change->squared_change += moved * moved;
  }
}

}  // namespace tutti::upcycle
