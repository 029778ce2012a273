// The arithmetic of a decoder, one function pointer per operation and instruction set.
//
// Contract: every implementation gives the same bits as kernels/reference (docs/determinism.md).
// The comments below name the rule; NaN and infinity go through as IEEE says and are caught by the
// caller. Thread safety: pure functions; callers divide outputs among threads and give disjoint
// ranges. Determinism: exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/kv_page.h"
#include "kernels/packed_matrix.h"

namespace tutti::kernels {

// Of the rules in docs/determinism.md; part of every fingerprint.
inline constexpr std::string_view kNumericsVersion = "CA-2";

// kAmx: AVX-512, with the quantised matmul of many columns in tile registers.
enum class Isa : uint8_t { kReference, kAvx2, kAvxVnni, kAvx512, kAmx, kNeon };
std::string_view IsaName(Isa isa);  // "reference", "avx2", "avx_vnni", "avx512", "amx", "neon"

// What goes with 32 quantised activations (Q1): x ~ d * q.
struct BlockScale {
  float d;    // scale
  float m;    // d * float(s): what the minimum of a weight block is multiplied with
  int32_t s;  // sum of q
};
inline BlockScale MakeBlockScale(float d, int32_t s) { return {d, d * static_cast<float>(s), s}; }

// Activations as the quantised matmul consumes them (Q1): blocks of 32 along k.
struct QuantizedRows {
  int64_t num_rows = 0, cols = 0;      // cols is a multiple of 32
  const int8_t* q = nullptr;           // [num_rows, cols] in [-127, 127]
  const BlockScale* scales = nullptr;  // [num_rows, cols / 32]
};

enum class Activation : uint8_t { kSilu, kGeluTanh };

// Scores are softened and values summed over chunks of so many absolute positions, whose results
// are merged in ascending order.
inline constexpr int64_t kAttentionChunk = 256;

// Room for what each chunk adds to a head, when parts of one attention are computed apart.
struct ChunkResults {
  // [num_rows, num_q_heads, count] of Floats(head_dim) each, on a cache line's boundary.
  float* data = nullptr;
  int64_t first = 0, count = 0;  // chunks: [256 first, 256 (first + count)) are positions

  // The largest score m, the sum l of exp(s - m), 14 floats of nothing, and the weighted sum o.
  static constexpr int64_t Floats(int head_dim) { return kValues + (head_dim + 15) / 16 * 16; }
  static constexpr int64_t kValues = 16;
};

// Attention of consecutive query rows of one sequence and one KV head over pages of 16 positions,
// laid out as kernels/kv_page.h says for `kv_dtype` (F32, F16 or Q8_0).
struct AttentionArgs {
  // Row r: [num_q_heads, head_dim] at q + r * row_stride: the query heads that share this KV head.
  const float* q = nullptr;
  int num_q_heads = 0;
  int head_dim = 0;                         // any; with Q8_0 at most kKvHeadDimMax
  const std::byte* const* pages = nullptr;  // page p holds positions [16 p, 16 p + 16)
  size_t k_offset = 0,
         v_offset = 0;  // bytes from a page's start to this layer's and head's K and V
  DType kv_dtype = DType::kF16;
  int64_t begin = 0, end = 0;  // row 0 sees positions [begin, end), begin < end
  // Row r sees one position more than row r - 1; with a window only the last `window` of them:
  // [max(begin, end + r - window), end + r).
  int num_rows = 1;
  int64_t row_stride = 0;  // floats from a row of q to the next, and of out
  int64_t window = 0;      // 0: none
  float scale = 1.0f;
  float softcap = 0.0f;  // 0: none; else s = cap * tanh(s / cap)
  float* out = nullptr;  // as q
  // A part of the positions: only those in [part_begin, part_end) too, multiples of 256, are looked
  // at, and what their chunks add stays in `chunks` until all parts are done, when merge_chunks
  // makes `out` of them: to the bit what one call without parts makes. Not where value_dim > 0.
  int64_t part_begin = 0, part_end = INT64_MAX;
  ChunkResults chunks;
  // Latent attention (arXiv:2405.04434, section 2.1): > 0 when the value of a position is the first
  // `value_dim` dimensions of its key, in [1, head_dim] and with Q8_0 a multiple of 32. The page
  // has no V then, v_offset is not read, and of each head of `out` only the first value_dim
  // elements are written.
  int value_dim = 0;
  std::byte* scratch =
      nullptr;  // [LatentScratchBytes] on a cache line's boundary, if value_dim > 0
};
// Room for the values of 256 positions and the running sums of num_rows * num_q_heads heads.
constexpr size_t LatentScratchBytes(DType kv_dtype, int value_dim, int64_t rows_and_heads) {
  return 16 * ValueBytes(kv_dtype, value_dim) +
         2 * sizeof(float) * static_cast<size_t>(rows_and_heads);
}

struct KernelTable {
  Isa isa;

