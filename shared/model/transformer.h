// The forward pass of every family, after "Attention is all you need" (arXiv:1706.03762) with
// the options of ModelConfig.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "shared/model/attention_tasks.h"
#include "shared/model/config.h"
#include "shared/model/decoder_model.h"
#include "shared/model/ffn.h"
#include "shared/model/load.h"
#include "shared/model/model_weights.h"
#include "shared/model/rope.h"
#include "shared/model/workspace.h"

namespace tutti::model {

// Work is divided by outputs (rows, heads, groups of 16 columns), never along a reduction, so
// neither the batch nor the threads can show in a bit. Buffers are reused: a step no larger than an
// earlier one allocates nothing.
class Transformer final : public DecoderModel {
 public:
  // `pool` is borrowed and may be null. `experts` too: null runs those of `weights` here.
  Transformer(ModelConfig config, ModelWeights weights, ModelInfo info, ThreadPool* pool,
              moe::ExpertBackend* experts = nullptr);
  ~Transformer() override;

  const ModelInfo& info() const override { return info_; }
  const ModelConfig& config() const { return config_; }
  absl::Status Forward(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool,
                       StepOutput* out) override;

  // For tests and tools: called with [rows, hidden] after the embedding (layer 0) and after each
  // block (layer i + 1), before any final norm. Empty: none.
  using Observer = std::function<void(int layer, std::span<const float> hidden)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }
  // Called with what each feed-forward sublayer reads, [rows, hidden]: normalised, where the norm
  // comes before.
  void set_ffn_observer(Observer observer) { ffn_observer_ = std::move(observer); }
  // Called with what each mixture decides.
  void set_routing_observer(const RoutingObserver& observer) {
    for (MoeWorkspace& space : moe_spaces_) space.observer = observer;
  }

 private:
  struct Row {
    int32_t slice, pos;
    int32_t fault;  // first layer whose output was not finite, or -1; num_layers: the logits
  };
  struct StepSlice {
    int64_t first_page = 0;  // in pages_
    int32_t fault = -1;      // of its rows, the lowest layer, then the lowest position
    int32_t fault_pos = 0;
  };
  // Some whole heads of q, k or v whose outputs are whole groups of 16.
  struct HeadUnit {
    enum Kind { kQ, kK, kV } kind;
    int first_head, num_heads;
  };

  absl::Status CheckStep(std::span<const SequenceSlice> slices,
                         const kv_cache::PagePool& pool) const;
  void PlanStep(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool);
  void PlanRuns();
  void PlaceRows(std::span<const SequenceSlice> slices);
  RowRun AllRows() const { return {0, static_cast<int32_t>(num_rows_)}; }
  // body(row) for every row of `rows`; cost: see Exec::ForRows.
  template <typename Body>
  void ForRows(RowRun rows, int64_t cost, const Body& body) const {
    exec_.ForRows(rows.size(), cost, [&](int64_t i) { body(rows.begin + i); });
  }
  void Embed(std::span<const SequenceSlice> slices);
  // Layers [0, num_layers) in two micro-batches: while the experts of one are elsewhere, the other
  // is at work here.
  absl::Status RunOverlapped(int num_layers);
  // A layer from the projection of heads to the start of its FFN, and the rest of it.
  void StartFfn(int layer, RowRun rows, int lane);
  absl::Status FinishLayer(int layer, RowRun rows, int lane);
  // The stages of a block, in order.
  void BeginAttention(int layer, int64_t row);
  void ProjectHeads(int layer, RowRun rows);
  void ProjectUnit(int layer, const HeadUnit& unit, int64_t row0, int64_t num, float* scratch);
  void KeepWantedRows(std::span<const SequenceSlice> slices);
  std::span<const RowRun> RunsOf(RowRun rows) const;
  void Attend(int layer, RowRun rows);
  void ProjectOut(int layer, RowRun rows);
  // The same where attention is latent (latent_attention.cc).
  void ProjectLatent(int layer, RowRun rows);
  void AttendLatent(int layer, RowRun rows);
  void ExpandLatent(int layer, RowRun rows);
  template <typename Body>
  void ForHeads(RowRun rows, const Body& body) const;
  void HeadMatmul(const kernels::PackedMatrix& w, const float* x, int64_t rows, int64_t x_stride,
                  float* y, int64_t y_stride, int thread);
  void FinishAttention(int layer, int64_t row);
  void BeginFfn(int layer, int64_t row);
  void FinishFfn(int layer, int64_t row);
  void ComputeLogits(StepOutput* out);
  void CollectFaults();
  void ReportFaults(StepOutput* out) const;

