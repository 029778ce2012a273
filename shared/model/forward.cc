#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>

#include "kernels/kv_page.h"
#include "shared/model/transformer.h"

namespace tutti::model {

using kernels::kLanes;
using kv_cache::kPageTokens;

// One step. Per block of the paper: (1) normalise, (2) heads of q, k, v, turned by position, k and
// v to their pages, (3) attention, (4) output projection and residual, (5) normalise, (6)
// feed-forward and residual. Stages between two barriers are one parallel loop each.
absl::Status Transformer::Forward(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool,
                                  StepOutput* out) {
  const absl::Status status = Run(slices, pool, out);
  const auto provenance =
      experts_ == nullptr ? moe::ExpertBackend::Provenance() : experts_->TakeProvenance();
  out->made_by = provenance.made_by;
  out->distrusted = provenance.distrusted;
  return status;
}

absl::Status Transformer::Run(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool,
                              StepOutput* out) {
  kernels::SetFloatingPointMode();
  TUTTI_RETURN_IF_ERROR(CheckStep(slices, pool));
  PlanStep(slices, pool);
  Embed(slices);
  if (observer_) observer_(0, {x_.data(), static_cast<size_t>(num_rows_ * config_.hidden_size)});

  const int64_t row_cost = 4 * config_.hidden_size;
  ForRows(AllRows(), row_cost, [&](int64_t r) { BeginAttention(0, r); });
  // Where an expert takes so many rows of a window and no more, all rows of the window count.
  const int last_layer = config_.num_layers - 1;
  const bool all_rows = config_.gating.capacity_factor > 0 && config_.is_moe(last_layer);
  int layer = 0;
  if (split_ > 0) {  // the last layer is for all together, since it may keep few of them
    TUTTI_RETURN_IF_ERROR(RunOverlapped(last_layer));
    layer = last_layer;
  }
  for (; layer < config_.num_layers; ++layer) {
    const bool last = layer == last_layer;
    ProjectHeads(layer, AllRows());
    if (last && !all_rows) KeepWantedRows(slices);
    StartFfn(layer, AllRows(), 0);
    TUTTI_RETURN_IF_ERROR(FinishLayer(layer, AllRows(), 0));
    if (last && all_rows) KeepWantedRows(slices);
    if (observer_)
      observer_(layer + 1, {x_.data(), static_cast<size_t>(num_rows_ * config_.hidden_size)});
  }
  ComputeLogits(out);
  CollectFaults();
  ReportFaults(out);
  return absl::OkStatus();
}

// The first half is always ahead of the second, so rows see the keys of all positions before them.
absl::Status Transformer::RunOverlapped(int num_layers) {
  const auto split = static_cast<int32_t>(split_);
  const std::array<RowRun, 2> halves = {RowRun{0, split}, RowRun{split, AllRows().end}};
  std::array<int, 2> next = {0, 0}, under_way = {-1, -1};  // layers
  const auto start = [&](size_t lane) {
    if (next[lane] == num_layers) return;
    under_way[lane] = next[lane]++;
    ProjectHeads(under_way[lane], halves[lane]);
    StartFfn(under_way[lane], halves[lane], static_cast<int>(lane));
  };
  absl::Status status;
  start(0);
  start(1);
  for (size_t lane = 0; under_way[lane] >= 0; lane = 1 - lane) {
    const int layer = std::exchange(under_way[lane], -1);
    const absl::Status s = FinishLayer(layer, halves[lane], static_cast<int>(lane));
    if (status.ok()) status = s;
    if (status.ok()) start(lane);  // else what is under way ends, and nothing follows
  }
  return status;
}

void Transformer::StartFfn(int layer, RowRun rows, int lane) {
  Attend(layer, rows);
  ProjectOut(layer, rows);
  ForRows(rows, 4 * config_.hidden_size, [&](int64_t r) {
    FinishAttention(layer, r);
    BeginFfn(layer, r);
  });
  const bool post = config_.placement == NormPlacement::kPost;
  Activations in{.f32 = post ? x_.data() : normed_.data(), .cols = config_.hidden_size};
  if (ffn_observer_)
    ffn_observer_(layer, {in.f32, static_cast<size_t>(num_rows_ * config_.hidden_size)});
  if (ffn_[layer]->reads_quantized()) in.q = normed_quantized_.View(num_rows_, config_.hidden_size);
  if (!places_.empty()) {
    moe_spaces_[static_cast<size_t>(lane)].places = std::span(places_).subspan(
        static_cast<size_t>(rows.begin), static_cast<size_t>(rows.size()));
  }
  ffn_[layer]->Start(exec_, in.Rows(rows.begin, rows.size()), rows.size(), lane, Y(rows.begin));
}

absl::Status Transformer::FinishLayer(int layer, RowRun rows, int lane) {
  TUTTI_RETURN_IF_ERROR(ffn_[layer]->Finish(exec_, lane));
  ForRows(rows, 4 * config_.hidden_size, [&](int64_t r) {
    FinishFfn(layer, r);
    if (layer + 1 < config_.num_layers) BeginAttention(layer + 1, r);
  });
  return absl::OkStatus();
}

// Past the last layer's keys and values, only rows whose logits are wanted are read by anybody: the
// others end here, and the rows of the step become the wanted ones.
void Transformer::KeepWantedRows(std::span<const SequenceSlice> slices) {
  CollectFaults();
  int64_t kept = 0, end = 0;
  for (const SequenceSlice& slice : slices) {
    end += static_cast<int64_t>(slice.tokens.size());
    for (int64_t r = end - slice.num_logits; r < end; ++r, ++kept) {
      if (r == kept) continue;
      std::copy_n(X(r), config_.hidden_size, X(kept));
      std::copy_n(q_.data() + r * config_.q_size(), config_.q_size(),
                  q_.data() + kept * config_.q_size());
      rows_[kept] = rows_[r];
    }
  }
  rows_.resize(static_cast<size_t>(kept));
  num_rows_ = kept;
  split_ = 0;
  PlanRuns();
  PlaceRows(slices);
}

void Transformer::Embed(std::span<const SequenceSlice> slices) {
  const int64_t hidden = config_.hidden_size;
  exec_.ForRows(num_rows_, hidden, [&](int64_t r) {
    const Row& row = rows_[r];
    const SequenceSlice& slice = slices[row.slice];
    weights_.embedding.DequantizeRow(slice.tokens[row.pos - slice.first_pos], X(r));
    if (config_.embedding_scale != 1.0f)
      exec_.kernels().scale(X(r), config_.embedding_scale, hidden, X(r));
    if (config_.learned_positions) {
      weights_.positions.DequantizeRow(row.pos, Y(r));
      exec_.kernels().add(X(r), Y(r), hidden, X(r));
    }
  });
}

void Transformer::Normalize(const NormWeights& norm, int64_t n, const float* x, float* y) const {
  const kernels::KernelTable& k = exec_.kernels();
  if (config_.norm == NormKind::kLayer) {
    k.layer_norm(x, norm.gain.data(), norm.bias.data(), config_.norm_eps, n, y);
  } else {
    k.rms_norm(x, norm.gain.data(), config_.norm_gain_offset, config_.norm_eps, n, y);
  }
}

void Transformer::NormalizeRow(const NormWeights& norm, int64_t row, bool quantize) {
  const kernels::KernelTable& k = exec_.kernels();
  const int64_t hidden = config_.hidden_size;
  float* y = normed_.data() + row * hidden;
  if (quantize && config_.norm != NormKind::kLayer) {
    return normed_quantized_.RmsNorm(k, X(row), norm.gain.data(), config_.norm_gain_offset,
                                     config_.norm_eps, row, hidden, y);
  }
  Normalize(norm, hidden, X(row), y);
  if (quantize) normed_quantized_.Quantize(k, y, row, hidden, 0, hidden);
}

// (1) The input of attention: the residual stream, normalised unless the norm comes after.
void Transformer::BeginAttention(int layer, int64_t row) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t hidden = config_.hidden_size;
  const bool quantize = ReadsQuantized(w);
  if (config_.placement != NormPlacement::kPost) return NormalizeRow(w.attn_norm, row, quantize);
  if (quantize) normed_quantized_.Quantize(exec_.kernels(), X(row), row, hidden, 0, hidden);
}

