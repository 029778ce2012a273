// Quantised matmul over many columns in the tile registers of AMX: 16 columns of x times a group of
// 16 rows, 32 k at a time. The tiles give the integer sums of Q2, exact by any route; the float
// chain of Q3 and Q4 runs in AVX-512, lane = row, as everywhere.
//
// The chunks of a packed block are what a tile of B holds (row = 4 k, column = output row), so
// unpacking a block is all that is needed. Every format becomes signed bytes: the offset of Q4_0,
// Q5_0 and Q6_K is taken off while unpacking. While the sums of one tile of columns go through the
// float chain, the tile unit computes those of the next.
// Included after vec_avx512.h by a file compiled with AMX (see cpu.h).
#pragma once

#include "kernels/cpu/matmul_source.h"

namespace tutti::kernels::cpu {
namespace {

constexpr int kTileColumns = 16;
constexpr int kAmxColumns = 128;  // of one pass
constexpr int kAmxGroups = 8;
constexpr int kAhead = 3;  // blocks whose integer sums wait for the float chain

// A segment of a group as the tiles and the float chain read it. The integer factors of Q6_K are
// held as floats: their products with the sums stay below 2^24, so they are exact (as an fma with
// +0, so that a product of 0 is +0, as the integer is).
template <DType D>
struct AmxScratch {
  using F = Format<D>;
  alignas(64) int8_t chunks[kSegmentBlocks][8][64];
  alignas(64) float scale[kSegmentBlocks][16];
  alignas(64) float min[F::kMin ? kSegmentBlocks : 1][16];
  alignas(64) float sub_scale[F::kSixBits ? kSegmentBlocks : 1][2][16];
};

// `next`: the block that is unpacked first after these; it and its neighbours are asked for.
template <DType D>
void FillAmxScratch(const std::byte* group, int64_t first_block, int num_blocks,
                    const PackedSource<D>& next, AmxScratch<D>* s) {
  using F = Format<D>;
  for (int b = 0; b < num_blocks; ++b) {
    const PackedSource<D> from(group, first_block + b);
    next.Prefetch(b * F::kLayout.part_bytes);
    Unroll<4>([&](auto c) TUTTI_LAMBDA {
      I even, odd;
      from.template Pair<c>(&even, &odd);
      if constexpr (F::kOffset != 0) {
        const I offset = SetBytes(static_cast<int8_t>(F::kOffset));
        even = SubBytes(even, offset);
        odd = SubBytes(odd, offset);
      }
      StoreI(s->chunks[b][2 * c], even);
      StoreI(s->chunks[b][2 * c + 1], odd);
    });
    Store(s->scale[b], from.Scale());
    if constexpr (F::kMin) Store(s->min[b], from.Min());
    if constexpr (F::kSixBits) {
      const uint8_t* scales = from.part + F::kLayout.scales_offset;
      Store(s->sub_scale[b][0], ToFloat(WidenS8(scales)));
      Store(s->sub_scale[b][1], ToFloat(WidenS8(scales + 16)));
    }
  }
}

// Tiles: 0 sums, 1 columns of x, 2 weights; 3 and 4 are 0 and 1 for the last columns, fewer than
// 16. A pass of Q6_K covers 16 k (a sub-block), else 32.
template <DType D>
constexpr int kPassBytes = Format<D>::kSixBits ? 16 : 32;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

template <DType D>
void ConfigureTiles(int last_columns) {
  TileConfig config;
  const auto set = [&](int tile, int rows, int bytes) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = static_cast<uint16_t>(bytes);
  };
  set(0, kTileColumns, 64), set(1, kTileColumns, kPassBytes<D>), set(2, kPassBytes<D> / 4, 64);
  if (last_columns > 0) set(3, last_columns, 64), set(4, last_columns, kPassBytes<D>);
  // gcc 12 takes the instruction to read only the first 8 bytes.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

// The integer sums of one block: one or, with sub-blocks, two sets for each of 16 columns.
template <DType D>
struct BlockTile {
  alignas(64) int32_t sums[32 / kPassBytes<D>][kTileColumns][16];
};

// q: the block of the first column; the next is `stride` bytes on. The compiler knows no memory
// that tile instructions read, so what they read must have been written before a barrier.
template <DType D>
TUTTI_INLINE void MultiplyTile(const int8_t* q, int64_t stride, bool full,
                               const int8_t (&chunks)[8][64], BlockTile<D>* out) {
  constexpr int kPasses = 32 / kPassBytes<D>;
  Unroll<kPasses>([&](auto pass) TUTTI_LAMBDA {
    _tile_loadd(2, chunks[pass * 8 / kPasses], 64);
    const int8_t* from = q + pass * kPassBytes<D>;
    if (full) {
      _tile_zero(0);
      _tile_loadd(1, from, stride);
      _tile_dpbssd(0, 1, 2);
      _tile_stored(0, out->sums[pass], 64);
    } else {
      _tile_zero(3);
      _tile_loadd(4, from, stride);
      _tile_dpbssd(3, 4, 2);
      _tile_stored(3, out->sums[pass], 64);
    }
  });
}

// p[t] gains block b (Q3). d, m: of the tile's columns at this block (BlockScale).
template <DType D, int T>
TUTTI_INLINE void AddTile(const AmxScratch<D>& w, int b, const BlockTile<D>& tile, const float* d,
                          const float* m, V (&p)[T]) {
  using F = Format<D>;
  const V scale = Load(w.scale[b]);
  V sub[2], min;
  if constexpr (F::kSixBits) {
    sub[0] = Load(w.sub_scale[b][0]);
    sub[1] = Load(w.sub_scale[b][1]);
  }
  if constexpr (F::kMin) min = Load(w.min[b]);
  Unroll<T>([&](auto t) TUTTI_LAMBDA {
    V sum = ToFloat(LoadI(tile.sums[0][t]));
    if constexpr (F::kSixBits) {
      sum = Fma(sum, sub[0], Zero());
      sum = Fma(ToFloat(LoadI(tile.sums[1][t])), sub[1], sum);
    }
    p[t] = Fma(Mul(scale, Set(d[t])), sum, p[t]);
    if constexpr (F::kMin) p[t] = Fma(min, Set(m[t]), p[t]);
  });
}

// BlockScale::d and m of the columns of a pass at one segment: [tile of columns][block][column].
struct ColumnScales {
  alignas(64) float d[kAmxColumns / kTileColumns][kSegmentBlocks][kTileColumns];
  alignas(64) float m[kAmxColumns / kTileColumns][kSegmentBlocks][kTileColumns];
};

// Columns that a last tile lacks get zeros: what lies in their sums must meet no number that the
// processor would need long for.
void FillColumnScales(const QuantizedRows& x, int64_t first_column, int columns,
                      int64_t first_block, int num_blocks, ColumnScales* to) {
  const int64_t blocks = x.cols / 32;
  for (int t = 0; t < columns; ++t) {
    const int64_t at = (first_column + t) * blocks + first_block;
    for (int b = 0; b < num_blocks; ++b) {
      to->d[t / kTileColumns][b][t % kTileColumns] = x.scales[at + b].d;
      to->m[t / kTileColumns][b][t % kTileColumns] = x.scales[at + b].m;
    }
  }
  for (int t = columns; t % kTileColumns != 0; ++t) {
    for (int b = 0; b < num_blocks; ++b) {
      to->d[t / kTileColumns][b][t % kTileColumns] = 0;
      to->m[t / kTileColumns][b][t % kTileColumns] = 0;
    }
  }
}

// Calls body with a constant of at least `columns` (all that is 16 or more is 16).
template <typename Body>
TUTTI_INLINE void WithWidth(int columns, const Body& body) {
  if (columns > 12) return body(Constant<kTileColumns>());
  if (columns > 8) return body(Constant<12>());
  if (columns > 4) return body(Constant<8>());
  return body(Constant<4>());
}

// Columns [first, first + count) times groups [group_begin, group_end): few enough of both that y
// and all that is read again stay in the L2 cache.
template <DType D>
void AmxPass(const MatrixView& w, const QuantizedRows& x, int64_t first, int count,
             int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
  const int64_t blocks = w.cols / 32;
  const int num_tiles = (count + kTileColumns - 1) / kTileColumns;
  ColumnScales columns;
  AmxScratch<D> scratch;
  BlockTile<D> ring[kAhead + 1];
  for (int64_t begin = 0; begin < blocks; begin += kSegmentBlocks) {
    const int num =
        static_cast<int>(blocks - begin < kSegmentBlocks ? blocks - begin : kSegmentBlocks);
    FillColumnScales(x, first, count, begin, num, &columns);
    for (int64_t g = group_begin; g < group_end; ++g) {
      const auto group = [&](int64_t i) { return w.data + static_cast<size_t>(i) * w.group_bytes; };
      const PackedSource<D> next = g + 1 < group_end
                                       ? PackedSource<D>(group(g + 1), begin)
                                       : PackedSource<D>(group(group_begin), begin + num);
      FillAmxScratch<D>(group(g), begin, num, next, &scratch);
      asm volatile("" ::: "memory");
      const int valid = static_cast<int>(w.rows - g * 16 < 16 ? w.rows - g * 16 : 16);
      // The tile unit is kAhead blocks before the float chain.
      int tile_ahead = 0, block_ahead = 0, slot_ahead = 0, slot = 0;
      const int8_t* q = x.q + first * x.cols + 32 * begin;
      const auto multiply = [&]() TUTTI_LAMBDA {
        if (tile_ahead == num_tiles) return;
        MultiplyTile<D>(q + 32 * block_ahead, x.cols, (tile_ahead + 1) * kTileColumns <= count,
                        scratch.chunks[block_ahead], &ring[slot_ahead]);
        slot_ahead = slot_ahead == kAhead ? 0 : slot_ahead + 1;
        if (++block_ahead == num) {
          block_ahead = 0;
          ++tile_ahead;
          q += kTileColumns * x.cols;
        }
      };
      for (int i = 0; i < kAhead; ++i) multiply();
      for (int tile = 0; tile < num_tiles; ++tile) {
        const int here = count - tile * kTileColumns;
        float* const to = y + (first + tile * kTileColumns) * y_stride + g * 16;
        // The float chain takes most of the time: a tile that is not full has a narrower one.
        WithWidth(here, [&](auto width) TUTTI_LAMBDA {
          constexpr int T = width;
          V p[T];
          Unroll<T>([&](auto t) TUTTI_LAMBDA { p[t] = Zero(); });
          for (int b = 0; b < num; ++b) {
            multiply();
            AddTile<D, T>(scratch, b, ring[slot], columns.d[tile][b], columns.m[tile][b], p);
            slot = slot == kAhead ? 0 : slot + 1;
          }
          Unroll<T>([&](auto t) TUTTI_LAMBDA {
            if (t >= here) return;
            float* const row = to + t * y_stride;
            StoreRows(row, begin == 0 ? p[t] : Add(LoadRows(row, valid), p[t]), valid);
          });
        });
      }
    }
  }
}

template <DType D>
void AmxMatmulOf(const MatrixView& w, const QuantizedRows& x, int64_t group_begin,
                 int64_t group_end, float* y, int64_t y_stride) {
  ConfigureTiles<D>(static_cast<int>(x.num_rows % kTileColumns));
  for (int64_t first = 0; first < x.num_rows; first += kAmxColumns) {
    const int count =
        static_cast<int>(x.num_rows - first < kAmxColumns ? x.num_rows - first : kAmxColumns);
    for (int64_t g = group_begin; g < group_end; g += kAmxGroups) {
      AmxPass<D>(w, x, first, count, g, g + kAmxGroups < group_end ? g + kAmxGroups : group_end, y,
                 y_stride);
    }
  }
  _tile_release();
}

void AmxMatmul(const MatrixView& w, const QuantizedRows& x, int64_t group_begin, int64_t group_end,
               float* y, int64_t y_stride) {
  switch (w.dtype) {
    case DType::kQ8_0:
      return AmxMatmulOf<DType::kQ8_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_0:
      return AmxMatmulOf<DType::kQ4_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_1:
      return AmxMatmulOf<DType::kQ4_1>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_0:
      return AmxMatmulOf<DType::kQ5_0>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_1:
      return AmxMatmulOf<DType::kQ5_1>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ4_K:
      return AmxMatmulOf<DType::kQ4_K>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ5_K:
      return AmxMatmulOf<DType::kQ5_K>(w, x, group_begin, group_end, y, y_stride);
    case DType::kQ6_K:
      return AmxMatmulOf<DType::kQ6_K>(w, x, group_begin, group_end, y, y_stride);
    default:
      return;
  }
}

}  // namespace
}  // namespace tutti::kernels::cpu
