// Matmul over groups of 16 rows: lane = row. The integer part is exact by any route; the float
// chain is Q3 and Q4 of docs/determinism.md in every lane.
//
// Two routes: a few columns (decode, verifying a draft) unpack the weights in registers, straight
// from the packed matrix; many columns (prefill) unpack a segment of 256 k once into scratch that
// stays in the L1 cache and run tiles of 4 columns over it. Included after a vector layer (vec_*.h)
// by a file compiled for that instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/matmul_source.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kMaxFused = 4 * kFusedTile;  // columns up to which weights are unpacked in registers
constexpr int kTile = 4;                   // columns of a tile over unpacked weights
constexpr int64_t kL2Bytes =
    192 << 10;  // of activations that one pass over a range of groups keeps at hand

// A segment with everything unpacked.
struct Scratch {
  alignas(64) uint8_t chunks[kSegmentBlocks][8][64];
  alignas(64) float scale[kSegmentBlocks][16];
  alignas(64) float min[kSegmentBlocks][16];
  alignas(64) int32_t sub_scale[kSegmentBlocks][2][16];  // Factors of six bits
};

template <DType D>
struct ScratchSource {
  using F = Format<D>;
  const Scratch& s;
  int b;
  template <int c>
  TUTTI_INLINE void Pair(I* even, I* odd) const {
    *even = LoadI(s.chunks[b][2 * c]);
    *odd = LoadI(s.chunks[b][2 * c + 1]);
  }
  TUTTI_INLINE V Scale() const { return Load(s.scale[b]); }
  TUTTI_INLINE V Min() const { return Load(s.min[b]); }
  template <int half>
  TUTTI_INLINE Factor SubScale() const {
    return LoadI(s.sub_scale[b][half]);
  }
};

template <DType D>
void FillScratch(const std::byte* group, int64_t first_block, int num_blocks, Scratch* s) {
  using F = Format<D>;
  for (int b = 0; b < num_blocks; ++b) {
    const PackedSource<D> from(group, first_block + b);
    I even, odd;
    from.template Pair<0>(&even, &odd);
    StoreI(s->chunks[b][0], even), StoreI(s->chunks[b][1], odd);
    from.template Pair<1>(&even, &odd);
    StoreI(s->chunks[b][2], even), StoreI(s->chunks[b][3], odd);
    from.template Pair<2>(&even, &odd);
    StoreI(s->chunks[b][4], even), StoreI(s->chunks[b][5], odd);
    from.template Pair<3>(&even, &odd);
    StoreI(s->chunks[b][6], even), StoreI(s->chunks[b][7], odd);
    Store(s->scale[b], from.Scale());
    if constexpr (F::kMin) Store(s->min[b], from.Min());
    if constexpr (F::kSixBits) {
      StoreI(s->sub_scale[b][0], from.template SubScale<0>());
      StoreI(s->sub_scale[b][1], from.template SubScale<1>());
    }
  }
}

// The integer sums (Q2) of one block for T columns. State: the running chains and sums. Chunks take
// turns at kWays chains of a column, so that few columns do not wait for each product. Where
// weights are kept too large by an offset, 32-bit chains begin with what that will add, taken off.
template <DType D, int T>
struct BlockSums {
  using F = Format<D>;
  static constexpr bool kStartsCorrected = F::kOffset != 0 && MaxChain(255) >= 8;
  const BlockScale* x;  // of the first column; the next is `stride` on
  int64_t stride;
  static constexpr int kWays = F::kSignedBytes || F::kSixBits ? 1 : ChainWays(T);
  Chain chain[T][kWays];
  I sum[T];