bool Transformer::ReadsQuantized(const LayerWeights& w) const {
  if (!config_.is_latent())
    return w.q.weight.quantized() || w.k.weight.quantized() || w.v.weight.quantized();
  const Linear& q = config_.latent.q_rank > 0 ? w.latent.q_a : w.q;
  return q.weight.quantized() || w.latent.kv_a.weight.quantized();
}

// (2) Tasks are (heads, rows): a head is whole in one task, so its norm, its rotation and its way
// into the cache need no barrier.
void Transformer::ProjectHeads(int layer, RowRun rows) {
  if (config_.is_latent()) return ProjectLatent(layer, rows);
  const int64_t row_blocks = (rows.size() + TaskGrid::kRowBlock - 1) / TaskGrid::kRowBlock;
  exec_.For(static_cast<int64_t>(head_units_.size()) * row_blocks, [&](int64_t task, int thread) {
    const int64_t row0 = rows.begin + task % row_blocks * TaskGrid::kRowBlock;
    ProjectUnit(layer, head_units_[task / row_blocks], row0,
                std::min(TaskGrid::kRowBlock, rows.end - row0), scratch_[thread].a.data());
  });
}

void Transformer::ProjectUnit(int layer, const HeadUnit& unit, int64_t row0, int64_t num,
                              float* scratch) {
  const kernels::KernelTable& k = exec_.kernels();
  const LayerWeights& w = weights_.layers[layer];
  const int64_t hidden = config_.hidden_size, head_dim = config_.head_dim;
  const bool post = config_.placement == NormPlacement::kPost;
  Activations in{.f32 = post ? x_.data() : normed_.data(), .cols = hidden};
  const Linear& linear = unit.kind == HeadUnit::kQ ? w.q : unit.kind == HeadUnit::kK ? w.k : w.v;
  if (linear.weight.quantized()) in.q = normed_quantized_.View(num_rows_, hidden);

  const int64_t first = unit.first_head * head_dim, width = unit.num_heads * head_dim;
  float* y = scratch;
  int64_t stride = width;
  if (unit.kind == HeadUnit::kQ) {
    y = q_.data() + row0 * config_.q_size() + first;
    stride = config_.q_size();
  }
  exec_.Matmul(linear, in.Rows(row0, num), num, first / kLanes,
               (first + width + kLanes - 1) / kLanes, y - first, stride);

  RopeCache* rope = RopeOf(layer);
  for (int64_t r = 0; r < num; ++r) {
    const Row& row = rows_[row0 + r];
    float* heads = y + r * stride;
    if (config_.qk_norm_whole && unit.kind != HeadUnit::kV)
      Normalize(unit.kind == HeadUnit::kQ ? w.q_norm : w.k_norm, width, heads, heads);
    if (config_.qkv_clip > 0) {
      for (int64_t i = 0; i < width; ++i)
        heads[i] = std::clamp(heads[i], -config_.qkv_clip, config_.qkv_clip);
    }
    if (unit.kind == HeadUnit::kV) {
      for (int h = 0; h < unit.num_heads; ++h)
        StoreV(layer, unit.first_head + h, row, heads + h * head_dim);
      continue;
    }
    if (config_.qk_norm) {
      const NormWeights& norm = unit.kind == HeadUnit::kQ ? w.q_norm : w.k_norm;
      for (int h = 0; h < unit.num_heads; ++h) {
        k.rms_norm(heads + h * head_dim, norm.gain.data(), config_.norm_gain_offset,
                   config_.norm_eps, head_dim, heads + h * head_dim);
      }
    }
    if (rope != nullptr) {
      k.rope(heads, unit.num_heads, head_dim, config_.rotary_dim, config_.rope_interleaved,
             rope->Cos(row.pos), rope->Sin(row.pos));
    }
    if (unit.kind == HeadUnit::kK) {
      for (int h = 0; h < unit.num_heads; ++h)
        StoreK(layer, unit.first_head + h, row, heads + h * head_dim);
    }
  }
}

