#include "shared/moe/drops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "shared/base/philox.h"

namespace tutti::moe {
namespace {

// Keeps these draws apart from those of sampling::kTokenStream, 0, which have the same key.
constexpr uint32_t kRouteStream = 1;

}  // namespace

size_t RecordBytes(const GatingOptions& o) {
  return o.capacity_factor > 0 ? static_cast<size_t>(o.top_k) * kWindowPositions * sizeof(int16_t)
                               : 0;
}

int ExpertCapacity(const GatingOptions& o) {
  if (!(o.capacity_factor > 0)) return 0;
  const double even = static_cast<double>(o.top_k) * kWindowPositions / o.num_experts;
  return std::max(1, static_cast<int>(std::ceil(o.capacity_factor * even)));
}

bool AsksSecond(uint64_t seed, int32_t pos, int moe_layer, float weight) {
  const auto block = Philox4x32(
      seed, {static_cast<uint32_t>(moe_layer), static_cast<uint32_t>(pos), kRouteStream, 0});
  return UnitUniform(block[0]) < 2.0f * weight;
}

void DropPairs(const GatingOptions& o, int moe_layer, const RowPlace& place,
               std::span<const int32_t> ids, std::span<const float> weights,
               std::span<uint8_t> kept) {
  const size_t k = ids.size();
  const bool numbers = !std::isnan(weights[0]);
  std::vector<size_t> order(k);
  for (size_t i = 0; i < k; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  std::fill(kept.begin(), kept.end(), uint8_t{1});
  if (o.random_second && numbers)
    kept[order[1]] = AsksSecond(place.seed, place.pos, moe_layer, weights[order[1]]) ? 1 : 0;
  const int capacity = ExpertCapacity(o);
  if (capacity == 0) return;

  std::byte* window = place.records + static_cast<size_t>(moe_layer) * RecordBytes(o);
  const auto row = static_cast<size_t>(place.pos % kWindowPositions);
  std::vector<int16_t> asked((row + 1) * k, int16_t{-1});
  std::memcpy(asked.data(), window, row * k * sizeof(int16_t));
  for (size_t i = 0; i < k; ++i) {
    if (kept[i] == 0) continue;
    const auto earlier = asked.begin() + static_cast<ptrdiff_t>(row * k);
    if (numbers && std::count(asked.begin(), earlier, static_cast<int16_t>(ids[i])) >= capacity)
      kept[i] = 0;
    asked[row * k + i] = static_cast<int16_t>(ids[i]);
  }
  std::memcpy(window + row * k * sizeof(int16_t), asked.data() + row * k, k * sizeof(int16_t));
}

}  // namespace tutti::moe
