#include <algorithm>

#include "shared/model/ffn.h"
#include "shared/moe/gating.h"

namespace tutti::model {
namespace {

class MoeFfn final : public FeedForward {
 public:
  MoeFfn(const ModelConfig& config, int moe_layer, const MoeWeights* weights,
         moe::ExpertBackend* experts, MoeWorkspaces* workspaces)
      : gating_(config.gating),
        moe_layer_(moe_layer),
        hidden_(config.hidden_size),
        w_(*weights),
        experts_(experts),
        spaces_(*workspaces) {
    if (config.shared_ffn_size > 0)
      shared_ = MakeDenseFfn(config, &weights->shared, &workspaces->front().shared);
  }

  bool reads_quantized() const override {
    return w_.experts_read_quantized || (shared_ != nullptr && shared_->reads_quantized());
  }
  void Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) override;
  absl::Status Finish(const Exec& exec, int lane) override;

 private:
  void Gate(const Exec& exec, MoeWorkspace* space) const;
  // Takes the pairs out that the options drop, one row after the other.
  void Drop(MoeWorkspace* space) const;
  void Observe(const MoeWorkspace& space) const;
  // A row of y: combine of the rows of pairs_out, then the shared expert.
  void Combine(const Exec& exec, const MoeWorkspace& space, int64_t row) const;

  const moe::GatingOptions gating_;
  const int moe_layer_;
  const int64_t hidden_;
  const MoeWeights& w_;
  moe::ExpertBackend* const experts_;
  MoeWorkspaces& spaces_;
  std::unique_ptr<FeedForward> shared_;
};

// moe/gate: one row at a time, so nothing of the batch is in it.
void MoeFfn::Gate(const Exec& exec, MoeWorkspace* space) const {
  const int64_t num = gating_.num_experts, k = gating_.top_k;
  space->logits.Reserve(space->rows * num);
  space->SizeIds(space->rows, k);
  space->weights.resize(static_cast<size_t>(space->rows * k));
  exec.ForRows(space->rows, num * hidden_, [&](int64_t r) {
    float* logits = space->logits.data() + r * num;
    exec.kernels().matmul_float(w_.router, space->x.f32 + r * hidden_, 1, hidden_, 0,
                                w_.router.num_groups(), logits, num);
    moe::Route(
        gating_, {logits, static_cast<size_t>(num)}, w_.choice_bias,
        std::span(space->ids).subspan(static_cast<size_t>(r * k), static_cast<size_t>(k)),
        std::span(space->weights).subspan(static_cast<size_t>(r * k), static_cast<size_t>(k)));
  });
}

void MoeFfn::Drop(MoeWorkspace* space) const {
  const auto k = static_cast<size_t>(gating_.top_k);
  space->routed_ids.swap(space->ids);
  space->routed_weights.swap(space->weights);
  space->kept.resize(space->routed_ids.size());
  space->ids.clear();
  space->weights.clear();
  for (size_t r = 0; r < static_cast<size_t>(space->rows); ++r) {
    const auto ids = std::span(space->routed_ids).subspan(r * k, k);
    const auto weights = std::span(space->routed_weights).subspan(r * k, k);
    const auto kept = std::span(space->kept).subspan(r * k, k);
    moe::DropPairs(gating_, moe_layer_, space->places[r], ids, weights, kept);
    for (size_t i = 0; i < k; ++i) {
      if (kept[i] == 0) continue;
      space->ids.push_back(ids[i]);
      space->weights.push_back(weights[i]);
    }
    space->offsets[r + 1] = static_cast<int32_t>(space->ids.size());
  }
}

void MoeFfn::Observe(const MoeWorkspace& space) const {
  const bool drops = gating_.drops();
  space.observer({moe_layer_,
                  space.rows,
                  {space.logits.data(), static_cast<size_t>(space.rows * gating_.num_experts)},
                  drops ? space.routed_ids : space.ids,
                  drops ? space.routed_weights : space.weights,
                  drops ? std::span<const uint8_t>(space.kept) : std::span<const uint8_t>()});
}

void MoeFfn::Combine(const Exec& exec, const MoeWorkspace& space, int64_t row) const {
  const kernels::KernelTable& kernels = exec.kernels();
  float* const y = space.y + row * hidden_;
  std::fill_n(y, hidden_, 0.0f);
  const auto r = static_cast<size_t>(row);
  for (int64_t p = space.offsets[r]; p < space.offsets[r + 1]; ++p) {
    kernels.axpy(space.weights[static_cast<size_t>(p)], space.pairs_out.data() + p * hidden_,
                 hidden_, y);
  }
  if (shared_ == nullptr) return;
  const float* shared = space.shared_out.data() + row * hidden_;
  if (w_.shared_router.rows() == 0) return kernels.add(y, shared, hidden_, y);
  float gate;
  kernels.matmul_float(w_.shared_router, space.x.f32 + row * hidden_, 1, hidden_, 0,
                       w_.shared_router.num_groups(), &gate, 1);
  gate = -gate;
  kernels.exp(&gate, 1, &gate);
  kernels.axpy(1.0f / (1.0f + gate), shared, hidden_, y);
}

void MoeFfn::Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) {
  MoeWorkspace& space = spaces_[static_cast<size_t>(lane)];
  space.x = x;
  space.rows = rows;
  space.y = y;
  if (rows == 0) return;
  Gate(exec, &space);
  if (gating_.drops()) Drop(&space);
  if (space.observer) Observe(space);
  if (const auto pairs = static_cast<int64_t>(space.ids.size()); pairs > 0) {
    space.pairs_out.Reserve(pairs * hidden_);
    experts_->Start(space.Batch(moe_layer_, w_), lane, space.pairs_out.data());  // moe/dispatch
  }
  if (shared_ == nullptr) return;
  space.shared_out.Reserve(rows * hidden_);  // while the others are under way
  shared_->Start(exec, x, rows, lane, space.shared_out.data());
}