  // Q1: rows [num_rows, cols] f32 -> q, scales laid out as in QuantizedRows.
  void (*quantize_rows)(const float* x, int64_t num_rows, int64_t cols, int8_t* q,
                        BlockScale* scales);

  // Q2 to Q4. y[t * y_stride + n] for every row t of x and n in [16 group_begin, 16 group_end),
  // n < w.rows(); nothing past w.rows() is written. REQUIRES: w.quantized(), x.cols == w.cols().
  void (*matmul_quantized)(const PackedMatrix& w, const QuantizedRows& x, int64_t group_begin,
                           int64_t group_end, float* y, int64_t y_stride);

  // The same for F16, BF16 and F32 weights and f32 activations x [num_x, x_stride].
  void (*matmul_float)(const PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                       int64_t group_begin, int64_t group_end, float* y, int64_t y_stride);

  // y = (x * r) * g with r = 1 / sqrt(ss / n + eps); `gain_offset` (0, or 1 for Gemma) is added to
  // g first. y may be x.
  void (*rms_norm)(const float* x, const float* gain, float gain_offset, float eps, int64_t n,
                   float* y);
  // rms_norm, and in the same pass quantize_rows of y. REQUIRES: n is a multiple of 32.
  void (*rms_norm_quantize)(const float* x, const float* gain, float gain_offset, float eps,
                            int64_t n, float* y, int8_t* q, BlockScale* scales);
  // mean and variance by lane sums (two passes); y = ((x - mean) * r) * g + b, product and sum
  // apart.
  void (*layer_norm)(const float* x, const float* gain, const float* bias, float eps, int64_t n,
                     float* y);

  void (*add)(const float* a, const float* b, int64_t n, float* y);  // y = a + b; y may be a or b
  void (*scale)(const float* x, float factor, int64_t n, float* y);  // y = x * factor
  void (*axpy)(float a, const float* x, int64_t n, float* y);        // y = fma(a, x, y)
  void (*softcap)(const float* x, float cap, int64_t n, float* y);   // y = cap * tanh(x / cap)
  void (*activate)(Activation kind, const float* x, int64_t n, float* y);  // y = f(x)
  void (*gated)(Activation kind, const float* gate, const float* up, int64_t n,
                float* y);  // y = f(gate) * up

  // Rotates x [num_heads, head_stride] in place: pairs (i, i + rot/2) for i < rot/2, or (2i, 2i+1)
  // when `interleaved`; cos and sin [rot / 2] of this position.
  void (*rope)(float* x, int num_heads, int64_t head_stride, int rot, bool interleaved,
               const float* cos, const float* sin);

  void (*attention)(const AttentionArgs& args);
  // What attention left in args.chunks becomes args.out. part_begin, part_end, q and pages are not
  // read.
  void (*merge_chunks)(const AttentionArgs& args);

  // M + ln(sum exp(x - M)), the sum by 16 lanes (i mod 16) folded 8, 4, 2, 1.
  float (*log_sum_exp)(const float* x, int64_t n);
  void (*exp)(const float* x, int64_t n, float* y);
  void (*log)(const float* x, int64_t n, float* y);  // ln for x > 0

  // First index of the maximum (ties to the lower index); n >= 1. NaN never wins.
  int64_t (*argmax)(const float* x, int64_t n);

  // Sampling noise (docs/determinism.md, "Sampling"): out[i] = -ln(-ln u) for token ids [0, n), key
  // = seed, counter = (id / 4, position, stream, sample_index).
  void (*gumbel)(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index,
                 int64_t n, float* out);

  bool (*all_finite)(const float* x, int64_t n);
};

// The table of an instruction set; nullptr when it is not in this build or not on this machine.
const KernelTable* KernelsFor(Isa isa);
// The one that SelectIsa chose, else the one that TUTTI_CPU names (environment), else the best one.
const KernelTable& Kernels();
// Forces one for the process ("auto", "reference", "avx2", ...). Call before any model is loaded.
// Errors: INVALID_ARGUMENT  unknown name; FAILED_PRECONDITION  this machine or build lacks it
absl::Status SelectIsa(std::string_view name);
// For negative controls in tests: makes Kernels() return `table` (borrowed), or with nullptr that
// of "auto" again.
void UseKernelsForTesting(const KernelTable* table);

// Sets round-to-nearest with denormals kept (G1) for the calling thread; pool threads call it too.
void SetFloatingPointMode();

// cos and sin by absolute position, [num_positions, rot / 2] each, from inverse frequencies in f64.
// Own range reduction and polynomials in f64, so the bits are the same with any libm.
void RopeTable(const double* inv_freq, int half, int64_t first_pos, int64_t num_positions,
               double attention_factor, float* cos, float* sin);
// x^y and friends for model constants (RoPE bases), in f64, without libm. REQUIRES: x > 0.
double DetPow(double x, double y);
double DetLog(double x);
double DetExp(double x);

}  // namespace tutti::kernels
