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

uint64_t LoadWord(const std::byte* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}
void StoreWord(uint64_t word, std::byte* p) { std::memcpy(p, &word, sizeof word); }

// Swaps the bits `mask << shift` of a with the bits `mask` of b.
void SwapBits(uint64_t* a, uint64_t* b, int shift, uint64_t mask) {
  const uint64_t differ = ((*a >> shift) ^ *b) & mask;
  *b ^= differ;
  *a ^= differ << shift;
}

// [dim][16 positions] to [16 positions][dim], from dimension `first` on.
template <typename Element>
void Turn(const std::byte* keys, int first, int dim, std::byte* values) {
  for (int i = first; i < dim; ++i) {
    for (int slot = 0; slot < kPagePositions; ++slot) {
      std::memcpy(values + sizeof(Element) * static_cast<size_t>(slot * dim + i),
                  keys + sizeof(Element) * static_cast<size_t>(i * kPagePositions + slot),
                  sizeof(Element));
    }
  }
}

// The same for elements of 16 bits: squares of 4 x 4, of which a word holds a row; line by line of
// the values, so that each is written once.
void TurnHalves(const std::byte* keys, int dim, std::byte* values) {
  constexpr int kLine = 32;
  const int whole = dim / 4 * 4;
  const ptrdiff_t row = 2 * static_cast<ptrdiff_t>(dim);
  for (int line = 0; line < whole; line += kLine) {
    const int end = std::min(line + kLine, whole);
    for (int slot = 0; slot < kPagePositions; slot += 4) {
      for (int i = line; i < end; i += 4) {
        const std::byte* const from = keys + 2 * (i * kPagePositions + slot);
        std::byte* const to = values + 2 * (static_cast<ptrdiff_t>(slot) * dim + i);
        uint64_t a = LoadWord(from), b = LoadWord(from + 2 * kPagePositions),
                 c = LoadWord(from + 4 * kPagePositions), d = LoadWord(from + 6 * kPagePositions);
        SwapBits(&a, &c, 32, 0xFFFFFFFF);
        SwapBits(&b, &d, 32, 0xFFFFFFFF);
        SwapBits(&a, &b, 16, 0x0000FFFF0000FFFF);
        SwapBits(&c, &d, 16, 0x0000FFFF0000FFFF);
        StoreWord(a, to);
        StoreWord(b, to + row);
        StoreWord(c, to + 2 * row);
        StoreWord(d, to + 3 * row);
      }
    }
  }
  Turn<uint16_t>(keys, whole, dim, values);
}

// Q8_0, dim a multiple of 4: a word holds 4 dimensions of each of two positions, which become 4
// pairs; the offset of 128 goes.
void TurnBytes(const std::byte* keys, int dim, std::byte* values) {
  for (int i = 0; i < dim; i += 4) {
    for (int slot = 0; slot < kPagePositions; slot += 2) {
      uint64_t w = LoadWord(keys + i * kPagePositions + slot * 4) ^ 0x8080808080808080;
      uint64_t differ = (w ^ (w >> 16)) & 0x00000000FFFF0000;
      w ^= differ ^ (differ << 16);
      differ = (w ^ (w >> 8)) & 0x0000FF000000FF00;
      w ^= differ ^ (differ << 8);
      StoreWord(w, values + static_cast<ptrdiff_t>(slot) * dim + 2 * i);
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
  if (dtype == DType::kF32) return Turn<uint32_t>(key_page, 0, value_dim, value_page);
  if (dtype != DType::kQ8_0) return TurnHalves(key_page, value_dim, value_page);
  TurnBytes(key_page, value_dim, value_page);
  std::memcpy(value_page + ValueScales(value_dim), key_page + KeyScales(head_dim),
              sizeof(float) * kPagePositions * static_cast<size_t>(KvBlocks(value_dim)));
}

}  // namespace tutti::kernels