void Transformer::StoreK(int layer, int head, const Row& row, const float* k) {
  std::byte* page = pages_[slices_[row.slice].first_page + row.pos / kPageTokens];
  kernels::StoreKey(info_.kv.dtype, k, config_.head_dim, row.pos % kPageTokens,
                    page + info_.kv.KOffset(layer, head));
}

void Transformer::StoreV(int layer, int head, const Row& row, const float* v) {
  std::byte* page = pages_[slices_[row.slice].first_page + row.pos / kPageTokens];
  kernels::StoreValue(info_.kv.dtype, v, config_.head_dim, row.pos % kPageTokens,
                      page + info_.kv.VOffset(layer, head));
}

// No run crosses the border between two micro-batches.
std::span<const RowRun> Transformer::RunsOf(RowRun rows) const {
  const auto at = [this](int32_t row) {
    return std::lower_bound(runs_.begin(), runs_.end(), row,
                            [](const RowRun& run, int32_t r) { return run.begin < r; });
  };
  return {at(rows.begin), at(rows.end)};
}

// (3) Tasks are (rows of one slice, query heads of one KV head). A row sees positions up to its
// own, and with a window only the last `window` of them.
void Transformer::Attend(int layer, RowRun rows) {
  if (config_.is_latent()) return AttendLatent(layer, rows);
  const AttentionPlan& plan = attention_plans_[rows.size() == num_rows_ ? 0
                                               : rows.begin == 0        ? 1
                                                                        : 2];
  exec_.For(static_cast<int64_t>(plan.tasks.size()), [&](int64_t task, int) {
    exec_.kernels().attention(TaskArgs(layer, plan.tasks[static_cast<size_t>(task)]));
  });
  if (plan.merges.empty()) return;
  exec_.For(static_cast<int64_t>(plan.merges.size()), [&](int64_t i, int) {
    const AttentionPlan::Merge& merge = plan.merges[static_cast<size_t>(i)];
    kernels::AttentionArgs args = TaskArgs(layer, plan.tasks[merge.task]);
    args.out += merge.row * args.row_stride;
    args.end += merge.row;
    args.num_rows = 1;
    args.chunks.data += merge.row * args.num_q_heads * args.chunks.count *
                        kernels::ChunkResults::Floats(args.head_dim);
    exec_.kernels().merge_chunks(args);
  });
}

