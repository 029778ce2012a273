// Attention over a cache of F32 or F16: every product-sum is a chain of fma.
// Included after a vector layer (see cpu.h).
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace tutti::kernels::cpu {
namespace {

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

// Scores of H heads over P pages: score[h][16 p ...] = (q_h . k_t) * scale. Meanwhile `soon` is
// asked for.
template <DType dtype, int H, int P>
TUTTI_INLINE void FloatScores(const AttentionArgs& a, const Head (&heads)[H],
                              const std::byte* const* pages, const Soon<P>& soon, float* score) {
  V s[H][P];
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Zero(); }); });
  const std::byte* k[P];
  Unroll<P>([&](auto p) TUTTI_LAMBDA { k[p] = pages[p] + a.k_offset; });
  const int64_t dim = a.head_dim;
  const auto add = [&](int64_t i) TUTTI_LAMBDA {
    V kv[P];
    Unroll<P>([&](auto p) TUTTI_LAMBDA { kv[p] = LoadKv<dtype>(k[p], i * kPage); });
    Unroll<H>([&](auto h) TUTTI_LAMBDA {
      const V qi = Set(heads[h].q[i]);
      Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Fma(qi, kv[p], s[h][p]); });
    });
  };
  constexpr int kDims = dtype == DType::kF32 ? 1 : 2;  // whose keys, or values, are a line
  int64_t i = 0;
  for (; i + kDims <= dim; i += kDims) {
    soon.Prefetch(i / kDims * 64);
    Unroll<kDims>([&](auto n) TUTTI_LAMBDA { add(i + n); });
  }
  for (; i < dim; ++i) add(i);
  const V scale = Set(a.scale);
  Unroll<H>([&](auto h) TUTTI_LAMBDA {
    Unroll<P>([&](auto p)
                  TUTTI_LAMBDA { Store(score + h * kChunk + p * kPage, Mul(s[h][p], scale)); });
  });
}

// o_h[i ...] = sum over t of weight[h][t] * v[t][i ...] for D vectors of output elements, the last
// of them with `last` elements, over positions [from, to), for heads First to Last - 1.
template <DType dtype, int H, int D, bool partial, int First, int Last>
TUTTI_INLINE void Weigh(const AttentionArgs& a, const float* weight, const std::byte* const* pages,
                        int from, int to, int64_t i, int last, V (&o)[H][D]) {
  constexpr int64_t kBytes = dtype == DType::kF32 ? 4 : 2;
  const int64_t dim = ValueDim(a);
  for (int t = from; t < to;) {
    const int slot = t % kPage, page_end = t - slot + kPage < to ? t - slot + kPage : to;
    const std::byte* v = pages[t / kPage] + a.v_offset + (slot * dim + i) * kBytes;
    for (; t < page_end; ++t, v += dim * kBytes) {
      V vt[D];
      Unroll<D>([&](auto d) TUTTI_LAMBDA {
        vt[d] = partial && d == D - 1 ? LoadKvN<dtype>(v, 16 * d, last) : LoadKv<dtype>(v, 16 * d);
      });
      Unroll<Last - First>([&](auto n) TUTTI_LAMBDA {
        constexpr int h = First + n;
        const V w = Set(weight[h * kChunk + t]);
        Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Fma(w, vt[d], o[h][d]); });
      });
    }
  }
}

// Heads of several rows see ranges that differ at the ends: earlier rows begin earlier, later ones
// end later. What is common is done together.
template <DType dtype, int H, int D, bool partial, int R>
TUTTI_INLINE void FloatWeighAndMerge(const AttentionArgs& a, const Head (&heads)[H],
                                     const Merge (&merge)[H], const float* weight,
                                     const std::byte* const* pages, int64_t i, int last) {
  constexpr int kInRow = H / R;
  V o[H][D];
  Unroll<H>([&](auto h)
                TUTTI_LAMBDA { Unroll<D>([&](auto d) TUTTI_LAMBDA { o[h][d] = Zero(); }); });
  const int begin = merge[H - 1].from, end = merge[0].to;  // of what is common
  if constexpr (R > 1) {
    Unroll<R - 1>([&](auto r) TUTTI_LAMBDA {
      const Merge& m = merge[r * kInRow];
      Weigh<dtype, H, D, partial, r * kInRow, (r + 1) * kInRow>(
          a, weight, pages, m.from, begin < m.to ? begin : m.to, i, last, o);
    });
  }
  Weigh<dtype, H, D, partial, 0, H>(a, weight, pages, begin, end, i, last, o);
  if constexpr (R > 1) {
    Unroll<R - 1>([&](auto before) TUTTI_LAMBDA {
      constexpr int r = before + 1;
      Weigh<dtype, H, D, partial, r * kInRow, (r + 1) * kInRow>(
          a, weight, pages, end > begin ? end : begin, merge[r * kInRow].to, i, last, o);
    });
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

// A cache of floats (F32 or F16).
template <DType dtype, int H, int R>
struct FloatCache {
  // Four rows together read and widen a key once where two read it twice.
  static constexpr int kMostRows = kManyRegisters ? 4 : 2;
  // So many chains as hide the latency of an fma on two ports, and the loads of the queries.
  static constexpr int kPagesAtOnce = !kManyRegisters ? FewChains(H) : H <= 2 ? 8 : H <= 6 ? 4 : 2;
  static constexpr int kVectorsAtOnce = !kManyRegisters ? FewChains(H) : H <= 6 ? 4 : 2;

  TUTTI_INLINE FloatCache(const AttentionArgs&, const Head (&)[H]) {}

  template <int P>
  TUTTI_INLINE void Scores(const AttentionArgs& a, const Head (&heads)[H],
                           const std::byte* const* pages, const Soon<P>& soon, float* score) {
    FloatScores<dtype, H, P>(a, heads, pages, soon, score);
  }

  TUTTI_INLINE void WeighAndMerge(const AttentionArgs& a, const Head (&heads)[H],
                                  const Merge (&merge)[H], const float* weight,
                                  const std::byte* const* pages) {
    const int64_t dim = ValueDim(a);
    int64_t i = 0;
    for (; i + 16 * kVectorsAtOnce <= dim; i += 16 * kVectorsAtOnce) {
      FloatWeighAndMerge<dtype, H, kVectorsAtOnce, false, R>(a, heads, merge, weight, pages, i, 0);
    }
    for (; i + 16 <= dim; i += 16) {
      FloatWeighAndMerge<dtype, H, 1, false, R>(a, heads, merge, weight, pages, i, 0);
    }
    if (i < dim) {
      FloatWeighAndMerge<dtype, H, 1, true, R>(a, heads, merge, weight, pages, i,
                                               static_cast<int>(dim - i));
    }
  }
};

template <int H, int R>
using F32Cache = FloatCache<DType::kF32, H, R>;
template <int H, int R>
using F16Cache = FloatCache<DType::kF16, H, R>;

}  // namespace
}  // namespace tutti::kernels::cpu