  // What the kernel is asked in an attention task.
  kernels::AttentionArgs TaskArgs(int layer, const AttentionTask& task);
  // y [rows, rows of w] = W x of some rows of x, which has all.
  void MatmulRows(const Linear& w, const Activations& x, RowRun rows, float* y) const;
  bool ReadsQuantized(const LayerWeights& w) const;  // does attention, of its normalised input?
  void Normalize(const NormWeights& norm, int64_t n, const float* x, float* y) const;
  // The row of the residual stream as normed_ of that row, and quantised too if asked.
  void NormalizeRow(const NormWeights& norm, int64_t row, bool quantize);
  void StoreK(int layer, int head, const Row& row, const float* k);
  void StoreV(int layer, int head, const Row& row, const float* v);
  RopeCache* RopeOf(int layer) const;
  int WindowOf(int layer) const { return config_.layer_slides[layer] ? config_.sliding_window : 0; }
  float* X(int64_t row) { return x_.data() + row * config_.hidden_size; }
  float* Y(int64_t row) { return y_.data() + row * config_.hidden_size; }

  const ModelConfig config_;
  const ModelWeights weights_;
  const ModelInfo info_;
  const Exec exec_;
  std::unique_ptr<RopeCache> rope_, local_rope_;
  std::vector<HeadUnit> head_units_;
  void PlanHeads();
  absl::Status Run(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool,
                   StepOutput* out);
  void MakeFfns(moe::ExpertBackend* elsewhere);

  FfnWorkspace ffn_space_;
  MoeWorkspaces moe_spaces_;
  moe::ExpertBackend* experts_ = nullptr;            // of all layers that have any
  std::unique_ptr<moe::ExpertBackend> own_experts_;  // when some run here
  std::vector<std::unique_ptr<FeedForward>> ffn_;    // one per layer
  Observer observer_, ffn_observer_;

  // The step: rows of all slices, one after the other; in the last layer, those whose logits are
  // wanted.
  int64_t num_rows_ = 0;
  std::vector<Row> rows_;
  std::vector<std::byte*> pages_;  // of all slices
  std::vector<StepSlice> slices_;
  std::vector<RowRun> runs_;
  std::vector<int64_t> run_positions_;  // that the last row of each run sees
  AttentionPlan attention_plans_[3];    // of all rows, and of each micro-batch
  int64_t split_ = 0;                   // where the second micro-batch begins; 0: there is one
  std::vector<moe::RowPlace> places_;   // of mixtures that leave pairs out by it
  Buffer<float> x_;                     // [rows, hidden] the residual stream
  Buffer<float> y_;                     // [rows, hidden] output of a sublayer
  Buffer<float> normed_;                // [rows, hidden]
  Buffer<float> q_;                     // [rows, q_size]
  Buffer<float> attn_;                  // [rows, q_size]
  Buffer<float> chunk_results_;         // of the attention of a layer that is cut by positions
  QuantizedBuffer normed_quantized_, attn_quantized_;
  Buffer<float> kv_latent_;  // [rows, head_dim] latent attention: what the pages get
  Buffer<float> q_latent_;   // [rows, q_rank]
  Buffer<float> heads_;      // [rows, heads x (nope_dim + rope_dim)], later [rows, attn_size]
  QuantizedBuffer q_latent_quantized_;
  std::vector<QuantizedBuffer> head_quantized_;  // one per thread
  std::vector<ThreadScratch> scratch_;           // one per thread
};

// LoadDecoder with the concrete type.
absl::StatusOr<std::unique_ptr<Transformer>> LoadTransformer(const std::string& path,
                                                             const LoadOptions& options);

}  // namespace tutti::model
