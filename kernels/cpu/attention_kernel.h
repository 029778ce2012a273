// Attention over pages (docs/determinism.md, "Attention"): lanes are positions for scores and
// output elements for the weighted sum, so each reduction is one chain in ascending order. Included
// after float_kernels.h by a file compiled for one instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/float_kernels.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kChunkPages = 16;  // 256 absolute positions
constexpr int kPage = 16;
constexpr int kHeadTile = 4;  // query heads that share the loads of one pass

template <DType dtype>
TUTTI_INLINE V LoadKv(const std::byte* p, int64_t index) {
  if constexpr (dtype == DType::kF32) {
    return Load(reinterpret_cast<const float*>(p) + index);
  } else {
    return LoadHalf(p + 2 * index);
  }
}
template <DType dtype>
TUTTI_INLINE V LoadKvN(const std::byte* p, int64_t index, int n) {
  if constexpr (dtype == DType::kF32) {
    return LoadN(reinterpret_cast<const float*>(p) + index, n);
  } else {
    uint16_t part[16] = {};
    for (int i = 0; i < n; ++i) __builtin_memcpy(part + i, p + 2 * (index + i), 2);
    return LoadHalf(part);
  }
}

// Scores of H heads over P pages: score[h][16 p ...] = (q_h . k_t) * scale.
template <DType dtype, int H, int P>
TUTTI_INLINE void Scores(const AttentionArgs& a, const float* q, const std::byte* const* pages,
                         float* score) {
  V s[H][P];
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Zero(); }); });
  const std::byte* k[P];
  Unroll<P>([&](auto p) TUTTI_LAMBDA { k[p] = pages[p] + a.k_offset; });
  const int64_t dim = a.head_dim;
  for (int64_t i = 0; i < dim; ++i) {
    V qi[H];
    Unroll<H>([&](auto h) TUTTI_LAMBDA { qi[h] = Set(q[h * dim + i]); });
    Unroll<P>([&](auto p) TUTTI_LAMBDA {
      const V kv = LoadKv<dtype>(k[p], i * kPage);
      Unroll<H>([&](auto h) TUTTI_LAMBDA { s[h][p] = Fma(qi[h], kv, s[h][p]); });
    });
  }
  const V scale = Set(a.scale);
  Unroll<H>([&](auto h) TUTTI_LAMBDA {
    Unroll<P>([&](auto p) TUTTI_LAMBDA {
      Store(score + h * kChunkPages * kPage + p * kPage, Mul(s[h][p], scale));
    });
  });
}

// o_h[i ...] = sum over t of weight[h][t] * v[t][i ...] for H heads and D vectors of output
// elements, the last of them with `last` elements.
template <DType dtype, int H, int D, bool partial>
TUTTI_INLINE void Weigh(const AttentionArgs& a, const float* weight, const std::byte* const* pages,
                        int from, int to, int64_t i, int last, V (*o)[D]) {
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Zero(); }); });
  for (int t = from; t < to;) {
    const std::byte* v = pages[t / kPage] + a.v_offset;
    const int page_end = t / kPage * kPage + kPage < to ? t / kPage * kPage + kPage : to;
    for (; t < page_end; ++t) {
      const int64_t at = static_cast<int64_t>(t % kPage) * a.head_dim + i;
      V vt[D];
      Unroll<D>([&](auto d) TUTTI_LAMBDA {
        vt[d] = partial && d == D - 1 ? LoadKvN<dtype>(v, at + 16 * d, last)
                                      : LoadKv<dtype>(v, at + 16 * d);
      });
      Unroll<H>([&](auto h) TUTTI_LAMBDA {
        const V w = Set(weight[h * kChunkPages * kPage + t]);
        Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Fma(w, vt[d], o[h][d]); });
      });
    }
  }
}

// Merges the chunk's sums into the running output: O = fma(o_c, B, O * A).
template <DType dtype, int H, int D, bool partial>
TUTTI_INLINE void WeighAndMerge(const AttentionArgs& a, const float* weight,
                                const std::byte* const* pages, int from, int to, int64_t i,
                                int last, const float* keep, const float* take, float* out) {
  V o[H][D];
  Weigh<dtype, H, D, partial>(a, weight, pages, from, to, i, last, o);
  Unroll<H>([&](auto h) TUTTI_LAMBDA {
    const V take_h = Set(take[h]), keep_h = Set(keep[h]);
    Unroll<D>([&](auto d) TUTTI_LAMBDA {
      float* p = out + static_cast<int64_t>(h) * a.head_dim + i + 16 * d;
      if (partial && d == D - 1) {
        StoreN(p, Fma(o[h][d], take_h, Mul(LoadN(p, last), keep_h)), last);
      } else {
        Store(p, Fma(o[h][d], take_h, Mul(Load(p), keep_h)));
      }
    });
  });
}

