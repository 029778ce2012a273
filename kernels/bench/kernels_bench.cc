// How fast the kernels are, and how far from the machine's roof, which is measured first.
//
//   build/bin/kernels_bench                              everything
//   build/bin/kernels_bench --benchmark_filter=decode
//   build/bin/kernels_bench --isa=reference
//
// decode/TYPE/C/T   C columns over about 100 MB of weights, so that they come from memory; T
// threads.
//                   GB/s of weights, and the share of the memory roof.
// prefill/TYPE/C/T  C columns over one layer of a small model; Gop/s and the share of the int8 (or
// f32) roof of the instruction set; of_simple: of the roof of a plain AVX2 loop over bytes.
// attention/CACHE/CONTEXT/ROWS  one KV head and its queries over pages in the cache, or from
// memory.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/bench/roof.h"
#include "kernels/kernels.h"
#include "kernels/kv_page.h"
#include "kernels/testing.h"
#include "shared/base/thread_pool.h"

namespace tutti::kernels {
namespace {

Roof g_roof;

struct Rows {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<BlockScale> scales;
  QuantizedRows view;
};
Rows RandomRows(int64_t num, int64_t cols) {
  Rows r;
  Random random(11);
  r.x.resize(static_cast<size_t>(num * cols));
  for (float& v : r.x) v = random.Symmetric();
  r.q.resize(r.x.size());
  r.scales.resize(r.x.size() / 32);
  Kernels().quantize_rows(r.x.data(), num, cols, r.q.data(), r.scales.data());
  r.view = {num, cols, r.q.data(), r.scales.data()};
  return r;
}

// One call's work over all groups of `w`, in tasks of `groups_per_task`.
void Matmul(ThreadPool& pool, const PackedMatrix& w, const Rows& x, int64_t groups_per_task,
            float* y) {
  const KernelTable& k = Kernels();
  const int64_t groups = w.num_groups(), tasks = (groups + groups_per_task - 1) / groups_per_task;
  pool.ParallelFor(tasks, [&](int64_t task, int) {
    const int64_t begin = task * groups_per_task, end = std::min(begin + groups_per_task, groups);
    if (w.quantized()) {
      k.matmul_quantized(w, x.view, begin, end, y, w.rows());
    } else {
      k.matmul_float(w, x.x.data(), x.view.num_rows, w.cols(), begin, end, y, w.rows());
    }
  });
}

constexpr int64_t kRows = 1536, kCols = 768;

void Decode(benchmark::State& state, DType dtype, int64_t columns, int threads) {
  const std::vector<std::byte> file = RandomWeights(dtype, kRows, kCols, 1);
  std::vector<PackedMatrix> weights;
  size_t bytes = 0;
  while (bytes < (size_t{100} << 20)) {
    auto w = PackedMatrix::Pack(dtype, kRows, kCols, file);
    if (!w.ok()) return state.SkipWithError("no memory");
    bytes += w->bytes();
    weights.push_back(*std::move(w));
  }
  const Rows x = RandomRows(columns, kCols);
  std::vector<float> y(static_cast<size_t>(columns * kRows));
  ThreadPool pool({.num_threads = threads});
  for (auto _ : state) {
    for (const PackedMatrix& w : weights) Matmul(pool, w, x, 12, y.data());
    benchmark::ClobberMemory();
  }
  const double moved = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(moved / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_memory"] =
      benchmark::Counter(moved / g_roof.read_bytes_per_s[threads], benchmark::Counter::kIsRate);
  const double ops =
      2.0 * static_cast<double>(weights.size() * kRows * kCols * static_cast<size_t>(columns));
  state.counters["Gop/s"] = benchmark::Counter(ops * static_cast<double>(state.iterations()) / 1e9,
                                               benchmark::Counter::kIsRate);
}

void Prefill(benchmark::State& state, DType dtype, int64_t columns, int threads) {
  const auto w = PackedMatrix::Pack(dtype, kRows, kCols, RandomWeights(dtype, kRows, kCols, 1));
  if (!w.ok()) return state.SkipWithError("no memory");
  const Rows x = RandomRows(columns, kCols);
  std::vector<float> y(static_cast<size_t>(columns * kRows));
  ThreadPool pool({.num_threads = threads});
  for (auto _ : state) {
    Matmul(pool, *w, x, 6, y.data());
    benchmark::ClobberMemory();
  }
  const double ops =
      2.0 * static_cast<double>(kRows * kCols * columns) * static_cast<double>(state.iterations());
  const double roof = (w->quantized() ? g_roof.int8_ops_per_s : g_roof.f32_flops_per_s) * threads;
  const double simple = g_roof.simple_int8_ops_per_s * threads;
  state.counters["Gop/s"] = benchmark::Counter(ops / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_arithmetic"] = benchmark::Counter(ops / roof, benchmark::Counter::kIsRate);
  if (w->quantized())
    state.counters["of_simple"] = benchmark::Counter(ops / simple, benchmark::Counter::kIsRate);
}

// Three query heads of 64 on one KV head, as SmolLM2 has them, for `rows` rows. Pages lie `spread`
// times their size apart, as those of a model with so many layers and heads do; with more than 1,
// many such heads take turns, so that pages come from memory.
void Attend(benchmark::State& state, DType cache, int64_t context, int rows, int spread) {
  constexpr int kDim = 64, kHeads = 3;
  const int64_t num_pages = (context + 15) / 16;
  const size_t head_bytes = KeyBytes(cache, kDim) + ValueBytes(cache, kDim);
  const size_t stride = head_bytes * static_cast<size_t>(spread);
  std::vector<std::byte> memory(static_cast<size_t>(num_pages) * stride);
  Random random(3);
  std::vector<float> row(kDim);
  for (size_t at = 0; at < memory.size(); at += head_bytes) {
    if (at >= 64 * head_bytes) {  // the same again
      std::memcpy(memory.data() + at, memory.data() + at % (64 * head_bytes), head_bytes);
      continue;
    }
    for (int slot = 0; slot < kPagePositions; ++slot) {
      for (float& v : row) v = random.Symmetric();
      StoreKey(cache, row.data(), kDim, slot, memory.data() + at);
      StoreValue(cache, row.data(), kDim, slot, memory.data() + at + KeyBytes(cache, kDim));
    }
  }
  std::vector<const std::byte*> pages;
  for (int64_t p = 0; p < num_pages; ++p)
    pages.push_back(memory.data() + static_cast<size_t>(p) * stride);
  std::vector<float> q(static_cast<size_t>(rows * kHeads * kDim), 0.3f), out(q.size());
  AttentionArgs args{.q = q.data(),
                     .num_q_heads = kHeads,
                     .head_dim = kDim,
                     .pages = pages.data(),
                     .k_offset = 0,
                     .v_offset = KeyBytes(cache, kDim),
                     .kv_dtype = cache,
                     .begin = 0,
                     .end = context - rows + 1,
                     .num_rows = rows,
                     .row_stride = kHeads * kDim,
                     .scale = 0.125f,
                     .softcap = 0,
                     .out = out.data()};
  size_t turn = 0;
  for (auto _ : state) {
    args.k_offset = turn * head_bytes;
    args.v_offset = args.k_offset + KeyBytes(cache, kDim);
    turn = (turn + 1) % static_cast<size_t>(spread);
    Kernels().attention(args);
    benchmark::ClobberMemory();
  }
  const double iterations = static_cast<double>(state.iterations());
  const double flops = 4.0 * static_cast<double>(context) * kHeads * kDim * rows * iterations;
  const double moved =
      static_cast<double>(num_pages) * static_cast<double>(head_bytes) * iterations;
  state.counters["GB/s"] = benchmark::Counter(moved / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_memory"] =
      benchmark::Counter(moved / g_roof.read_bytes_per_s[1], benchmark::Counter::kIsRate);
  state.counters["Gop/s"] = benchmark::Counter(flops / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_arithmetic"] =
      benchmark::Counter(flops / g_roof.f32_flops_per_s, benchmark::Counter::kIsRate);
}

// Latent attention as DeepSeek-V2-Lite has it: 16 query heads over one of 512 + 64, whose first 512
// dimensions are the value. `stored`: the values lie in the pages a second time, as others keep
// them.
void AttendLatent(benchmark::State& state, DType cache, int64_t context, int rows, bool stored) {
  constexpr int kRank = 512, kDim = 576, kHeads = 16;
  const int64_t num_pages = (context + 15) / 16;
  const size_t page_bytes = KeyBytes(cache, kDim) + ValueBytes(cache, kDim);
  std::vector<std::byte> memory(static_cast<size_t>(num_pages) * page_bytes);
  Random random(3);
  std::vector<float> row(kDim);
  std::vector<const std::byte*> pages;
  for (int64_t t = 0; t < 16 * num_pages; ++t) {
    std::byte* page = memory.data() + static_cast<size_t>(t / 16) * page_bytes;
    if (t % 16 == 0) pages.push_back(page);
    for (float& v : row) v = random.Symmetric();
    StoreKey(cache, row.data(), kDim, static_cast<int>(t % 16), page);
    StoreValue(cache, row.data(), kDim, static_cast<int>(t % 16), page + KeyBytes(cache, kDim));
  }
  std::vector<float> q(static_cast<size_t>(rows * kHeads * kDim), 0.3f), out(q.size());
  std::vector<float> scratch(LatentScratchBytes(cache, kRank, rows * kHeads) / sizeof(float) + 16);
  AttentionArgs args{.q = q.data(),
                     .num_q_heads = kHeads,
                     .head_dim = kDim,
                     .pages = pages.data(),
                     .v_offset = KeyBytes(cache, kDim),
                     .kv_dtype = cache,
                     .end = context - rows + 1,
                     .num_rows = rows,
                     .row_stride = kHeads * kDim,
                     .scale = 0.07f,
                     .out = out.data()};
  if (!stored) {
    args.value_dim = kRank;
    args.scratch = reinterpret_cast<std::byte*>(scratch.data());
  }
  for (auto _ : state) {
    Kernels().attention(args);
    benchmark::ClobberMemory();
  }
  // With stored values 576 dimensions are summed, not 512.
  const double flops = 2.0 * static_cast<double>(context) * kHeads * (kDim + kRank) * rows *
                       static_cast<double>(state.iterations());
  state.counters["Gop/s"] = benchmark::Counter(flops / 1e9, benchmark::Counter::kIsRate);
  state.counters["of_arithmetic"] =
      benchmark::Counter(flops / g_roof.f32_flops_per_s, benchmark::Counter::kIsRate);
}

void RowOp(benchmark::State& state, int64_t n,
           void (*call)(const KernelTable&, const float*, int64_t, float*)) {
  Random random(3);
  std::vector<float> x(static_cast<size_t>(n)), y(x.size());
  for (float& v : x) v = 4 * random.Symmetric();
  for (auto _ : state) {
    call(Kernels(), x.data(), n, y.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * n);
}

std::vector<int8_t> g_q(1 << 16);
std::vector<BlockScale> g_scales(1 << 11);

// One thread is timed by its own CPU time, so that a busy machine does not show; two by the wall
// clock.
void Clocked(benchmark::internal::Benchmark* b, int threads) {
  b->Unit(benchmark::kMillisecond);
  if (threads > 1) b->UseRealTime();
}

void RegisterAll() {
  const auto name = [](const char* kind, DType dtype, int64_t columns, int threads) {
    return std::string(kind) + "/" + std::string(Traits(dtype).name) + "/" +
           std::to_string(columns) + "/" + std::to_string(threads);
  };
  for (DType dtype : kAllDTypes) {
    for (int threads : {1, 2}) {
      for (int64_t columns : {1, 2, 4, 8}) {
        if (columns > 1 && dtype != DType::kQ4_1 && dtype != DType::kQ8_0) continue;
        Clocked(benchmark::RegisterBenchmark(name("decode", dtype, columns, threads).c_str(),
                                             Decode, dtype, columns, threads),
                threads);
      }
    }
    for (int64_t columns : {4, 8, 16, 64, 512}) {
      for (int threads : {1, 2}) {
        Clocked(benchmark::RegisterBenchmark(name("prefill", dtype, columns, threads).c_str(),
                                             Prefill, dtype, columns, threads),
                threads);
      }
    }
  }
  for (DType cache : {DType::kF32, DType::kF16, DType::kQ8_0}) {
    const auto attention = [&](int64_t context, int rows, int spread) {
      const std::string name = "attention/" + std::string(Traits(cache).name) + "/" +
                               std::to_string(context) + "/" + std::to_string(rows) +
                               (spread > 1 ? "/from_memory" : "");
      benchmark::RegisterBenchmark(name.c_str(), Attend, cache, context, rows, spread);
    };
    for (int64_t context : {64, 512, 2048}) attention(context, 1, 1);
    attention(320, 2, 1);
    attention(320, 4, 1);
    attention(320, 8, 1);
    attention(320, 8, 90);
    attention(2048, 16, 1);
    attention(8192, 1, 30);
    for (const bool stored : {false, true}) {
      for (const int rows : {1, 16}) {
        const std::string name = "latent/" + std::string(Traits(cache).name) + "/2048/" +
                                 std::to_string(rows) + (stored ? "/values_stored" : "");
        benchmark::RegisterBenchmark(name.c_str(), AttendLatent, cache, 2048, rows, stored);
      }
    }
  }
  const auto row = [](const char* op, int64_t n,
                      void (*call)(const KernelTable&, const float*, int64_t, float*)) {
    benchmark::RegisterBenchmark(("row/" + std::string(op) + "/" + std::to_string(n)).c_str(),
                                 RowOp, n, call);
  };
  row("quantize", 576, [](const KernelTable& k, const float* x, int64_t n, float*) {
    k.quantize_rows(x, 1, n, g_q.data(), g_scales.data());
  });
  row("rms_norm", 576, [](const KernelTable& k, const float* x, int64_t n, float* y) {
    k.rms_norm(x, x, 0, 1e-5f, n, y);
  });
  row("rms_norm_quantize", 576, [](const KernelTable& k, const float* x, int64_t n, float* y) {
    k.rms_norm_quantize(x, x, 0, 1e-5f, n, y, g_q.data(), g_scales.data());
  });
  row("silu_gated", 1536, [](const KernelTable& k, const float* x, int64_t n, float* y) {
    k.gated(Activation::kSilu, x, x, n, y);
  });
  row("exp", 49152,
      [](const KernelTable& k, const float* x, int64_t n, float* y) { k.exp(x, n, y); });
  row("log_sum_exp", 49152, [](const KernelTable& k, const float* x, int64_t n, float* y) {
    y[0] = k.log_sum_exp(x, n);
  });
  row("argmax", 49152, [](const KernelTable& k, const float* x, int64_t n, float* y) {
    y[0] = static_cast<float>(k.argmax(x, n));
  });
  row("gumbel", 49152,
      [](const KernelTable& k, const float*, int64_t n, float* y) { k.gumbel(1, 2, 0, 0, n, y); });
}

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--isa=", 6) != 0) continue;
    if (const absl::Status status = SelectIsa(argv[i] + 6); !status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      return 1;
    }
    for (int j = i; j + 1 < argc; ++j) argv[j] = argv[j + 1];
    --argc;
    break;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  SetFloatingPointMode();
  g_roof = MeasureRoof(Kernels().isa);
  std::printf(
      "kernels: %s; roof: read %.1f GB/s on 1 thread, %.1f on 2; one thread: int8 %.0f Gop/s "
      "(simple: %.0f), f32 %.0f Gflop/s\n",
      std::string(IsaName(Kernels().isa)).c_str(), g_roof.read_bytes_per_s[1] / 1e9,
      g_roof.read_bytes_per_s[2] / 1e9, g_roof.int8_ops_per_s / 1e9,
      g_roof.simple_int8_ops_per_s / 1e9, g_roof.f32_flops_per_s / 1e9);
  std::fflush(stdout);
  RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace tutti::kernels

int main(int argc, char** argv) { return tutti::kernels::Main(argc, argv); }