  template <int chunk, typename Source>
  TUTTI_INLINE void Chunk(const Source& source, I w, const int8_t* const (&q)[T]) {
    constexpr int kIn = chunk % F::kChain;
    [[maybe_unused]] constexpr int kWay = kIn % kWays;
    Unroll<T>([&](auto t) TUTTI_LAMBDA {
      const Q4 xq = LoadQ4(q[t] + 4 * chunk);
      if constexpr (F::kSignedBytes) {
        sum[t] = MacSigned(chunk == 0 ? ZeroI() : sum[t], w, xq);
      } else if constexpr (F::kSixBits) {
        chain[t][0] = MacSmallSigned(kIn == 0 ? ZeroChain() : chain[t][0], w, xq);
      } else if constexpr (kStartsCorrected && chunk == 0) {
        chain[t][0] = Mac(TimesConstant<-F::kOffset>(&x[t * stride].s), w, xq);
      } else {
        chain[t][kWay] = kIn < kWays ? FirstMac(w, xq) : Mac(chain[t][kWay], w, xq);
      }
    });
    if constexpr (!F::kSignedBytes && kIn == F::kChain - 1) {
      Factor factor;
      if constexpr (F::kSixBits) factor = source.template SubScale<chunk / 4>();
      Unroll<T>([&](auto t) TUTTI_LAMBDA {
        I part;
        Chain all = chain[t][0];
        if constexpr (kWays == 2) all = AddI(all, chain[t][1]);
        if constexpr (F::kSixBits) {
          part = Reduce(all, factor);
        } else {
          part = ReduceOne(all);
        }
        sum[t] = chunk == F::kChain - 1 ? part : AddI(sum[t], part);
      });
    }
  }
  template <int c, typename Source>
  TUTTI_INLINE void Pair(const Source& source, const int8_t* const (&q)[T]) {
    I even, odd;
    source.template Pair<c>(&even, &odd);
    Chunk<2 * c>(source, even, q);
    Chunk<2 * c + 1>(source, odd, q);
  }
};

// p[t] gains block `source` times the columns' block. x: of the first column; the next is `stride`
// blocks on.
template <DType D, int T, typename Source>
TUTTI_INLINE void AddBlock(const Source& source, const int8_t* const (&q)[T], const BlockScale* x,
                           int64_t stride, V (&p)[T]) {
  using F = Format<D>;
  BlockSums<D, T> sums{x, stride};
  sums.template Pair<0>(source, q);
  sums.template Pair<1>(source, q);
  sums.template Pair<2>(source, q);
  sums.template Pair<3>(source, q);
  const V scale = source.Scale();
  Unroll<T>([&](auto t) TUTTI_LAMBDA {
    I sum = sums.sum[t];
    if constexpr (F::kOffset != 0 && !BlockSums<D, T>::kStartsCorrected)
      sum = SubI(sum, SetI(F::kOffset * x[t * stride].s));
    p[t] = Fma(Mul(scale, Set(x[t * stride].d)), ToFloat(sum), p[t]);
  });
  if constexpr (F::kMin) {
    const V min = source.Min();
    Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Fma(min, Set(x[t * stride].m), p[t]); });
  }
}

// T columns from `column` on, weights unpacked on the way.
template <DType D, int T>
void FusedTile(const MatrixView& w, const QuantizedRows& x, int64_t column, int64_t group_begin,
               int64_t group_end, float* y, int64_t y_stride) {
  const int64_t blocks = w.cols / 32;
  const BlockScale* scales = x.scales + column * blocks;
  y += column * y_stride;
  for (int64_t g = group_begin; g < group_end; ++g) {
    const std::byte* group = w.data + static_cast<size_t>(g) * w.group_bytes;
    const int8_t* q[T];
    Unroll<T>([&](auto t) TUTTI_LAMBDA { q[t] = x.q + (column + t) * x.cols; });
    V total[T];
    Unroll<T>([&](auto t) TUTTI_LAMBDA { total[t] = Zero(); });
    for (int64_t begin = 0; begin < blocks; begin += kSegmentBlocks) {
      const int64_t end = begin + kSegmentBlocks < blocks ? begin + kSegmentBlocks : blocks;
      V p[T];
      Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Zero(); });
      for (int64_t b = begin; b < end; ++b) {
        const PackedSource<D> source(group, b);
        source.PrefetchAhead();
        AddBlock<D, T>(source, q, scales + b, blocks, p);
        Unroll<T>([&](auto t) TUTTI_LAMBDA { q[t] += 32; });
      }
      Unroll<T>([&](auto t) TUTTI_LAMBDA { total[t] = begin == 0 ? p[t] : Add(total[t], p[t]); });
    }
    const int valid = static_cast<int>(w.rows - g * 16 < 16 ? w.rows - g * 16 : 16);
    Unroll<T>([&](auto t) TUTTI_LAMBDA { StoreRows(y + t * y_stride + g * 16, total[t], valid); });
  }
}

