// The attention stages of layers with latent attention (config.h, LatentConfig) that differ from
// those in forward.cc: what makes queries, keys and values, and what follows attention.
#include "shared/model/transformer.h"

namespace tutti::model {

// body(head, first row, rows, thread) for blocks of rows of each head.
template <typename Body>
void Transformer::ForHeads(RowRun rows, const Body& body) const {
  const int64_t row_blocks = (rows.size() + TaskGrid::kRowBlock - 1) / TaskGrid::kRowBlock;
  exec_.For(config_.num_heads * row_blocks, [&](int64_t task, int thread) {
    const int64_t row0 = rows.begin + task % row_blocks * TaskGrid::kRowBlock;
    body(task / row_blocks, row0, std::min(TaskGrid::kRowBlock, rows.end - row0), thread);
  });
}

// y = W x of one head, by the rules of every matmul: rows of x that lie `x_stride` apart are
// quantised here when W is.
void Transformer::HeadMatmul(const kernels::PackedMatrix& w, const float* x, int64_t rows,
                             int64_t x_stride, float* y, int64_t y_stride, int thread) {
  const kernels::KernelTable& k = exec_.kernels();
  if (!w.quantized()) return k.matmul_float(w, x, rows, x_stride, 0, w.num_groups(), y, y_stride);
  QuantizedBuffer& quantized = head_quantized_[static_cast<size_t>(thread)];
  quantized.Reserve(rows, w.cols());
  for (int64_t r = 0; r < rows; ++r)
    quantized.Quantize(k, x + r * x_stride, r, w.cols(), 0, w.cols());
  k.matmul_quantized(w, quantized.View(rows, w.cols()), 0, w.num_groups(), y, y_stride);
}

// (2) The page gets [norm(c), rope(k)] of (c, k) = W_kva x. A head's query is [W_uk^T q, rope(q')]
// of (q, q') = W_q x, or W_qb norm(W_qa x).
void Transformer::ProjectLatent(int layer, RowRun rows) {
  const kernels::KernelTable& k = exec_.kernels();
  const LayerWeights& w = weights_.layers[layer];
  const LatentConfig& l = config_.latent;
  const int64_t hidden = config_.hidden_size, rank = l.kv_rank, width = config_.head_dim;
  Activations in{.f32 = normed_.data(), .cols = hidden};
  if (ReadsQuantized(w)) in.q = normed_quantized_.View(num_rows_, hidden);

  kv_latent_.Reserve(num_rows_ * width);
  MatmulRows(w.latent.kv_a, in, rows, kv_latent_.data());
  ForRows(rows, 4 * width, [&](int64_t r) {
    const Row& row = rows_[r];
    float* latent = kv_latent_.data() + r * width;
    k.rms_norm(latent, w.latent.kv_a_norm.gain.data(), 0, l.norm_eps, rank, latent);
    k.rope(latent + rank, 1, l.rope_dim, l.rope_dim, config_.rope_interleaved, rope_->Cos(row.pos),
           rope_->Sin(row.pos));
    StoreK(layer, 0, row, latent);
  });

  if (l.q_rank > 0) {
    q_latent_.Reserve(num_rows_ * l.q_rank);
    MatmulRows(w.latent.q_a, in, rows, q_latent_.data());
    in = {.f32 = q_latent_.data(), .cols = l.q_rank};
    const bool quantize = w.q.weight.quantized();
    if (quantize) q_latent_quantized_.Reserve(num_rows_, l.q_rank);
    ForRows(rows, 4 * l.q_rank, [&](int64_t r) {
      float* latent = q_latent_.data() + r * l.q_rank;
      const float* gain = w.latent.q_a_norm.gain.data();
      if (quantize) {
        q_latent_quantized_.RmsNorm(k, latent, gain, 0, l.norm_eps, r, l.q_rank, latent);
      } else {
        k.rms_norm(latent, gain, 0, l.norm_eps, l.q_rank, latent);
      }
    });
    if (quantize) in.q = q_latent_quantized_.View(num_rows_, l.q_rank);
  }
  const int64_t dim = l.nope_dim + l.rope_dim, stride = config_.num_heads * dim;
  heads_.Reserve(num_rows_ * stride);
  MatmulRows(w.q, in, rows, heads_.data());
  ForHeads(rows, [&](int64_t head, int64_t row0, int64_t num, int thread) {
    const float* x = heads_.data() + row0 * stride + head * dim;
    float* q = q_.data() + row0 * config_.q_size() + head * width;
    HeadMatmul(w.latent.into[static_cast<size_t>(head)], x, num, stride, q, config_.q_size(),
               thread);
    for (int64_t r = 0; r < num; ++r) {
      float* turned = q + r * config_.q_size() + rank;
      std::copy_n(x + r * stride + l.nope_dim, l.rope_dim, turned);
      const int32_t pos = rows_[row0 + r].pos;
      k.rope(turned, 1, l.rope_dim, l.rope_dim, config_.rope_interleaved, rope_->Cos(pos),
             rope_->Sin(pos));
    }
  });
}

// (3) Tasks are (rows of one slice, some query heads): there is one KV head, and all query heads of
// a task share the work of turning its keys into values.
void Transformer::AttendLatent(int layer, RowRun rows) {
  const std::span<const RowRun> all = RunsOf(rows);
  const int64_t runs = static_cast<int64_t>(all.size()), heads = config_.num_heads;
  if (runs == 0) return;
  const int64_t wanted =
      exec_.num_threads() == 1 ? 1 : (2 * int64_t{exec_.num_threads()} + runs - 1) / runs;
  const int64_t per_task = (heads + wanted - 1) / std::min(wanted, heads);
  const int64_t parts = (heads + per_task - 1) / per_task;
  exec_.For(runs * parts, [&](int64_t task, int thread) {
    const RowRun& run = all[task / parts];
    const int64_t head = task % parts * per_task, num = std::min(per_task, heads - head);
    kernels::AttentionArgs args =
        TaskArgs(layer, {run, /*kv_head=*/0, static_cast<int>(head), static_cast<int>(head + num)});
    args.value_dim = config_.latent.kv_rank;
    const size_t bytes =
        kernels::LatentScratchBytes(args.kv_dtype, args.value_dim, args.num_rows * num);
    Buffer<float>& scratch = scratch_[thread].b;
    scratch.Reserve(static_cast<int64_t>(bytes / sizeof(float)) + 1);
    args.scratch = reinterpret_cast<std::byte*>(scratch.data());
    exec_.kernels().attention(args);
  });
}

// (4) Before the output projection: a head's output is W_uv times its mean of latent vectors.
void Transformer::ExpandLatent(int layer, RowRun rows) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t dim = config_.latent.value_dim, stride = config_.attn_size();
  heads_.Reserve(num_rows_ * stride);
  ForHeads(rows, [&](int64_t head, int64_t row0, int64_t num, int thread) {
    HeadMatmul(w.latent.out_of[static_cast<size_t>(head)],
               attn_.data() + row0 * config_.q_size() + head * config_.head_dim, num,
               config_.q_size(), heads_.data() + row0 * stride + head * dim, stride, thread);
  });
}

}  // namespace tutti::model
