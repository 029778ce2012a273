#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/kv_page.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/scalar_math.h"

namespace tutti::kernels::reference {
namespace {

constexpr int64_t kChunk = kAttentionChunk;
constexpr int64_t kPage = 16;  // positions per page

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

int ValueDim(const AttentionArgs& a) { return a.value_dim > 0 ? a.value_dim : a.head_dim; }

// q . k_t and the weighted sum of v_t, for a cache of floats.
struct FloatCache {
  const AttentionArgs& a;
  const float* q;

  float Dot(int64_t t) const {
    const std::byte* k = a.pages[t / kPage] + a.k_offset;
    float s = 0;
    for (int i = 0; i < a.head_dim; ++i)
      s = Fma(q[i], Load(a.kv_dtype, k, i * kPage + t % kPage), s);
    return s;
  }
  float Value(int64_t t, int i) const {
    const std::byte* page = a.pages[t / kPage];
    return a.value_dim > 0 ? Load(a.kv_dtype, page + a.k_offset, i * kPage + t % kPage)
                           : Load(a.kv_dtype, page + a.v_offset, (t % kPage) * a.head_dim + i);
  }
  // out[i] = sum over t in [first, last) of weight[t - first] * v_t[i].
  void Weigh(const float* weight, int64_t first, int64_t last, float* out) const {
    std::fill_n(out, ValueDim(a), 0.0f);
    for (int64_t t = first; t < last; ++t) {
      for (int i = 0; i < ValueDim(a); ++i) out[i] = Fma(weight[t - first], Value(t, i), out[i]);
    }
  }
};

// The same for a cache of int8 blocks (A8 of docs/determinism.md).
struct Int8Cache {
  const AttentionArgs& a;
  std::vector<int8_t> q;  // the query by Q1, filled up to whole blocks with zeros
  std::vector<BlockScale> scales;

  Int8Cache(const AttentionArgs& args, const float* query) : a(args) {
    const int blocks = KvBlocks(a.head_dim);
    std::vector<float> padded(static_cast<size_t>(blocks * kKvBlock));
    std::copy_n(query, a.head_dim, padded.begin());
    q.resize(padded.size());
    scales.resize(static_cast<size_t>(blocks));
    QuantizeRows(padded.data(), 1, blocks * kKvBlock, q.data(), scales.data());
  }
  static float Scale(const std::byte* scales, int block, int64_t t) {
    float d;
    std::memcpy(&d, scales + 4 * (block * kPage + t % kPage), 4);
    return d;
  }

  // Element i of the key of t, and of its value.
  int Key(int64_t t, int i) const {
    const std::byte* k = a.pages[t / kPage] + a.k_offset;
    return std::to_integer<int>(k[(i / 4 * kPage + t % kPage) * 4 + i % 4]) - 128;
  }
  int Value(int64_t t, int i) const {
    if (a.value_dim > 0) return Key(t, i);
    const std::byte* v = a.pages[t / kPage] + a.v_offset;
    return static_cast<int8_t>(v[(t % kPage / 2 * a.head_dim + i) * 2 + t % 2]);
  }
  float ValueScale(int64_t t, int block) const {
    const std::byte* page = a.pages[t / kPage];
    return Scale(a.value_dim > 0 ? page + a.k_offset + KeyScales(a.head_dim)
                                 : page + a.v_offset + ValueScales(a.head_dim),
                 block, t);
  }

  float Dot(int64_t t) const {
    const std::byte* k = a.pages[t / kPage] + a.k_offset;
    float s = 0;
    for (int b = 0; b < KvBlocks(a.head_dim); ++b) {
      int32_t isum = 0;
      for (int i = b * kKvBlock; i < std::min((b + 1) * kKvBlock, a.head_dim); ++i)
        isum += Key(t, i) * q[static_cast<size_t>(i)];
      const float d = scales[static_cast<size_t>(b)].d * Scale(k + KeyScales(a.head_dim), b, t);
      s = Fma(d, static_cast<float>(isum), s);
    }
    return s;
  }

  void Weigh(const float* weight, int64_t first, int64_t last, float* out) const {
    for (int b = 0; b < KvBlocks(ValueDim(a)); ++b) {
      // Weights times the scales of their positions, rounded to 15 bits.
      float w[kChunk];
      uint32_t max_bits = 0;
      for (int64_t t = first; t < last; ++t) {
        w[t - first] = weight[t - first] * ValueScale(t, b);
        max_bits = std::max(max_bits, std::bit_cast<uint32_t>(w[t - first]) & 0x7FFFFFFFu);
      }
      const float m = std::bit_cast<float>(max_bits);
      const float inverse = m > 0.0f ? 32767.0f / m : 0.0f;
      const float d = m / 32767.0f;
      for (int i = b * kKvBlock; i < std::min((b + 1) * kKvBlock, ValueDim(a)); ++i) {
        int32_t isum = 0;  // at most 256 * 32767 * 127 in size
        for (int64_t t = first; t < last; ++t) {
          const auto u = static_cast<int16_t>(
              std::bit_cast<uint32_t>(w[t - first] * inverse + kRound) & 0xFFFF);
          isum += u * Value(t, i);
        }
        out[i] = d * static_cast<float>(isum);
      }
    }
  }
};

// What a head has so far; its weighted sum is `out` [dim], divided at the end.
class Running {
 public:
  Running(float* out, int dim) : out_(out), dim_(dim) { std::fill_n(out, dim, 0.0f); }