absl::Status MoeFfn::Finish(const Exec& exec, int lane) {
  const MoeWorkspace& space = spaces_[static_cast<size_t>(lane)];
  if (space.rows == 0) return absl::OkStatus();
  if (!space.ids.empty()) {
    if (experts_->is_elsewhere()) exec.GiveWay();
    TUTTI_RETURN_IF_ERROR(experts_->Wait(lane));
  }
  if (shared_ != nullptr) TUTTI_RETURN_IF_ERROR(shared_->Finish(exec, lane));
  exec.ForRows(space.rows, (gating_.top_k + 1) * hidden_,
               [&](int64_t r) { Combine(exec, space, r); });  // moe/combine
  return absl::OkStatus();
}

}  // namespace

void MoeWorkspace::SizeIds(int64_t rows, int64_t per_row) {
  ids.resize(static_cast<size_t>(rows * per_row));
  offsets.resize(static_cast<size_t>(rows) + 1);
  for (int64_t r = 0; r <= rows; ++r)
    offsets[static_cast<size_t>(r)] = static_cast<int32_t>(r * per_row);
}

moe::ExpertBatch MoeWorkspace::Batch(int moe_layer, const MoeWeights& weights) const {
  moe::ExpertBatch batch{.moe_layer = moe_layer,
                         .num_rows = rows,
                         .hidden = x.cols,
                         .f32 = weights.experts_read_f32 ? x.f32 : nullptr,
                         .row_offsets = offsets,
                         .expert_ids = ids,
                         .out_rows = {}};
  if (weights.experts_read_quantized) batch.quantized = x.q;
  return batch;
}

std::unique_ptr<FeedForward> MakeMoeFfn(const ModelConfig& config, int moe_layer,
                                        const MoeWeights* weights, moe::ExpertBackend* experts,
                                        MoeWorkspaces* workspaces) {
  return std::make_unique<MoeFfn>(config, moe_layer, weights, experts, workspaces);
}

}  // namespace tutti::model
