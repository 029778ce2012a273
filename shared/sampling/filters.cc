#include "shared/sampling/filters.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/kernels.h"

namespace tutti::sampling {

namespace {

// Probabilities relative to the largest one, as integers in units of 2^-40.
uint64_t ToFixed(float w) { return static_cast<uint64_t>(w * 0x1p40f); }

// The smallest integer sum that reaches the share `p` of `total`.
uint64_t Share(float p, uint64_t total) {
  return static_cast<uint64_t>(std::ceil(static_cast<double>(p) * static_cast<double>(total)));
}

// Bits of a float in the order of its value (no NaN).
uint32_t OrderedBits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// The k-th largest of x. REQUIRES: 1 <= k < x.size().
float KthLargest(std::span<const float> x, size_t k, std::vector<float>* small) {
  if (k > 256) {  // count by leading bits, then select inside the one bucket that matters
    constexpr int kShift = 20;
    std::array<uint32_t, 1 << (32 - kShift)> counts{};
    for (float v : x) ++counts[OrderedBits(v) >> kShift];
    size_t bucket = counts.size() - 1, above = 0;
    while (above + counts[bucket] < k) above += counts[bucket--];
    small->clear();
    for (float v : x) {
      if (OrderedBits(v) >> kShift == bucket) small->push_back(v);
    }
    const auto nth = small->begin() + static_cast<ptrdiff_t>(k - above - 1);
    std::nth_element(small->begin(), nth, small->end(), std::greater<>());
    return *nth;
  }
  // A min-heap of the k best: once it is warm, almost every element fails the one comparison.
  small->assign(x.begin(), x.begin() + static_cast<ptrdiff_t>(k));
  std::make_heap(small->begin(), small->end(), std::greater<>());
  for (size_t i = k; i < x.size(); ++i) {
    if (x[i] <= small->front()) continue;
    std::pop_heap(small->begin(), small->end(), std::greater<>());
    small->back() = x[i];
    std::push_heap(small->begin(), small->end(), std::greater<>());
  }
  return small->front();
}

// The working set: ids, x and w (relative probabilities) of the tokens that are left.
struct Set {
  Scratch* s;
  bool all = true;  // ids are 0, 1, 2, ...

  size_t size() const { return s->x.size(); }
  int32_t id(size_t i) const { return all ? static_cast<int32_t>(i) : s->ids[i]; }

  // Keeps the elements for which keep(i) holds, in order.
  template <typename Keep>
  void Retain(Keep keep) {
    const bool weights = s->w.size() == s->x.size();
    if (all) s->ids.resize(size());
    size_t n = 0;
    for (size_t i = 0; i < size(); ++i) {
      if (!keep(i)) continue;
      s->ids[n] = id(i);
      s->x[n] = s->x[i];
      if (weights) s->w[n] = s->w[i];
      ++n;
    }
    s->ids.resize(n);
    s->x.resize(n);
    if (weights) s->w.resize(n);
    all = false;
  }
};

// w: exp(x - max), in [0, 1].
void Weigh(Set* set, float max) {
  Scratch* s = set->s;
  s->w.resize(s->x.size());
  for (size_t i = 0; i < s->x.size(); ++i) s->w[i] = s->x[i] - max;
  kernels::Kernels().exp(s->w.data(), static_cast<int64_t>(s->w.size()), s->w.data());
}

// Finds the bucket of equal leading bits of w in which the sum crosses, then sorts that bucket
// alone.
void TopP(float top_p, Set* set) {
  constexpr int kShift = 18;  // sign, exponent and 5 bits of the fraction
  const uint32_t lowest = std::bit_cast<uint32_t>(0x1p-40f) >> kShift;
  constexpr size_t kBuckets = 41 * 32 + 1;
  std::array<uint64_t, kBuckets> sums{};
  const std::vector<float>& w = set->s->w;
  const auto bucket_of = [&](float value) {
    return (std::bit_cast<uint32_t>(value) >> kShift) - lowest;
  };
  uint64_t total = 0;
  for (float value : w) {
    if (value < 0x1p-40f) continue;  // nothing in fixed point, and never needed to reach a share
    const uint64_t fixed = ToFixed(value);
    sums[bucket_of(value)] += fixed;
    total += fixed;
  }
  const uint64_t share = Share(top_p, total);
  uint64_t above = 0;
  size_t bucket = kBuckets - 1;
  while (bucket > 0 && above + sums[bucket] < share) above += sums[bucket--];

  // Only this bucket and those above can stay.
  const float edge = std::bit_cast<float>((static_cast<uint32_t>(bucket) + lowest) << kShift);
  set->Retain([&](size_t i) { return w[i] >= edge; });
  std::vector<int32_t>& order = set->s->order;
  order.clear();
  for (size_t i = 0; i < w.size(); ++i) {
    if (bucket_of(w[i]) == bucket) order.push_back(static_cast<int32_t>(i));
  }
  // By (w descending, id ascending); ids ascend with the index.
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return w[static_cast<size_t>(a)] > w[static_cast<size_t>(b)];
  });
  size_t taken = 0;
  for (uint64_t sum = above; taken < order.size() && sum < share; ++taken) {
    sum += ToFixed(w[static_cast<size_t>(order[taken])]);
  }
  // The rest of the bucket goes.
  order.erase(order.begin(), order.begin() + static_cast<ptrdiff_t>(taken));
  std::sort(order.begin(), order.end());
  size_t next = 0;
  set->Retain([&](size_t i) {
    if (next == order.size() || order[next] != static_cast<int32_t>(i)) return true;
    ++next;
    return false;
  });
}

