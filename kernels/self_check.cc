#include "kernels/self_check.h"

#include <cstring>
#include <span>
#include <vector>

#include "kernels/kv_page.h"
#include "kernels/reference/reference.h"
#include "kernels/testing.h"

namespace tutti::kernels {
namespace {

using Floats = std::vector<float>;

Floats RandomRow(size_t n, float size, uint64_t seed) {
  Random random(seed);
  Floats x(n);
  for (float& v : x) v = size * random.Symmetric();
  return x;
}

bool SameBits(const Floats& a, const Floats& b) {
  return std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

// What each entry computes from fixed inputs, as one list of floats per entry.
struct Results {
  Floats quantize, matmul_quantized, matmul_float, norms, elementwise, rope, attention, logs,
      gumbel, search;
};

void AppendInts(const int8_t* q, size_t n, Floats* out) {
  for (size_t i = 0; i < n; ++i) out->push_back(static_cast<float>(q[i]));
}
void AppendScales(const BlockScale* scales, size_t n, Floats* out) {
  for (const BlockScale& b : std::span(scales, n))
    out->insert(out->end(), {b.d, b.m, static_cast<float>(b.s)});
}

Results RunAll(const KernelTable& k) {
  Results r;
  // 1 and 13 columns take the route of registers, 33 that of scratch (kMaxFused is at most 32).
  constexpr int64_t kRows = 33, kCols = 512, kOut = 19;
  const Floats x = RandomRow(kRows * kCols, 3.0f, 1);
  std::vector<int8_t> q(x.size());
  std::vector<BlockScale> scales(x.size() / 32);
  k.quantize_rows(x.data(), kRows, kCols, q.data(), scales.data());
  AppendInts(q.data(), q.size(), &r.quantize);
  AppendScales(scales.data(), scales.size(), &r.quantize);

  for (DType dtype : kAllDTypes) {
    const auto w = PackedMatrix::Pack(dtype, kOut, kCols, RandomWeights(dtype, kOut, kCols, 2));
    if (!w.ok()) continue;  // no memory: nothing to compare
    for (int64_t rows : {int64_t{1}, int64_t{13}, kRows}) {
      Floats y(static_cast<size_t>(rows * kOut));
      if (w->quantized()) {
        const QuantizedRows in{rows, kCols, q.data(), scales.data()};
        k.matmul_quantized(*w, in, 0, w->num_groups(), y.data(), kOut);
        r.matmul_quantized.insert(r.matmul_quantized.end(), y.begin(), y.end());
      } else {
        k.matmul_float(*w, x.data(), rows, kCols, 0, w->num_groups(), y.data(), kOut);
        r.matmul_float.insert(r.matmul_float.end(), y.begin(), y.end());
      }
    }
  }

  constexpr int64_t kN = 203;
  const Floats a = RandomRow(kN, 9.0f, 3), b = RandomRow(kN, 1.0f, 4);
  Floats y(kN);
  const auto keep = [&](Floats* to) { to->insert(to->end(), y.begin(), y.end()); };
  k.rms_norm(a.data(), b.data(), 1.0f, 1e-5f, kN, y.data()), keep(&r.norms);
  y.resize(kCols);
  k.rms_norm_quantize(x.data(), x.data() + kCols, 0.0f, 1e-5f, kCols, y.data(), q.data(),
                      scales.data());
  keep(&r.norms);
  AppendInts(q.data(), kCols, &r.norms);
  AppendScales(scales.data(), kCols / 32, &r.norms);
  y.resize(kN);
  k.layer_norm(a.data(), b.data(), a.data(), 1e-5f, kN, y.data()), keep(&r.norms);
  k.add(a.data(), b.data(), kN, y.data()), keep(&r.elementwise);
  k.scale(a.data(), 0.3f, kN, y.data()), keep(&r.elementwise);
  k.axpy(0.7f, b.data(), kN, y.data()), keep(&r.elementwise);
  k.softcap(a.data(), 5.0f, kN, y.data()), keep(&r.elementwise);
  for (Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
    k.activate(kind, a.data(), kN, y.data()), keep(&r.elementwise);
    k.gated(kind, a.data(), b.data(), kN, y.data()), keep(&r.elementwise);
  }
  for (bool interleaved : {false, true}) {
    y = a;
    k.rope(y.data(), 3, 64, 46, interleaved, b.data(), a.data());
    keep(&r.rope);
  }

  constexpr int kDim = 40, kHeads = 3, kPages = 18;
  std::vector<uint16_t> page(2 * kDim * 16);
  Random random(5);
  for (uint16_t& h : page) h = FloatToHalf(random.Symmetric());
  const std::vector<const std::byte*> pages(kPages,
                                            reinterpret_cast<const std::byte*>(page.data()));
  const Floats query = RandomRow(kHeads * kDim, 4.0f, 6);
  Floats out(kHeads * kDim);
  AttentionArgs floats = {.q = query.data(),
                          .num_q_heads = kHeads,
                          .head_dim = kDim,
                          .pages = pages.data(),
                          .k_offset = 0,
                          .v_offset = kDim * 32,
                          .kv_dtype = DType::kF16,
                          .begin = 3,
                          .end = 16 * kPages - 5,
                          .scale = 0.2f,
                          .softcap = 20.0f,
                          .out = out.data()};
  k.attention(floats);
  r.attention = out;
  // The same in two parts.
  alignas(64) float results[kHeads * 2 * ChunkResults::Floats(kDim)];
  floats.chunks = {results, 0, 2};
  floats.part_end = kAttentionChunk;
  k.attention(floats);
  floats.part_begin = kAttentionChunk, floats.part_end = 2 * kAttentionChunk;
  k.attention(floats);
  k.merge_chunks(floats);
  r.attention.insert(r.attention.end(), out.begin(), out.end());
  std::vector<std::byte> int8_page(KeyBytes(DType::kQ8_0, kDim) + ValueBytes(DType::kQ8_0, kDim));
  for (int slot = 0; slot < kPagePositions; ++slot) {
    const Floats kv = RandomRow(2 * kDim, 2.0f, 100 + static_cast<uint64_t>(slot));
    StoreKey(DType::kQ8_0, kv.data(), kDim, slot, int8_page.data());
    StoreValue(DType::kQ8_0, kv.data() + kDim, kDim, slot,
               int8_page.data() + KeyBytes(DType::kQ8_0, kDim));
  }
  const std::vector<const std::byte*> int8_pages(kPages, int8_page.data());
  k.attention({.q = query.data(),
               .num_q_heads = kHeads,
               .head_dim = kDim,
               .pages = int8_pages.data(),
               .k_offset = 0,
               .v_offset = KeyBytes(DType::kQ8_0, kDim),
               .kv_dtype = DType::kQ8_0,
               .begin = 3,
               .end = 16 * kPages - 5,
               .scale = 0.2f,
               .softcap = 20.0f,
               .out = out.data()});
  r.attention.insert(r.attention.end(), out.begin(), out.end());
  alignas(64) std::byte scratch[LatentScratchBytes(DType::kF16, 32, kHeads)];
  k.attention({.q = query.data(),
               .num_q_heads = kHeads,
               .head_dim = kDim,
               .pages = pages.data(),
               .kv_dtype = DType::kF16,
               .begin = 3,
               .end = 16 * kPages - 5,
               .scale = 0.2f,
               .out = out.data(),
               .value_dim = 32,
               .scratch = scratch});
  r.attention.insert(r.attention.end(), out.begin(), out.end());

  r.logs.push_back(k.log_sum_exp(a.data(), kN));
  k.exp(a.data(), kN, y.data()), keep(&r.logs);
  k.log(y.data(), kN, y.data()), keep(&r.logs);
  y.resize(kN);
  k.gumbel(99, 7, 0, 1, kN, y.data());
  r.gumbel = y;
  r.search = {static_cast<float>(k.argmax(a.data(), kN)), k.all_finite(a.data(), kN) ? 1.0f : 0.0f};
  return r;
}

}  // namespace

std::string SelfCheck(const KernelTable& table) {
  const Results want = RunAll(reference::Table()), got = RunAll(table);
  std::string differing;
  const auto compare = [&](const char* name, const Floats Results::*member) {
    if (SameBits(want.*member, got.*member)) return;
    if (!differing.empty()) differing += ", ";
    differing += name;
  };
  compare("quantize_rows", &Results::quantize);
  compare("matmul_quantized", &Results::matmul_quantized);
  compare("matmul_float", &Results::matmul_float);
  compare("norms", &Results::norms);
  compare("elementwise", &Results::elementwise);
  compare("rope", &Results::rope);
  compare("attention", &Results::attention);
  compare("exp, log", &Results::logs);
  compare("gumbel", &Results::gumbel);
  compare("argmax, all_finite", &Results::search);
  return differing;
}

}  // namespace tutti::kernels