kernels::AttentionArgs Transformer::TaskArgs(int layer, const AttentionTask& task) {
  const RowRun& run = task.run;
  const int64_t group = config_.num_heads / config_.num_kv_heads, head_dim = config_.head_dim;
  const int64_t offset =
      run.begin * config_.q_size() + (task.kv_head * group + task.first) * head_dim;
  kernels::AttentionArgs args;
  args.q = q_.data() + offset;
  args.num_q_heads = task.last - task.first;
  args.head_dim = static_cast<int>(head_dim);
  args.pages = pages_.data() + slices_[rows_[run.begin].slice].first_page;
  args.k_offset = info_.kv.KOffset(layer, task.kv_head);
  args.v_offset = info_.kv.VOffset(layer, task.kv_head);
  args.kv_dtype = info_.kv.dtype;
  args.end = rows_[run.begin].pos + 1;
  args.num_rows = static_cast<int>(run.size());
  args.row_stride = config_.q_size();
  args.window = WindowOf(layer);
  args.scale = config_.attention_scale;
  args.softcap = config_.attention_softcap;
  args.out = attn_.data() + offset;
  if (task.parts > 1) {
    const int64_t begin = args.window > 0 ? std::max<int64_t>(0, args.end - args.window) : 0;
    const int64_t end = args.end + args.num_rows - 1, first = begin / kernels::kAttentionChunk;
    args.part_begin = PartBegin(begin, end, task.part, task.parts);
    args.part_end = PartBegin(begin, end, task.part + 1, task.parts);
    args.chunks = {chunk_results_.data() + task.results, first,
                   (end - 1) / kernels::kAttentionChunk + 1 - first};
  }
  return args;
}

// (4) y = W_o attention.
void Transformer::ProjectOut(int layer, RowRun rows) {
  const Linear& w = weights_.layers[layer].attn_out;
  const int64_t cols = config_.attn_size();
  if (config_.is_latent()) ExpandLatent(layer, rows);
  Activations in{.f32 = config_.is_latent() ? heads_.data() : attn_.data(), .cols = cols};
  if (w.weight.quantized()) {
    ForRows(rows, cols, [&](int64_t r) {
      attn_quantized_.Quantize(exec_.kernels(), in.f32 + r * cols, r, cols, 0, cols);
    });
    in.q = attn_quantized_.View(num_rows_, cols);
  }
  MatmulRows(w, in, rows, y_.data());
}

void Transformer::MatmulRows(const Linear& w, const Activations& x, RowRun rows, float* y) const {
  const int64_t stride = w.weight.rows();
  const TaskGrid grid(rows.size(), w.weight.num_groups(), 1, exec_.num_threads());
  exec_.For(grid.num_tasks(), [&](int64_t task, int) {
    const int64_t row0 = rows.begin + grid.row_begin(task), num = grid.num_rows(task);
    exec_.Matmul(w, x.Rows(row0, num), num, grid.group_begin(task), grid.group_end(task),
                 y + row0 * stride, stride);
  });
}

