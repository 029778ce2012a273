// Attention over pages (docs/determinism.md, "Attention"): lanes are positions for scores and
// output elements for the weighted sum, so each reduction is one chain in ascending order. Included
// after float_kernels.h by a file compiled for one instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/attention_float.h"
#include "kernels/cpu/attention_int8.h"

namespace tutti::kernels::cpu {
namespace {

// Calls body(page, lanes) for the pages of positions [from, to): lanes(yes, no) is `yes` where the
// lane is one of them and `no` elsewhere, which costs nothing in pages that are whole.
template <typename Body>
TUTTI_INLINE void ForPages(int from, int to, const Body& body) {
  int p = from / kPage;
  const auto part = [&] {
    const M seen = LaneRange(from - p * kPage, to - p * kPage);
    body(p, [seen](V yes, V no) { return Select(seen, yes, no); });
    ++p;
  };
  if (from % kPage != 0) part();
  for (; (p + 1) * kPage <= to; ++p) body(p, [](V yes, V) { return yes; });
  if (p * kPage < to) part();
}

// Scores of a chunk in `w` become weights exp(s - m); returns their sum and sets m. Lanes of these
// pages that are not in [from, to) become 0.
TUTTI_INLINE float Soften(const AttentionArgs& a, float* w, int from, int to, float* m) {
  if (a.softcap != 0) {
    const V cap = Set(a.softcap);
    for (int i = from / kPage * kPage; i < to; i += kPage)
      Store(w + i, Mul(cap, VTanh(Div(Load(w + i), cap))));
  }
  V best = Set(-kInfinity);
  ForPages(from, to, [&](int p, auto lanes) TUTTI_LAMBDA {
    best = Max(lanes(Load(w + p * kPage), best), best);
  });
  *m = FoldMax(best);
  const V top = Set(*m);
  V sum = Zero();
  ForPages(from, to, [&](int p, auto lanes) TUTTI_LAMBDA {
    const V e = lanes(VExpUpTo88(Sub(Load(w + p * kPage), top)), Zero());
    Store(w + p * kPage, e);
    sum = Add(sum, e);
  });
  return Fold(sum);
}

// What the heads of a tile, at most 16, have so far: a lane a head.
struct Running {
  V max = Set(-kInfinity), sum = Zero();

