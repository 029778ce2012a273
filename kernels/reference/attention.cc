#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"
#include "kernels/reference/scalar_math.h"

namespace tutti::kernels::reference {
namespace {

constexpr int64_t kChunk = 256;  // absolute positions per chunk
constexpr int64_t kPage = 16;    // positions per page

float Load(DType dtype, const std::byte* base, int64_t index) {
  if (dtype == DType::kF32) {
    float v;
    std::memcpy(&v, base + 4 * index, 4);
    return v;
  }
  uint16_t h;
  std::memcpy(&h, base + 2 * index, 2);
  return HalfToFloat(h);
}

void AttendRow(const AttentionArgs& a, const float* query, int64_t begin, int64_t end,
               float* result) {
  std::vector<float> chunk_out(static_cast<size_t>(a.head_dim));
  for (int h = 0; h < a.num_q_heads; ++h) {
    const float* q = query + static_cast<int64_t>(h) * a.head_dim;
    float* out = result + static_cast<int64_t>(h) * a.head_dim;
    float running_max = -std::numeric_limits<float>::infinity(), running_sum = 0;
    std::fill_n(out, a.head_dim, 0.0f);
    for (int64_t chunk = begin / kChunk * kChunk; chunk < end; chunk += kChunk) {
      const int64_t first = std::max(chunk, begin), last = std::min(chunk + kChunk, end);
      float p[kChunk];
      float m = -std::numeric_limits<float>::infinity();
      for (int64_t t = first; t < last; ++t) {
        const std::byte* k = a.pages[t / kPage] + a.k_offset;
        float s = 0;
        for (int i = 0; i < a.head_dim; ++i)
          s = Fma(q[i], Load(a.kv_dtype, k, i * kPage + t % kPage), s);
        s = s * a.scale;
        if (a.softcap != 0) s = a.softcap * ScalarTanh(s / a.softcap);
        p[t - chunk] = s;
        m = s > m ? s : m;
      }
      float lane[16] = {};
      std::fill(chunk_out.begin(), chunk_out.end(), 0.0f);
      for (int64_t t = first; t < last; ++t) {
        const float e = ScalarExp(p[t - chunk] - m);
        lane[t % 16] = lane[t % 16] + e;
        const std::byte* v = a.pages[t / kPage] + a.v_offset;
        for (int i = 0; i < a.head_dim; ++i) {
          chunk_out[static_cast<size_t>(i)] =
              Fma(e, Load(a.kv_dtype, v, (t % kPage) * a.head_dim + i),
                  chunk_out[static_cast<size_t>(i)]);
        }
      }
      const float chunk_sum = FoldLanes(lane);
      const float new_max = m > running_max ? m : running_max;
      const float keep = ScalarExp(running_max - new_max), take = ScalarExp(m - new_max);
      running_sum = Fma(chunk_sum, take, running_sum * keep);
      for (int i = 0; i < a.head_dim; ++i) {
        out[i] = Fma(chunk_out[static_cast<size_t>(i)], take, out[i] * keep);
      }
      running_max = new_max;
    }
    for (int i = 0; i < a.head_dim; ++i) out[i] = out[i] / running_sum;
  }
}

}  // namespace

void Attention(const AttentionArgs& a) {
  for (int r = 0; r < a.num_rows; ++r) {
    const int64_t end = a.end + r;
    const int64_t begin = a.window > 0 ? std::max(a.begin, end - a.window) : a.begin;
    AttendRow(a, a.q + r * a.row_stride, begin, end, a.out + r * a.row_stride);
  }
}

const KernelTable& Table() {
  static constexpr KernelTable kTable = {
      .isa = Isa::kReference,
      .quantize_rows = QuantizeRows,
      .matmul_quantized = MatmulQuantized,
      .matmul_float = MatmulFloat,
      .rms_norm = RmsNorm,
      .layer_norm = LayerNorm,
      .add = Add,
      .scale = Scale,
      .softcap = Softcap,
      .activate = Activate,
      .gated = Gated,
      .rope = Rope,
      .attention = Attention,
      .log_sum_exp = LogSumExp,
      .exp = Exp,
      .log = Log,
      .argmax = Argmax,
      .gumbel = Gumbel,
      .all_finite = AllFinite,
  };
  return kTable;
}

}  // namespace tutti::kernels::reference
