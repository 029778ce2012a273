// Attention over a cache of int8 blocks (docs/determinism.md, A8; kernels/kv_page.h has the
// layout): scores and weighted sums are integer products, with one fma per block of 32 dimensions
// and one per chunk. Included after a vector layer (see cpu.h).
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace tutti::kernels::cpu {
namespace {

template <int H, int>
class Int8Cache {
 public:
  static constexpr int kMostRows = 2;
  static constexpr int kPagesAtOnce = !kManyRegisters ? FewChains(H) : H <= 3 ? 4 : 2;

  // The queries by Q1, filled up to a whole block with zeros.
  TUTTI_INLINE Int8Cache(const AttentionArgs& a, const Head (&heads)[H])
      : dim_(a.head_dim),
        blocks_((a.head_dim + kBlock - 1) / kBlock),
        value_dim_(ValueDim(a)),
        value_blocks_((value_dim_ + kBlock - 1) / kBlock) {
    const int whole = dim_ / kBlock;
    for (int h = 0; h < H; ++h) {
      QuantizeRows(heads[h].q, 1, whole * kBlock, q_[h], scales_[h]);
      if (whole == blocks_) continue;
      float rest[kBlock] = {};
      for (int i = whole * kBlock; i < dim_; ++i) rest[i - whole * kBlock] = heads[h].q[i];
      QuantizeRows(rest, 1, kBlock, q_[h] + whole * kBlock, scales_[h] + whole);
    }
  }

  template <int P>
  TUTTI_INLINE void Scores(const AttentionArgs& a, const Head (&)[H], const std::byte* const* pages,
                           const Soon<P>& soon, float* score) {
    const std::byte* k[P];
    Unroll<P>([&](auto p) TUTTI_LAMBDA { k[p] = pages[p] + a.k_offset; });
    const std::byte* scales[P];
    Unroll<P>([&](auto p) TUTTI_LAMBDA { scales[p] = k[p] + (dim_ + 3) / 4 * kGroupBytes; });
    V s[H][P];
    Unroll<H>([&](auto h)
                  TUTTI_LAMBDA { Unroll<P>([&](auto p) TUTTI_LAMBDA { s[h][p] = Zero(); }); });
    for (int b = 0; b < blocks_; ++b) {
      I acc[H][P];
      Unroll<H>([&](auto h) TUTTI_LAMBDA {
        const I start = StartOffset(scales_[h][b].s);
        Unroll<P>([&](auto p) TUTTI_LAMBDA { acc[h][p] = start; });
      });
      const int left = dim_ - b * kBlock;
      const int groups = left < kBlock ? (left + 3) / 4 : kBlock / 4;
      for (int g = b * (kBlock / 4); g < b * (kBlock / 4) + groups; ++g) {
        soon.Prefetch(g * kGroupBytes);
        I kg[P];
        Unroll<P>([&](auto p) TUTTI_LAMBDA { kg[p] = LoadOffset(k[p] + g * kGroupBytes); });
        Unroll<H>([&](auto h) TUTTI_LAMBDA {
          const Q4 q = LoadQ4(q_[h] + 4 * g);
          Unroll<P>([&](auto p) TUTTI_LAMBDA { acc[h][p] = MacOffset(acc[h][p], kg[p], q); });
        });
      }
      V dk[P];
      Unroll<P>([&](auto p) TUTTI_LAMBDA {
        dk[p] = Load(reinterpret_cast<const float*>(scales[p]) + b * kPage);
      });
      Unroll<H>([&](auto h) TUTTI_LAMBDA {
        const V dq = Set(scales_[h][b].d);
        Unroll<P>([&](auto p)
                      TUTTI_LAMBDA { s[h][p] = Fma(Mul(dq, dk[p]), ToFloat(acc[h][p]), s[h][p]); });
      });
    }
    const V scale = Set(a.scale);
    Unroll<H>([&](auto h) TUTTI_LAMBDA {
      Unroll<P>([&](auto p)
                    TUTTI_LAMBDA { Store(score + h * kChunk + p * kPage, Mul(s[h][p], scale)); });
    });
  }

  TUTTI_INLINE void WeighAndMerge(const AttentionArgs& a, const Head (&heads)[H],
                                  const Merge (&merge)[H], const float* weight,
                                  const std::byte* const* pages) {
    const int first = merge[0].from / kPage, end = (merge[H - 1].to + kPage - 1) / kPage;
    for (int b = 0; b < value_blocks_; ++b) {
      alignas(64) int16_t rounded[H][kChunk];
      float scale[H];
      for (int h = 0; h < H; ++h)
        scale[h] = RoundWeights(a, merge[h], weight + h * kChunk, pages, first, end, b, rounded[h]);
      const int i = b * kBlock, left = value_dim_ - i;
      if (left >= kBlock) {
        Weigh<2, false>(a, heads, merge, rounded, scale, pages, first, end, i, 0);
        continue;
      }
      if (left >= 16) Weigh<1, false>(a, heads, merge, rounded, scale, pages, first, end, i, 0);
      if (left % 16 != 0) {
        Weigh<1, true>(a, heads, merge, rounded, scale, pages, first, end, i + left / 16 * 16,
                       left % 16);
      }
    }
  }

 private:
  static constexpr int kBlock = 32;              // dimensions that share a scale
  static constexpr int kGroupBytes = 4 * kPage;  // 4 dimensions of K
  static constexpr int kDimMax = 1024;

  // Weights of a chunk times the scales of their positions in block b, rounded to 15 bits; 0 where
  // the head sees nothing. Returns what a unit is worth.
  TUTTI_INLINE float RoundWeights(const AttentionArgs& a, const Merge& merge, const float* weight,
                                  const std::byte* const* pages, int first, int end, int b,
                                  int16_t* rounded) const {
    alignas(64) float scaled[kChunk];
    const size_t scales = a.v_offset + static_cast<size_t>(value_dim_ * kPage + b * kPage * 4);
    I most = ZeroI();
    for (int p = first; p < end; ++p) {
      const V d = Load(reinterpret_cast<const float*>(pages[p] + scales));
      // Positions that are not there yet have any scale, NaN too.
      const V w = Select(LaneRange(merge.from - p * kPage, merge.to - p * kPage),
                         Mul(Load(weight + p * kPage), d), Zero());
      Store(scaled + p * kPage, w);
      most = MaxI(most, And(Bits(w), SetI(0x7FFFFFFF)));
    }
    const float m = __builtin_bit_cast(float, FoldMaxI(most));
    const V inverse = Set(m > 0.0f ? 32767.0f / m : 0.0f);
    for (int p = first; p < end; ++p) {
      StoreLowHalves(rounded + p * kPage,
                     Bits(Add(Mul(Load(scaled + p * kPage), inverse), Set(kRound))));
    }
    return m / 32767.0f;
  }

  // D vectors of output elements from i on, the last of them with `last` elements: integer sums
  // over the pages [first, end), exact in 32 bits (256 * 32767 * 127 < 2^31).
  template <int D, bool partial>
  TUTTI_INLINE void Weigh(const AttentionArgs& a, const Head (&heads)[H], const Merge (&merge)[H],
                          const int16_t (&rounded)[H][kChunk], const float (&scale)[H],
                          const std::byte* const* pages, int first, int end, int i,
                          int last) const {
    I acc[H][D];
    Unroll<H>([&](auto h)
                  TUTTI_LAMBDA { Unroll<D>([&](auto d) TUTTI_LAMBDA { acc[h][d] = ZeroI(); }); });
    const int pair_bytes = 2 * value_dim_;
    for (int p = first; p < end; ++p) {
      // A partial vector of the last pair reads into the scales, which follow.
      const std::byte* v = pages[p] + a.v_offset + 2 * i;
      const int16_t* w = &rounded[0][p * kPage];
      for (int pair = 0; pair < kPage / 2; ++pair, v += pair_bytes, w += 2) {
        I x[D];
        Unroll<D>([&](auto d) TUTTI_LAMBDA { x[d] = WidenPairs(v + 32 * d); });
        Unroll<H>([&](auto h) TUTTI_LAMBDA {
          int32_t both;
          __builtin_memcpy(&both, w + h * kChunk, 4);
          const I wp = SetI(both);
          Unroll<D>([&](auto d) TUTTI_LAMBDA { acc[h][d] = MacPairs(acc[h][d], x[d], wp); });
        });
      }
    }
    Unroll<H>([&](auto h) TUTTI_LAMBDA {
      const V unit = Set(scale[h]), take = Set(merge[h].take), keep = Set(merge[h].keep);
      Unroll<D>([&](auto d) TUTTI_LAMBDA {
        const V chunk = Mul(unit, ToFloat(acc[h][d]));
        float* o = heads[h].out + i + 16 * d;
        if (partial && d == D - 1) {
          StoreN(o, Fma(chunk, take, Mul(LoadN(o, last), keep)), last);
        } else {
          Store(o, Fma(chunk, take, Mul(Load(o), keep)));
        }
      });
    });
  }

  const int dim_, blocks_, value_dim_, value_blocks_;
  alignas(64) int8_t q_[H][kDimMax];
  BlockScale scales_[H][kDimMax / kBlock];
};

}  // namespace
}  // namespace tutti::kernels::cpu