template <DType D, int T>
void ScratchTile(const Scratch& scratch, const QuantizedRows& x, int64_t column,
                 int64_t first_block, int num_blocks, float* y, int64_t y_stride, int valid) {
  const int64_t blocks = x.cols / 32;
  const BlockScale* scales = x.scales + column * blocks + first_block;
  const int8_t* q[T];
  Unroll<T>([&](auto t) TUTTI_LAMBDA { q[t] = x.q + (column + t) * x.cols + 32 * first_block; });
  V p[T];
  Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Zero(); });
  for (int b = 0; b < num_blocks; ++b) {
    AddBlock<D, T>(ScratchSource<D>{scratch, b}, q, scales + b, blocks, p);
    Unroll<T>([&](auto t) TUTTI_LAMBDA { q[t] += 32; });
  }
  Unroll<T>([&](auto t) TUTTI_LAMBDA {
    float* to = y + (column + t) * y_stride;
    if (first_block != 0) p[t] = Add(LoadRows(to, valid), p[t]);
    StoreRows(to, p[t], valid);
  });
}

template <DType D>
void ManyColumns(const MatrixView& w, const QuantizedRows& x, int64_t group_begin,
                 int64_t group_end, float* y, int64_t y_stride) {
  const int64_t blocks = w.cols / 32;
  int64_t at_once = kL2Bytes / w.cols / kTile * kTile;
  if (at_once < 4 * kTile) at_once = 4 * kTile;
  Scratch scratch;
  for (int64_t first = 0; first < x.num_rows; first += at_once) {
    const int64_t last = first + at_once < x.num_rows ? first + at_once : x.num_rows;
    for (int64_t g = group_begin; g < group_end; ++g) {
      const std::byte* group = w.data + static_cast<size_t>(g) * w.group_bytes;
      const int valid = static_cast<int>(w.rows - g * 16 < 16 ? w.rows - g * 16 : 16);
      float* to = y + g * 16;
      for (int64_t begin = 0; begin < blocks; begin += kSegmentBlocks) {
        const int num =
            static_cast<int>(blocks - begin < kSegmentBlocks ? blocks - begin : kSegmentBlocks);
        FillScratch<D>(group, begin, num, &scratch);
        int64_t t = first;
        for (; t + kTile <= last; t += kTile)
          ScratchTile<D, kTile>(scratch, x, t, begin, num, to, y_stride, valid);
        for (; t < last; ++t) ScratchTile<D, 1>(scratch, x, t, begin, num, to, y_stride, valid);
      }
    }
  }
}

// FusedTile of `width` columns, 1 to kFusedTile.
template <DType D, int T = kFusedTile>
void FusedTileOf(int width, const MatrixView& w, const QuantizedRows& x, int64_t column,
                 int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
  if (width == T) return FusedTile<D, T>(w, x, column, group_begin, group_end, y, y_stride);
  if constexpr (T > 1)
    FusedTileOf<D, T - 1>(width, w, x, column, group_begin, group_end, y, y_stride);
}

template <DType D>
void MatmulOf(const MatrixView& w, const QuantizedRows& x, int64_t group_begin, int64_t group_end,
              float* y, int64_t y_stride) {
  if (x.num_rows > kMaxFused) return ManyColumns<D>(w, x, group_begin, group_end, y, y_stride);
  // Group by group, so that a second tile finds the weights in the cache.
  const int64_t columns = x.num_rows, tiles = (columns + kFusedTile - 1) / kFusedTile;
  for (int64_t g = group_begin; g < group_end;) {
    const int64_t end = tiles == 1 ? group_end : g + 1;
    // Tiles of nearly the same width: 9 columns are 5 + 4, not 8 + 1.
    for (int64_t t = 0, left = tiles; left > 0; --left) {
      const int64_t width = (columns - t + left - 1) / left;
      FusedTileOf<D>(static_cast<int>(width), w, x, t, g, end, y, y_stride);
      t += width;
    }
    g = end;
  }
}

void MatmulQuantized(const MatrixView& w, const QuantizedRows& x, int64_t group_begin,
                     int64_t group_end, float* y, int64_t y_stride) {
  switch (w.dtype) {
    case DType::kQ8_0:
      return MatmulOf<DType::kQ8_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_0:
      return MatmulOf<DType::kQ4_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_1:
      return MatmulOf<DType::kQ4_1>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_0:
      return MatmulOf<DType::kQ5_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_1:
      return MatmulOf<DType::kQ5_1>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_K:
      return MatmulOf<DType::kQ4_K>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_K:
      return MatmulOf<DType::kQ5_K>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ6_K:
      return MatmulOf<DType::kQ6_K>(w, x, group_begin, group_end, y, y_stride);
    default:
      return;
  }
}

// ---- F32, F16, BF16 weights, f32 activations ----