// Keeps the tokens whose surprise is nearest to the entropy, until their mass reaches typical_p. In
// f64, sums in ascending id.
void TypicalP(float typical_p, float max, Set* set) {
  Scratch* s = set->s;
  double total = 0;
  for (float w : s->w) total += static_cast<double>(w);
  const double log_total = kernels::DetLog(total);
  const auto log_p = [&](size_t i) { return static_cast<double>(s->x[i] - max) - log_total; };
  double entropy = 0;
  uint64_t fixed_total = 0;
  for (size_t i = 0; i < s->w.size(); ++i) {
    if (s->w[i] > 0) entropy -= static_cast<double>(s->w[i]) / total * log_p(i);
    fixed_total += ToFixed(s->w[i]);
  }
  struct Item {
    double distance;
    uint64_t mass;
  };
  std::vector<Item> items(s->w.size());
  std::vector<double> distance(s->w.size());
  for (size_t i = 0; i < items.size(); ++i) {
    distance[i] = std::fabs(-log_p(i) - entropy);
    items[i] = {distance[i], ToFixed(s->w[i])};
  }
  // The smallest distance within which the mass reaches the share, by halving.
  uint64_t left = Share(typical_p, fixed_total);
  size_t begin = 0, end = items.size();
  while (end - begin > 1) {
    const size_t mid = begin + (end - begin) / 2;
    const auto at = [&](size_t i) { return items.begin() + static_cast<ptrdiff_t>(i); };
    std::nth_element(at(begin), at(mid), at(end),
                     [](const Item& a, const Item& b) { return a.distance < b.distance; });
    uint64_t mass = 0;
    for (size_t i = begin; i < mid; ++i) mass += items[i].mass;
    if (mass >= left) {
      end = mid;
    } else {
      left -= mass;
      begin = mid;
    }
  }
  const double border = items[begin].distance;
  set->Retain([&](size_t i) { return distance[i] <= border; });
}

}  // namespace

bool FilterScores(const SamplingParams& params, std::span<const float> scores, Scratch* scratch,
                  Survivors* out) {
  const kernels::KernelTable& k = kernels::Kernels();
  Set set{scratch};
  scratch->ids.clear();
  scratch->w.clear();
  scratch->x.resize(scores.size());
  const float temperature = params.temperature;
  for (size_t i = 0; i < scores.size(); ++i) scratch->x[i] = scores[i] / temperature;

  const float max = scratch->x[static_cast<size_t>(
      k.argmax(scratch->x.data(), static_cast<int64_t>(scores.size())))];
  if (!std::isfinite(max)) return false;

  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < set.size()) {
    const float border = KthLargest(scratch->x, static_cast<size_t>(params.top_k), &scratch->small);
    set.Retain([&](size_t i) { return scratch->x[i] >= border; });
  }
  if (params.top_p < 1.0f || params.min_p > 0.0f || params.typical_p < 1.0f) {
    Weigh(&set, max);
    if (params.top_p < 1.0f) TopP(params.top_p, &set);
    if (params.min_p > 0.0f) {
      set.Retain([&](size_t i) { return scratch->w[i] >= params.min_p; });  // the largest w is 1
    }
    if (params.typical_p < 1.0f) TypicalP(params.typical_p, max, &set);
  }
  *out = {.ids = scratch->ids, .x = scratch->x, .max = max};
  return true;
}

std::vector<int32_t> TopIndices(std::span<const float> x, size_t k) {
  const auto better = [&](int32_t a, int32_t b) {
    const float xa = x[static_cast<size_t>(a)], xb = x[static_cast<size_t>(b)];
    return xa > xb || (xa == xb && a < b);
  };
  std::vector<int32_t> heap;  // the worst of the best in front
  if (k == 0) return heap;
  float border = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < x.size(); ++i) {
    if (!(x[i] > border)) continue;  // an equal one has a higher index, so it loses
    if (heap.size() == k) {
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.pop_back();
    }
    heap.push_back(static_cast<int32_t>(i));
    std::push_heap(heap.begin(), heap.end(), better);
    if (heap.size() == k) border = x[static_cast<size_t>(heap.front())];
  }
  std::sort(heap.begin(), heap.end(), better);
  return heap;
}

}  // namespace tutti::sampling