template <DType dtype, int H>
void AttendHeads(const AttentionArgs& a, int first_head) {
  constexpr int kPagesAtOnce = H == 1 ? 4 : H == 2 ? 3 : H == 3 ? 2 : 1;
  constexpr int kVectorsAtOnce = H == 1 ? 4 : H <= 3 ? 2 : 1;
  constexpr int kChunk = kChunkPages * kPage;
  const int64_t dim = a.head_dim;
  const float* q = a.q + first_head * dim;
  float* out = a.out + first_head * dim;
  float running_max[H], running_sum[H], keep[H], take[H];
  for (int h = 0; h < H; ++h) {
    running_max[h] = -kInfinity;
    running_sum[h] = 0;
  }
  for (int64_t i = 0; i < H * dim; ++i) out[i] = 0;
  alignas(64) float weight[H * kChunk];

  for (int64_t chunk = a.begin / kChunk * kChunk; chunk < a.end; chunk += kChunk) {
    // Positions [from, to) of this chunk are visible; pages that hold none of them are not touched.
    const int from = chunk < a.begin ? static_cast<int>(a.begin - chunk) : 0;
    const int to = a.end - chunk < kChunk ? static_cast<int>(a.end - chunk) : kChunk;
    const int first_page = from / kPage, end_page = (to + kPage - 1) / kPage;
    const std::byte* const* pages = a.pages + chunk / kPage;
    int page = first_page;
    for (; page + kPagesAtOnce <= end_page; page += kPagesAtOnce) {
      Scores<dtype, H, kPagesAtOnce>(a, q, pages + page, weight + page * kPage);
    }
    for (; page < end_page; ++page) Scores<dtype, H, 1>(a, q, pages + page, weight + page * kPage);

    for (int h = 0; h < H; ++h) {
      float* w = weight + h * kChunk;
      V best = Set(-kInfinity);
      for (int p = first_page; p < end_page; ++p) {
        V s = Load(w + p * kPage);
        if (a.softcap != 0) {
          const V cap = Set(a.softcap);
          s = Mul(cap, VTanh(Div(s, cap)));
          Store(w + p * kPage, s);
        }
        best = Max(Select(LaneRange(from - p * kPage, to - p * kPage), s, best), best);
      }
      const float m = FoldMax(best);
      const V top = Set(m);
      V sum = Zero();
      for (int p = first_page; p < end_page; ++p) {
        const V e = Select(LaneRange(from - p * kPage, to - p * kPage),
                           VExp(Sub(Load(w + p * kPage), top)), Zero());
        Store(w + p * kPage, e);
        sum = Add(sum, e);
      }
      const float new_max = m > running_max[h] ? m : running_max[h];
      float factors[16] = {running_max[h] - new_max, m - new_max};
      Store(factors, VExp(Load(factors)));
      keep[h] = factors[0];
      take[h] = factors[1];
      running_sum[h] = __builtin_fmaf(Fold(sum), take[h], running_sum[h] * keep[h]);
      running_max[h] = new_max;
    }

    int64_t i = 0;
    for (; i + 16 * kVectorsAtOnce <= dim; i += 16 * kVectorsAtOnce) {
      WeighAndMerge<dtype, H, kVectorsAtOnce, false>(a, weight, pages, from, to, i, 0, keep, take,
                                                     out);
    }
    for (; i + 16 <= dim; i += 16) {
      WeighAndMerge<dtype, H, 1, false>(a, weight, pages, from, to, i, 0, keep, take, out);
    }
    if (i < dim) {
      WeighAndMerge<dtype, H, 1, true>(a, weight, pages, from, to, i, static_cast<int>(dim - i),
                                       keep, take, out);
    }
  }
  for (int h = 0; h < H; ++h) {
    float* o = out + h * dim;
    const V sum = Set(running_sum[h]);
    ForLanes(dim, [&](auto load, auto store) { store(o, Div(load(o), sum)); });
  }
}

template <DType dtype>
void AttendAll(const AttentionArgs& a) {
  int h = 0;
  // 3 + 3 rather than 4 + 2, and so on: equal tiles keep more chains in flight.
  while (h < a.num_q_heads) {
    const int left = a.num_q_heads - h;
    const int tile = left <= kHeadTile ? left : left % 3 == 0 ? 3 : left % 4 == 0 ? 4 : 3;
    switch (tile) {
      case 1:
        AttendHeads<dtype, 1>(a, h);
        break;
      case 2:
        AttendHeads<dtype, 2>(a, h);
        break;
      case 3:
        AttendHeads<dtype, 3>(a, h);
        break;
      default:
        AttendHeads<dtype, 4>(a, h);
        break;
    }
    h += tile;
  }
}

void Attention(const AttentionArgs& a) {
  if (a.kv_dtype == DType::kF32) {
    AttendAll<DType::kF32>(a);
  } else {
    AttendAll<DType::kF16>(a);
  }
}

}  // namespace
}  // namespace tutti::kernels::cpu