  // A chunk's largest score, sum of weights and weighted sum come in.
  void Add(float m, float chunk_sum, const float* chunk_out) {
    const float new_max = m > max_ ? m : max_;
    const float keep = ScalarExp(max_ - new_max), take = ScalarExp(m - new_max);
    sum_ = Fma(chunk_sum, take, sum_ * keep);
    for (int i = 0; i < dim_; ++i) out_[i] = Fma(chunk_out[i], take, out_[i] * keep);
    max_ = new_max;
  }
  void Finish() {
    for (int i = 0; i < dim_; ++i) out_[i] = out_[i] / sum_;
  }

 private:
  float* const out_;
  const int dim_;
  float max_ = -std::numeric_limits<float>::infinity(), sum_ = 0;
};

float* ResultOf(const AttentionArgs& a, int row, int head, int64_t chunk) {
  const int64_t at = (static_cast<int64_t>(row) * a.num_q_heads + head) * a.chunks.count +
                     chunk / kChunk - a.chunks.first;
  return a.chunks.data + at * ChunkResults::Floats(a.head_dim);
}

// What row `row` sees, of all parts.
std::pair<int64_t, int64_t> RangeOf(const AttentionArgs& a, int row) {
  const int64_t end = a.end + row;
  return {a.window > 0 ? std::max(a.begin, end - a.window) : a.begin, end};
}

template <typename Cache>
void AttendRow(const AttentionArgs& a, int row) {
  const int64_t begin = std::max(RangeOf(a, row).first, a.part_begin);
  const int64_t end = std::min(RangeOf(a, row).second, a.part_end);
  const int value_dim = ValueDim(a);
  std::vector<float> chunk_out(static_cast<size_t>(value_dim)), unused(chunk_out);
  const bool in_parts = a.chunks.data != nullptr;
  for (int h = 0; h < a.num_q_heads; ++h) {
    const int64_t offset = row * a.row_stride + static_cast<int64_t>(h) * a.head_dim;
    const Cache cache{a, a.q + offset};
    Running running(in_parts ? unused.data() : a.out + offset, value_dim);
    for (int64_t chunk = begin / kChunk * kChunk; chunk < end; chunk += kChunk) {
      const int64_t first = std::max(chunk, begin), last = std::min(chunk + kChunk, end);
      float p[kChunk];
      float m = -std::numeric_limits<float>::infinity();
      for (int64_t t = first; t < last; ++t) {
        float s = cache.Dot(t) * a.scale;
        if (a.softcap != 0) s = a.softcap * ScalarTanh(s / a.softcap);
        p[t - first] = s;
        m = s > m ? s : m;
      }
      float lane[16] = {};
      for (int64_t t = first; t < last; ++t) {
        p[t - first] = ScalarExp(p[t - first] - m);
        lane[t % 16] = lane[t % 16] + p[t - first];
      }
      cache.Weigh(p, first, last, chunk_out.data());
      const float chunk_sum = FoldLanes(lane);
      if (!in_parts) {
        running.Add(m, chunk_sum, chunk_out.data());
        continue;
      }
      float* const result = ResultOf(a, row, h, chunk);
      result[0] = m;
      result[1] = chunk_sum;
      std::copy(chunk_out.begin(), chunk_out.end(), result + ChunkResults::kValues);
    }
    if (!in_parts) running.Finish();
  }
}

}  // namespace

void Attention(const AttentionArgs& a) {
  const auto attend = a.kv_dtype == DType::kQ8_0 ? AttendRow<Int8Cache> : AttendRow<FloatCache>;
  for (int r = 0; r < a.num_rows; ++r) attend(a, r);
}

void MergeChunks(const AttentionArgs& a) {
  for (int r = 0; r < a.num_rows; ++r) {
    const auto [begin, end] = RangeOf(a, r);
    for (int h = 0; h < a.num_q_heads; ++h) {
      Running running(a.out + r * a.row_stride + static_cast<int64_t>(h) * a.head_dim, a.head_dim);
      for (int64_t chunk = begin / kChunk * kChunk; chunk < end; chunk += kChunk) {
        const float* const result = ResultOf(a, r, h, chunk);
        running.Add(result[0], result[1], result + ChunkResults::kValues);
      }
      running.Finish();
    }
  }
}

const KernelTable& Table() {
  static constexpr KernelTable kTable = {
      .isa = Isa::kReference,
      .quantize_rows = QuantizeRows,
      .matmul_quantized = MatmulQuantized,
      .matmul_float = MatmulFloat,
      .rms_norm = RmsNorm,
      .rms_norm_quantize = RmsNormQuantize,
      .layer_norm = LayerNorm,
      .add = Add,
      .scale = Scale,
      .axpy = Axpy,
      .softcap = Softcap,
      .activate = Activate,
      .gated = Gated,
      .rope = Rope,
      .attention = Attention,
      .merge_chunks = MergeChunks,
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