void Transformer::FinishAttention(int layer, int64_t row) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t hidden = config_.hidden_size;
  if (config_.placement == NormPlacement::kSandwich)
    Normalize(w.attn_post_norm, hidden, Y(row), Y(row));
  exec_.kernels().add(X(row), Y(row), hidden, X(row));
  if (config_.placement == NormPlacement::kPost) Normalize(w.attn_norm, hidden, X(row), X(row));
}

// (5)
void Transformer::BeginFfn(int layer, int64_t row) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t hidden = config_.hidden_size;
  const bool quantize = ffn_[layer]->reads_quantized();
  if (config_.placement != NormPlacement::kPost) return NormalizeRow(w.ffn_norm, row, quantize);
  if (quantize) normed_quantized_.Quantize(exec_.kernels(), X(row), row, hidden, 0, hidden);
}

// (6) Residual, and the check of G4: NaN and infinity reach the residual stream whatever stage made
// them (the quantiser keeps them in its scale), so one look per block is enough.
void Transformer::FinishFfn(int layer, int64_t row) {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t hidden = config_.hidden_size;
  if (config_.placement == NormPlacement::kSandwich)
    Normalize(w.ffn_post_norm, hidden, Y(row), Y(row));
  exec_.kernels().add(X(row), Y(row), hidden, X(row));
  if (config_.placement == NormPlacement::kPost) Normalize(w.ffn_norm, hidden, X(row), X(row));
  if (!exec_.kernels().all_finite(X(row), hidden)) {
    if (rows_[row].fault < 0) rows_[row].fault = layer;
    std::fill_n(X(row), hidden, 0.0f);
  }
}

void Transformer::ComputeLogits(StepOutput* out) {
  const kernels::KernelTable& k = exec_.kernels();
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size, num = num_rows_;
  out->logits.resize(static_cast<size_t>(num * vocab));
  out->hidden.resize(out->want_hidden ? static_cast<size_t>(num * hidden) : 0);
  if (num == 0) return;

  // The output matrix may be the embedding's; it has no bias.
  const kernels::PackedMatrix& w = config_.tied_embeddings ? weights_.embedding : weights_.output;
  exec_.ForRows(num, 2 * hidden, [&](int64_t i) {
    float* normed = normed_.data() + i * hidden;
    if (config_.final_norm) {
      NormalizeRow(weights_.final_norm, i, w.quantized());
    } else {
      std::copy_n(X(i), hidden, normed);
      if (w.quantized()) normed_quantized_.Quantize(k, normed, i, hidden, 0, hidden);
    }
    if (out->want_hidden) std::copy_n(normed, hidden, out->hidden.data() + i * hidden);
  });
  const TaskGrid grid(num, w.num_groups(), 1, exec_.num_threads());
  exec_.For(grid.num_tasks(), [&](int64_t task, int) {
    const int64_t row0 = grid.row_begin(task), rows = grid.num_rows(task);
    const int64_t first = grid.group_begin(task) * kLanes,
                  last = std::min(grid.group_end(task) * kLanes, vocab);
    float* y = out->logits.data() + row0 * vocab;
    if (w.quantized()) {
      kernels::QuantizedRows q = normed_quantized_.View(num, hidden);
      q = Activations{.f32 = nullptr, .q = q, .cols = hidden}.Rows(row0, rows).q;
      k.matmul_quantized(w, q, grid.group_begin(task), grid.group_end(task), y, vocab);
    } else {
      k.matmul_float(w, normed_.data() + row0 * hidden, rows, hidden, grid.group_begin(task),
                     grid.group_end(task), y, vocab);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* part = y + r * vocab + first;
      if (config_.logit_softcap != 0) k.softcap(part, config_.logit_softcap, last - first, part);
      if (!k.all_finite(part, last - first)) {
        // Other tasks of the row may find the same.
        std::atomic_ref<int32_t> fault(rows_[row0 + r].fault);
        if (fault.load(std::memory_order_relaxed) < 0)
          fault.store(config_.num_layers, std::memory_order_relaxed);
      }
    }
  });
}

}  // namespace tutti::model
