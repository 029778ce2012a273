#include "kernels/kv_page.h"

#include <algorithm>
#include <cstring>

#include "kernels/reference/scalar_math.h"

namespace tutti::kernels {
namespace {

// Rounds `value` to F32 or F16 and stores it as element `index` of an array.
void StoreElement(DType dtype, float value, int64_t index, std::byte* array) {
  if (dtype == DType::kF32) {
    std::memcpy(array + 4 * index, &value, 4);
  } else {
    const uint16_t half = FloatToHalf(value);
    std::memcpy(array + 2 * index, &half, 2);
  }
}

// Q1 of up to 32 values; store(i, q) is called for each. Returns the scale.
template <typename Store>
float QuantizeBlock(const float* x, int n, const Store& store) {
  uint32_t max_bits = 0;  // of |x|: NaN beats all, so it ends up in the scale
  for (int i = 0; i < n; ++i)
    max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
  const float m = std::bit_cast<float>(max_bits);
  const float inverse = m > 0.0f ? 127.0f / m : 0.0f;
  for (int i = 0; i < n; ++i)
    store(i, static_cast<uint8_t>(std::bit_cast<uint32_t>(x[i] * inverse + kRound) & 0xFF));
  return m / 127.0f;
}

// [dim][16 positions] to [16 positions][dim].
template <typename Element>
void Turn(const std::byte* key_page, int dim, std::byte* value_page) {
  constexpr int kBlock = 16;  // dimensions at a time: a cache line or two of each position
  Element block[kPagePositions][kBlock];
  for (int first = 0; first < dim; first += kBlock) {
    const int n = std::min(kBlock, dim - first);
    for (int i = 0; i < n; ++i) {
      Element row[kPagePositions];
      std::memcpy(row, key_page + sizeof row * static_cast<size_t>(first + i), sizeof row);
      for (int slot = 0; slot < kPagePositions; ++slot) block[slot][i] = row[slot];
    }
    for (int slot = 0; slot < kPagePositions; ++slot) {
      std::memcpy(value_page + sizeof(Element) * static_cast<size_t>(slot * dim + first),
                  block[slot], sizeof(Element) * static_cast<size_t>(n));
    }
  }
}

}  // namespace

void StoreKey(DType dtype, const float* key, int head_dim, int slot, std::byte* page) {
  if (dtype != DType::kQ8_0) {
    for (int i = 0; i < head_dim; ++i)
      StoreElement(dtype, key[i], int64_t{i} * kPagePositions + slot, page);
    return;
  }
  const auto put = [&](int i, uint8_t q) {
    page[(i / 4 * kPagePositions + slot) * 4 + i % 4] = std::byte{q} ^ std::byte{128};
  };
  for (int b = 0; b < KvBlocks(head_dim); ++b) {
    const int first = b * kKvBlock, n = std::min(kKvBlock, head_dim - first);
    const float d = QuantizeBlock(key + first, n, [&](int i, uint8_t q) { put(first + i, q); });
    std::memcpy(page + KeyScales(head_dim) + 4 * (b * kPagePositions + slot), &d, 4);
  }
  for (int i = head_dim; i % 4 != 0; ++i) put(i, 0);
}

void StoreValue(DType dtype, const float* value, int head_dim, int slot, std::byte* page) {
  if (dtype != DType::kQ8_0) {
    for (int i = 0; i < head_dim; ++i)
      StoreElement(dtype, value[i], int64_t{slot} * head_dim + i, page);
    return;
  }
  std::byte* const to = page + static_cast<ptrdiff_t>(slot) / 2 * head_dim * 2 + slot % 2;
  for (int b = 0; b < KvBlocks(head_dim); ++b) {
    const int first = b * kKvBlock, n = std::min(kKvBlock, head_dim - first);
    const float d = QuantizeBlock(value + first, n,
                                  [&](int i, uint8_t q) { to[2 * (first + i)] = std::byte{q}; });
    std::memcpy(page + ValueScales(head_dim) + 4 * (b * kPagePositions + slot), &d, 4);
  }
}

void KeysToValues(DType dtype, const std::byte* key_page, int head_dim, int value_dim,
                  std::byte* value_page) {
  if (dtype == DType::kF32) return Turn<uint32_t>(key_page, value_dim, value_page);
  if (dtype != DType::kQ8_0) return Turn<uint16_t>(key_page, value_dim, value_page);
  for (int i = 0; i < value_dim; ++i) {
    const std::byte* from = key_page + i / 4 * kPagePositions * 4 + i % 4;
    std::byte* to = value_page + 2 * i;
    for (int slot = 0; slot < kPagePositions; ++slot)
      to[slot / 2 * value_dim * 2 + slot % 2] = from[4 * slot] ^ std::byte{128};
  }
  std::memcpy(value_page + ValueScales(value_dim), key_page + KeyScales(head_dim),
              sizeof(float) * kPagePositions * static_cast<size_t>(KvBlocks(value_dim)));
}

}  // namespace tutti::kernels
