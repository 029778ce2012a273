// Attention over pages (docs/determinism.md, "Attention"): lanes are positions for scores and
// output elements for the weighted sum, so each reduction is one chain in ascending order. Included
// after float_kernels.h by a file compiled for one instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/attention_float.h"
#include "kernels/cpu/attention_int8.h"

namespace tutti::kernels::cpu {
namespace {

// Scores of a chunk in `w` become weights exp(s - m); returns their sum and sets m.
TUTTI_INLINE float Soften(const AttentionArgs& a, float* w, int from, int to, float* m) {
  V best = Set(-kInfinity);
  const int first_page = from / kPage, end_page = (to + kPage - 1) / kPage;
  for (int p = first_page; p < end_page; ++p) {
    V s = Load(w + p * kPage);
    if (a.softcap != 0) {
      const V cap = Set(a.softcap);
      s = Mul(cap, VTanh(Div(s, cap)));
      Store(w + p * kPage, s);
    }
    best = Max(Select(LaneRange(from - p * kPage, to - p * kPage), s, best), best);
  }
  *m = FoldMax(best);
  const V top = Set(*m);
  V sum = Zero();
  for (int p = first_page; p < end_page; ++p) {
    const V e = Select(LaneRange(from - p * kPage, to - p * kPage),
                       VExp(Sub(Load(w + p * kPage), top)), Zero());
    Store(w + p * kPage, e);
    sum = Add(sum, e);
  }
  return Fold(sum);
}

// H heads over the same chunks. two_rows: the first half belongs to a row, the second to the next
// one.
template <typename Cache, int H>
void AttendHeads(const AttentionArgs& a, const Head (&heads)[H]) {
  constexpr int kPagesAtOnce = Cache::kPagesAtOnce;
  const int64_t dim = a.head_dim;
  Cache cache(a, heads);
  float running_max[H], running_sum[H];
  for (int h = 0; h < H; ++h) {
    running_max[h] = -kInfinity;
    running_sum[h] = 0;
    for (int64_t i = 0; i < dim; ++i) heads[h].out[i] = 0;
  }
  alignas(64) float weight[H * kChunk];

  for (int64_t chunk = heads[0].begin / kChunk * kChunk; chunk < heads[0].end; chunk += kChunk) {
    Merge merge[H];
    for (int h = 0; h < H; ++h) {
      merge[h].from = chunk < heads[h].begin ? static_cast<int>(heads[h].begin - chunk) : 0;
      merge[h].to = heads[h].end - chunk < kChunk ? static_cast<int>(heads[h].end - chunk) : kChunk;
    }
    // Pages that nobody sees are not touched.
    const int end_page = (merge[H - 1].to + kPage - 1) / kPage;
    const std::byte* const* pages = a.pages + chunk / kPage;
    int page = merge[0].from / kPage;
    for (; page + kPagesAtOnce <= end_page; page += kPagesAtOnce) {
      cache.template Scores<kPagesAtOnce>(a, heads, pages + page, weight + page * kPage);
    }
    for (; page < end_page; ++page)
      cache.template Scores<1>(a, heads, pages + page, weight + page * kPage);

    for (int h = 0; h < H; ++h) {
      float m;
      const float sum = Soften(a, weight + h * kChunk, merge[h].from, merge[h].to, &m);
      const float new_max = m > running_max[h] ? m : running_max[h];
      float factors[16] = {running_max[h] - new_max, m - new_max};
      Store(factors, VExp(Load(factors)));
      merge[h].keep = factors[0];
      merge[h].take = factors[1];
      running_sum[h] = __builtin_fmaf(sum, merge[h].take, running_sum[h] * merge[h].keep);
      running_max[h] = new_max;
    }
    cache.WeighAndMerge(a, heads, merge, weight, pages);
  }
  for (int h = 0; h < H; ++h) {
    float* o = heads[h].out;
    const V sum = Set(running_sum[h]);
    ForLanes(dim, [&](auto load, auto store) { store(o, Div(load(o), sum)); });
  }
}

Head HeadOf(const AttentionArgs& a, int row, int head) {
  const int64_t offset = row * a.row_stride + static_cast<int64_t>(head) * a.head_dim;
  const int64_t end = a.end + row;
  const int64_t begin = a.window > 0 && end - a.window > a.begin ? end - a.window : a.begin;
  return {a.q + offset, a.out + offset, begin, end};
}

// `count` heads from `first` on of one row, or of two rows.
template <template <int, bool> class Cache, int count, bool two_rows>
void AttendTile(const AttentionArgs& a, int row, int first) {
  constexpr int kHeads = two_rows ? 2 * count : count;
  Head heads[kHeads];
  for (int h = 0; h < kHeads; ++h) heads[h] = HeadOf(a, row + h / count, first + h % count);
  AttendHeads<Cache<kHeads, two_rows>>(a, heads);
}

// Two rows can go together when they see the same chunks.
bool SameChunks(const Head& x, const Head& y) {
  return x.begin / kChunk == y.begin / kChunk && (x.end - 1) / kChunk == (y.end - 1) / kChunk;
}

template <template <int, bool> class Cache>
void AttendAll(const AttentionArgs& a) {
  for (int row = 0; row < a.num_rows;) {
    const bool two = row + 1 < a.num_rows && SameChunks(HeadOf(a, row, 0), HeadOf(a, row + 1, 0));
    for (int h = 0; h < a.num_q_heads;) {
      const int left = a.num_q_heads - h;
      // Tiles of 3, and the rest as evenly as it goes (4 = 2 + 2): equal tiles keep more chains in
      // flight.
      const int tile = left % 3 == 0 ? 3 : left == 4 || left < 3 ? (left < 2 ? left : 2) : 3;
      switch (two ? 4 + tile : tile) {
        case 1:
          AttendTile<Cache, 1, false>(a, row, h);
          break;
        case 2:
          AttendTile<Cache, 2, false>(a, row, h);
          break;
        case 3:
          AttendTile<Cache, 3, false>(a, row, h);
          break;
        case 5:
          AttendTile<Cache, 1, true>(a, row, h);
          break;
        case 6:
          AttendTile<Cache, 2, true>(a, row, h);
          break;
        default:
          AttendTile<Cache, 3, true>(a, row, h);
          break;
      }
      h += tile;
    }
    row += two ? 2 : 1;
  }
}

void Attention(const AttentionArgs& a) {
  switch (a.kv_dtype) {
    case DType::kF32:
      return AttendAll<F32Cache>(a);
    case DType::kQ8_0:
      return AttendAll<Int8Cache>(a);
    default:
      return AttendAll<F16Cache>(a);
  }
}

}  // namespace
}  // namespace tutti::kernels::cpu