  // A chunk's largest score and its sum come in: O = fma(o_c, *take, O * *keep).
  TUTTI_INLINE void Add(V m, V l, V* keep, V* take) {
    const V new_max = Max(m, max);
    *keep = VExp(Sub(max, new_max));
    *take = VExp(Sub(m, new_max));
    sum = Fma(l, *take, Mul(sum, *keep));
    max = new_max;
  }
};

// Scores of the pages [*page, end_page): P at once, the rest by halves. `keys`, of which there are
// `num_keys`, go on in the next chunk.
template <int P, typename Cache, int H>
TUTTI_INLINE void ScorePages(const AttentionArgs& a, Cache& cache, const Head (&heads)[H],
                             const std::byte* const* keys, int num_keys,
                             const std::byte* const* values, float* weight, int* page,
                             int end_page) {
  for (; *page + P <= end_page; *page += P) {
    Soon<P> soon;
    for (int p = 0; p < P; ++p) {
      const int next = *page + P + p;
      soon.keys[p] = keys[next < num_keys ? next : *page + p] + a.k_offset;
      soon.values[p] = values[*page + p] + a.v_offset;
    }
    cache.template Scores<P>(a, heads, keys + *page, soon, weight + *page * kPage);
  }
  if constexpr (P > 1)
    ScorePages<P / 2>(a, cache, heads, keys, num_keys, values, weight, page, end_page);
}

// What one chunk adds to H heads. `keys` are its pages; `values` too, where V lies in the page.
template <typename Cache, int H>
TUTTI_INLINE void AttendChunk(const AttentionArgs& a, Cache& cache, const Head (&heads)[H],
                              int64_t chunk, const std::byte* const* keys,
                              const std::byte* const* values, Running* running) {
  static_assert(H <= 16);
  alignas(64) float weight[H * kChunk];
  Merge merge[H];
  for (int h = 0; h < H; ++h) {
    merge[h].from = chunk < heads[h].begin ? static_cast<int>(heads[h].begin - chunk) : 0;
    merge[h].to = heads[h].end - chunk < kChunk ? static_cast<int>(heads[h].end - chunk) : kChunk;
  }
  // Pages that nobody sees are not touched.
  const int end_page = (merge[H - 1].to + kPage - 1) / kPage;
  int page = merge[0].from / kPage;
  const int num_keys = static_cast<int>((heads[H - 1].end - chunk + kPage - 1) / kPage);
  ScorePages<Cache::kPagesAtOnce>(a, cache, heads, keys, num_keys, values, weight, &page, end_page);

  alignas(64) float most[16] = {}, sum[16] = {}, keep[16], take[16];
  for (int h = 0; h < H; ++h)
    sum[h] = Soften(a, weight + h * kChunk, merge[h].from, merge[h].to, &most[h]);
  V kept, taken;
  running->Add(Load(most), Load(sum), &kept, &taken);
  Store(keep, kept);
  Store(take, taken);
  for (int h = 0; h < H; ++h) merge[h].keep = keep[h], merge[h].take = take[h];
  cache.WeighAndMerge(a, heads, merge, weight, values);
}

TUTTI_INLINE void BeginHead(const AttentionArgs& a, const Head& head) {
  ForLanes(ValueDim(a), [&](auto, auto store) { store(head.out, Zero()); });
}
TUTTI_INLINE void FinishHead(const AttentionArgs& a, const Head& head, float running_sum) {
  float* o = head.out;
  const V sum = Set(running_sum);
  ForLanes(ValueDim(a), [&](auto load, auto store) { store(o, Div(load(o), sum)); });
}

// Where the results of a chunk lie.
TUTTI_INLINE float* ResultOf(const AttentionArgs& a, const Head& head, int64_t chunk) {
  return head.chunks + (chunk / kChunk - a.chunks.first) * ChunkResults::Floats(a.head_dim);
}

// The heads begin anew, in the results of a chunk: what is merged into -0 and nothing is itself.
template <int H>
TUTTI_INLINE void BeginResults(const AttentionArgs& a, int64_t chunk, Head (&heads)[H],
                               Running* running) {
  *running = Running();
  for (Head& head : heads) {
    head.out = ResultOf(a, head, chunk) + ChunkResults::kValues;
    ForLanes(a.head_dim, [&](auto, auto store) { store(head.out, Set(-0.0f)); });
  }
}
template <int H>
TUTTI_INLINE void FinishResults(const AttentionArgs& a, int64_t chunk, const Head (&heads)[H],
                                const Running& running) {
  alignas(64) float most[16], sum[16];
  Store(most, running.max);
  Store(sum, running.sum);
  for (int h = 0; h < H; ++h) {
    float* const result = ResultOf(a, heads[h], chunk);
    result[0] = most[h];
    result[1] = sum[h];
  }
}

// H heads over the same chunks.
template <typename Cache, int H>
void AttendHeads(const AttentionArgs& a, const Head (&of)[H]) {
  Cache cache(a, of);
  Running running;
  Head heads[H];
  for (int h = 0; h < H; ++h) heads[h] = of[h];
  const bool in_parts = a.chunks.data != nullptr;
  if (!in_parts) {
    for (int h = 0; h < H; ++h) BeginHead(a, heads[h]);
  }
  for (int64_t chunk = heads[0].begin / kChunk * kChunk; chunk < heads[0].end; chunk += kChunk) {
    const std::byte* const* pages = a.pages + chunk / kPage;
    if (in_parts) BeginResults(a, chunk, heads, &running);
    AttendChunk(a, cache, heads, chunk, pages, pages, &running);
    if (in_parts) FinishResults(a, chunk, heads, running);
  }
  if (in_parts) return;
  alignas(64) float sum[16];
  Store(sum, running.sum);
  for (int h = 0; h < H; ++h) FinishHead(a, heads[h], sum[h]);
}

Head HeadOf(const AttentionArgs& a, int row, int head) {
  const int64_t offset = row * a.row_stride + static_cast<int64_t>(head) * a.head_dim;
  const int64_t end = a.end + row;
  const int64_t begin = a.window > 0 && end - a.window > a.begin ? end - a.window : a.begin;
  float* chunks = a.chunks.data;
  if (chunks != nullptr) {
    chunks += (static_cast<int64_t>(row) * a.num_q_heads + head) * a.chunks.count *
              ChunkResults::Floats(a.head_dim);
  }
  return {a.q + offset, a.out + offset, chunks, begin > a.part_begin ? begin : a.part_begin,
          end < a.part_end ? end : a.part_end};
}

void MergeChunks(const AttentionArgs& args) {
  AttentionArgs a = args;
  a.part_begin = 0;
  a.part_end = INT64_MAX;
  for (int i = 0; i < a.num_rows * a.num_q_heads; ++i) {
    const Head head = HeadOf(a, i / a.num_q_heads, i % a.num_q_heads);
    Running running;
    BeginHead(a, head);
    for (int64_t chunk = head.begin / kChunk * kChunk; chunk < head.end; chunk += kChunk) {
      const float* const result = ResultOf(a, head, chunk);
      V keep, take;
      running.Add(Set(result[0]), Set(result[1]), &keep, &take);
      ForLanes(a.head_dim, [&](auto load, auto store) {
        store(head.out, Fma(load(result + ChunkResults::kValues), take, Mul(load(head.out), keep)));
      });
    }
    alignas(64) float sum[16];
    Store(sum, running.sum);
    FinishHead(a, head, sum[0]);
  }
}

// `count` heads from `first` on of each of R rows, row by row.
template <int count, int R>
struct Tile {
  static constexpr int kHeads = count * R, kRows = R;
  Head heads[kHeads];