template <DType D>
TUTTI_INLINE V LoadWeights(const std::byte* p) {
  if constexpr (D == DType::kF32) return Load(reinterpret_cast<const float*>(p));
  if constexpr (D == DType::kF16) return LoadHalf(p);
  return LoadBFloat(p);
}

constexpr int kFloatPrefetchBytes = 4096;  // two prefetches of half a line each are no help here

template <DType D, int T>
void FloatTile(const MatrixView& w, const float* x, int64_t x_stride, int64_t g, float* y,
               int64_t y_stride) {
  constexpr int kStep = D == DType::kF32 ? 64 : 32;
  const std::byte* from = w.data + static_cast<size_t>(g) * w.group_bytes;
  V total[T];
  Unroll<T>([&](auto t) TUTTI_LAMBDA { total[t] = Zero(); });
  for (int64_t begin = 0; begin < w.cols; begin += 32 * kSegmentBlocks) {
    const int64_t end = begin + 32 * kSegmentBlocks < w.cols ? begin + 32 * kSegmentBlocks : w.cols;
    V p[T];
    Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Zero(); });
    for (int64_t k = begin; k < end; ++k, from += kStep) {
      const V wk = LoadWeights<D>(from);
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kFloatPrefetchBytes, 0, 3);
      Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Fma(wk, Set(x[t * x_stride + k]), p[t]); });
    }
    Unroll<T>([&](auto t) TUTTI_LAMBDA { total[t] = begin == 0 ? p[t] : Add(total[t], p[t]); });
  }
  const int valid = static_cast<int>(w.rows - g * 16 < 16 ? w.rows - g * 16 : 16);
  Unroll<T>([&](auto t) TUTTI_LAMBDA { StoreRows(y + t * y_stride + g * 16, total[t], valid); });
}

template <DType D>
void FloatMatmulOf(const MatrixView& w, const float* x, int64_t num_x, int64_t x_stride,
                   int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
  int64_t at_once = kL2Bytes / (4 * w.cols) / 6 * 6;
  if (at_once < 12) at_once = 12;
  for (int64_t first = 0; first < num_x; first += at_once) {
    const int64_t last = first + at_once < num_x ? first + at_once : num_x;
    for (int64_t g = group_begin; g < group_end; ++g) {
      int64_t t = first;
      for (; t + 6 <= last; t += 6)
        FloatTile<D, 6>(w, x + t * x_stride, x_stride, g, y + t * y_stride, y_stride);
      if (t + 4 <= last) {
        FloatTile<D, 4>(w, x + t * x_stride, x_stride, g, y + t * y_stride, y_stride);
        t += 4;
      }
      if (t + 2 <= last) {
        FloatTile<D, 2>(w, x + t * x_stride, x_stride, g, y + t * y_stride, y_stride);
        t += 2;
      }
      if (t < last) FloatTile<D, 1>(w, x + t * x_stride, x_stride, g, y + t * y_stride, y_stride);
    }
  }
}

void MatmulFloat(const MatrixView& w, const float* x, int64_t num_x, int64_t x_stride,
                 int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
  switch (w.dtype) {
    case DType::kF32:
      return FloatMatmulOf<DType::kF32>(w, x, num_x, x_stride, group_begin, group_end, y, y_stride);
    case DType::kF16:
      return FloatMatmulOf<DType::kF16>(w, x, num_x, x_stride, group_begin, group_end, y, y_stride);
    case DType::kBF16:
      return FloatMatmulOf<DType::kBF16>(w, x, num_x, x_stride, group_begin, group_end, y,
                                         y_stride);
    default:
      return;
  }
}

void Fill(KernelTable* table, MatmulEntries* matmul) {
  table->quantize_rows = QuantizeRows;
  table->rms_norm = RmsNorm;
  table->rms_norm_quantize = RmsNormQuantize;
  table->layer_norm = LayerNorm;
  table->add = AddRows;
  table->scale = ScaleRow;
  table->axpy = AxpyRow;
  table->softcap = Softcap;
  table->activate = Activate;
  table->gated = Gated;
  table->rope = Rope;
  table->attention = Attention;
  table->merge_chunks = MergeChunks;
  table->log_sum_exp = LogSumExp;
  table->exp = Exp;
  table->log = Log;
  table->argmax = Argmax;
  table->gumbel = Gumbel;
  table->all_finite = AllFinite;
  matmul->quantized = MatmulQuantized;
  matmul->floating = MatmulFloat;
}

}  // namespace
}  // namespace tutti::kernels::cpu
