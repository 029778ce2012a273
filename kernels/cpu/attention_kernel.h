// Attention over pages (docs/determinism.md, "Attention"): lanes are positions for scores and
// output elements for the weighted sum, so each reduction is one chain in ascending order. Included
// after float_kernels.h by a file compiled for one instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/float_kernels.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kChunkPages = 16;  // 256 absolute positions
constexpr int kPage = 16;

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

// One query head of one row, and what it sees.
struct Head {
  const float* q;
  float* out;
  int64_t begin, end;
};

// Scores of H heads over P pages: score[h][16 p ...] = (q_h . k_t) * scale.
template <DType dtype, int H, int P>
TUTTI_INLINE void Scores(const AttentionArgs& a, const Head (&heads)[H],
                         const std::byte* const* pages, float* score) {
  V s[H][P];
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Zero(); }); });
  const std::byte* k[P];
  Unroll<P>([&](auto p) TUTTI_LAMBDA { k[p] = pages[p] + a.k_offset; });
  const int64_t dim = a.head_dim;
  for (int64_t i = 0; i < dim; ++i) {
    V kv[P];
    Unroll<P>([&](auto p) TUTTI_LAMBDA { kv[p] = LoadKv<dtype>(k[p], i * kPage); });
    Unroll<H>([&](auto h) TUTTI_LAMBDA {
      const V qi = Set(heads[h].q[i]);
      Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Fma(qi, kv[p], s[h][p]); });
    });
  }
  const V scale = Set(a.scale);
  Unroll<H>([&](auto h) TUTTI_LAMBDA {
    Unroll<P>([&](auto p) TUTTI_LAMBDA {
      Store(score + h * kChunkPages * kPage + p * kPage, Mul(s[h][p], scale));
    });
  });
}

// What one chunk adds to the running result of a head.
struct Merge {
  int from, to;      // visible positions of the chunk
  float keep, take;  // O = fma(o_c, take, O * keep)
};

// o_h[i ...] = sum over t of weight[h][t] * v[t][i ...] for D vectors of output elements, the last
// of them with `last` elements, over positions [from, to), for heads First to Last - 1.
template <DType dtype, int H, int D, bool partial, int First, int Last>
TUTTI_INLINE void Weigh(const AttentionArgs& a, const float* weight, const std::byte* const* pages,
                        int from, int to, int64_t i, int last, V (&o)[H][D]) {
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
      Unroll<Last - First>([&](auto n) TUTTI_LAMBDA {
        constexpr int h = First + n;
        const V w = Set(weight[h * kChunkPages * kPage + t]);
        Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Fma(w, vt[d], o[h][d]); });
      });
    }
  }
}

// Heads of two rows see ranges that differ at the ends: the first half of them begins earlier, the
// second half ends later. What is common is done together.
template <DType dtype, int H, int D, bool partial, bool two_rows>
TUTTI_INLINE void WeighAndMerge(const AttentionArgs& a, const Head (&heads)[H],
                                const Merge (&merge)[H], const float* weight,
                                const std::byte* const* pages, int64_t i, int last) {
  V o[H][D];
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Zero(); }); });
  if constexpr (two_rows) {
    const int from0 = merge[0].from, to0 = merge[0].to;
    const int from1 = merge[H - 1].from, to1 = merge[H - 1].to;
    Weigh<dtype, H, D, partial, 0, H / 2>(a, weight, pages, from0, from1 < to0 ? from1 : to0, i,
                                          last, o);
    Weigh<dtype, H, D, partial, 0, H>(a, weight, pages, from1, to0, i, last, o);
    Weigh<dtype, H, D, partial, H / 2, H>(a, weight, pages, to0 > from1 ? to0 : from1, to1, i, last,
                                          o);
  } else {
    Weigh<dtype, H, D, partial, 0, H>(a, weight, pages, merge[0].from, merge[0].to, i, last, o);
  }
  Unroll<H>([&](auto h) TUTTI_LAMBDA {
    const V take = Set(merge[h].take), keep = Set(merge[h].keep);
    Unroll<D>([&](auto d) TUTTI_LAMBDA {
      float* p = heads[h].out + i + 16 * d;
      if (partial && d == D - 1) {
        StoreN(p, Fma(o[h][d], take, Mul(LoadN(p, last), keep)), last);
      } else {
        Store(p, Fma(o[h][d], take, Mul(Load(p), keep)));
      }
    });
  });
}

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
template <DType dtype, int H, bool two_rows>
void AttendHeads(const AttentionArgs& a, const Head (&heads)[H]) {
  constexpr int kPagesAtOnce = H == 1 ? 4 : H == 2 ? 3 : H == 3 ? 2 : 1;
  constexpr int kVectorsAtOnce = H == 1 ? 4 : H <= 3 ? 2 : 1;
  constexpr int kChunk = kChunkPages * kPage;
  const int64_t dim = a.head_dim;
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
      Scores<dtype, H, kPagesAtOnce>(a, heads, pages + page, weight + page * kPage);
    }
    for (; page < end_page; ++page)
      Scores<dtype, H, 1>(a, heads, pages + page, weight + page * kPage);

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

    int64_t i = 0;
    for (; i + 16 * kVectorsAtOnce <= dim; i += 16 * kVectorsAtOnce) {
      WeighAndMerge<dtype, H, kVectorsAtOnce, false, two_rows>(a, heads, merge, weight, pages, i,
                                                               0);
    }
    for (; i + 16 <= dim; i += 16) {
      WeighAndMerge<dtype, H, 1, false, two_rows>(a, heads, merge, weight, pages, i, 0);
    }
    if (i < dim) {
      WeighAndMerge<dtype, H, 1, true, two_rows>(a, heads, merge, weight, pages, i,
                                                 static_cast<int>(dim - i));
    }
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
template <DType dtype, int count, bool two_rows>
void AttendTile(const AttentionArgs& a, int row, int first) {
  constexpr int kHeads = two_rows ? 2 * count : count;
  Head heads[kHeads];
  for (int h = 0; h < kHeads; ++h) heads[h] = HeadOf(a, row + h / count, first + h % count);
  AttendHeads<dtype, kHeads, two_rows>(a, heads);
}

// Two rows can go together when they see the same chunks.
bool SameChunks(const Head& x, const Head& y) {
  constexpr int64_t kChunk = kChunkPages * kPage;
  return x.begin / kChunk == y.begin / kChunk && (x.end - 1) / kChunk == (y.end - 1) / kChunk;
}

template <DType dtype>
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
          AttendTile<dtype, 1, false>(a, row, h);
          break;
        case 2:
          AttendTile<dtype, 2, false>(a, row, h);
          break;
        case 3:
          AttendTile<dtype, 3, false>(a, row, h);
          break;
        case 5:
          AttendTile<dtype, 1, true>(a, row, h);
          break;
        case 6:
          AttendTile<dtype, 2, true>(a, row, h);
          break;
        default:
          AttendTile<dtype, 3, true>(a, row, h);
          break;
      }
      h += tile;
    }
    row += two ? 2 : 1;
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