  Tile(const AttentionArgs& a, int row, int first) {
    for (int h = 0; h < kHeads; ++h) heads[h] = HeadOf(a, row + h / count, first + h % count);
  }
};

// Rows can go together when they see the same chunks.
bool SameChunks(const Head& x, const Head& y) {
  return x.begin / kChunk == y.begin / kChunk && (x.end - 1) / kChunk == (y.end - 1) / kChunk;
}

// body(tile, row, first head) for all heads of R rows.
template <int R, typename Body>
TUTTI_INLINE void ForHeads(const AttentionArgs& a, int row, const Body& body) {
  for (int h = 0; h < a.num_q_heads;) {
    const int left = a.num_q_heads - h;
    // Tiles of 3, and the rest as evenly as it goes (4 = 2 + 2): equal tiles keep more chains in
    // flight.
    const int tile = left % 3 == 0 ? 3 : left == 4 || left < 3 ? (left < 2 ? left : 2) : 3;
    if (tile == 1) {
      body(Tile<1, R>(a, row, h), row, h);
    } else if (tile == 2) {
      body(Tile<2, R>(a, row, h), row, h);
    } else {
      body(Tile<3, R>(a, row, h), row, h);
    }
    h += tile;
  }
}

// Calls body(tile, first row, first head) for tiles of at most most_rows rows (2 or 4) that cover
// all heads of all rows.
template <int most_rows, typename Body>
TUTTI_INLINE void ForTiles(const AttentionArgs& a, const Body& body) {
  const auto together = [&](int row, int num) {
    return row + num <= a.num_rows && SameChunks(HeadOf(a, row, 0), HeadOf(a, row + num - 1, 0));
  };
  for (int row = 0; row < a.num_rows;) {
    if constexpr (most_rows >= 4) {
      if (together(row, 4)) {
        ForHeads<4>(a, row, body);
        row += 4;
        continue;
      }
    }
    if (together(row, 2)) {
      ForHeads<2>(a, row, body);
      row += 2;
    } else {
      ForHeads<1>(a, row, body);
      ++row;
    }
  }
}

template <template <int, int> class Cache>
void AttendAll(const AttentionArgs& a) {
  ForTiles<Cache<1, 1>::kMostRows>(a, [&](const auto& tile, int, int) {
    using T = std::decay_t<decltype(tile)>;
    AttendHeads<Cache<T::kHeads, T::kRows>>(a, tile.heads);
  });
}

// Latent attention: chunk after chunk for all heads, because the values of a chunk, which are the
// first dimensions of its keys, are turned into the layout of V once for all of them.
template <template <int, int> class Cache>
void AttendLatent(const AttentionArgs& args) {
  AttentionArgs a = args;
  a.v_offset = 0;  // in the scratch
  const size_t page_bytes = ValueBytes(a.kv_dtype, a.value_dim);
  std::byte* const turned = a.scratch;
  float* const running = reinterpret_cast<float*>(a.scratch + kChunkPages * page_bytes);
  const std::byte* values[kChunkPages];
  for (int p = 0; p < kChunkPages; ++p) values[p] = turned + page_bytes * static_cast<size_t>(p);
  const int64_t num = static_cast<int64_t>(a.num_rows) * a.num_q_heads;
  for (int64_t i = 0; i < num; ++i) {
    BeginHead(a,
              HeadOf(a, static_cast<int>(i / a.num_q_heads), static_cast<int>(i % a.num_q_heads)));
    running[i] = -kInfinity;
    running[num + i] = 0;
  }

  const int64_t begin = HeadOf(a, 0, 0).begin, end = HeadOf(a, a.num_rows - 1, 0).end;
  for (int64_t chunk = begin / kChunk * kChunk; chunk < end; chunk += kChunk) {
    const std::byte* const* pages = a.pages + chunk / kPage;
    const int first = begin > chunk ? static_cast<int>(begin - chunk) / kPage : 0;
    for (int p = first; p < kChunkPages && chunk + p * kPage < end; ++p) {
      KeysToValues(a.kv_dtype, pages[p] + a.k_offset, a.head_dim, a.value_dim,
                   turned + page_bytes * static_cast<size_t>(p));
    }
    ForTiles<Cache<1, 1>::kMostRows>(a, [&](const auto& tile, int row, int head) {
      using T = std::decay_t<decltype(tile)>;
      if (chunk + kChunk <= tile.heads[0].begin || chunk >= tile.heads[0].end) return;
      alignas(64) float most[16] = {}, sum[16] = {};
      constexpr int in_row = T::kHeads / T::kRows;
      const auto at = [&](int h) {
        return static_cast<int64_t>(row + h / in_row) * a.num_q_heads + head + h % in_row;
      };
      for (int h = 0; h < T::kHeads; ++h) most[h] = running[at(h)], sum[h] = running[num + at(h)];
      Running of_tile{Load(most), Load(sum)};
      Cache<T::kHeads, T::kRows> cache(a, tile.heads);
      AttendChunk(a, cache, tile.heads, chunk, pages, values, &of_tile);
      Store(most, of_tile.max);
      Store(sum, of_tile.sum);
      for (int h = 0; h < T::kHeads; ++h) running[at(h)] = most[h], running[num + at(h)] = sum[h];
    });
  }
  for (int64_t i = 0; i < num; ++i) {
    FinishHead(a,
               HeadOf(a, static_cast<int>(i / a.num_q_heads), static_cast<int>(i % a.num_q_heads)),
               running[num + i]);
  }
}

template <template <int, int> class Cache>
void Attend(const AttentionArgs& a) {
  return a.value_dim > 0 ? AttendLatent<Cache>(a) : AttendAll<Cache>(a);
}

void Attention(const AttentionArgs& a) {
  switch (a.kv_dtype) {
    case DType::kF32:
      return Attend<F32Cache>(a);
    case DType::kQ8_0:
      return Attend<Int8Cache>(a);
    default:
      return Attend<F16Cache>(a);
  }
}

}  // namespace
}  // namespace tutti::kernels::cpu
