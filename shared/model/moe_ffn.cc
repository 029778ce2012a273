#include <algorithm>

#include "shared/model/ffn.h"
#include "shared/moe/gating.h"

namespace tutti::model {
namespace {

class MoeFfn final : public FeedForward {
 public:
  MoeFfn(const ModelConfig& config, int moe_layer, const MoeWeights* weights,
         moe::ExpertBackend* experts, MoeWorkspace* workspace)
      : gating_(config.gating),
        moe_layer_(moe_layer),
        hidden_(config.hidden_size),
        w_(*weights),
        experts_(experts),
        space_(*workspace) {
    if (config.shared_ffn_size > 0)
      shared_ = MakeDenseFfn(config, &weights->shared, &workspace->shared);
  }

  bool reads_quantized() const override {
    return w_.experts_read_quantized || (shared_ != nullptr && shared_->reads_quantized());
  }
  absl::Status Run(const Exec& exec, const Activations& x, int64_t rows, float* y) override;

 private:
  void Gate(const Exec& exec, const Activations& x, int64_t rows);
  // Takes the pairs out that the options drop, one row after the other.
  void Drop(int64_t rows);
  // y[r] = combine of the rows of pairs_out, then the shared expert.
  void Combine(const Exec& exec, const Activations& x, int64_t row, float* y) const;

  const moe::GatingOptions gating_;
  const int moe_layer_;
  const int64_t hidden_;
  const MoeWeights& w_;
  moe::ExpertBackend* const experts_;
  MoeWorkspace& space_;
  std::unique_ptr<FeedForward> shared_;
};

// moe/gate: one row at a time, so nothing of the batch is in it.
void MoeFfn::Gate(const Exec& exec, const Activations& x, int64_t rows) {
  const int64_t num = gating_.num_experts, k = gating_.top_k;
  space_.logits.Reserve(rows * num);
  space_.SizeIds(rows, k);
  space_.weights.resize(static_cast<size_t>(rows * k));
  exec.ForRows(rows, num * hidden_, [&](int64_t r) {
    float* logits = space_.logits.data() + r * num;
    exec.kernels().matmul_float(w_.router, x.f32 + r * hidden_, 1, hidden_, 0,
                                w_.router.num_groups(), logits, num);
    moe::Route(
        gating_, {logits, static_cast<size_t>(num)}, w_.choice_bias,
        std::span(space_.ids).subspan(static_cast<size_t>(r * k), static_cast<size_t>(k)),
        std::span(space_.weights).subspan(static_cast<size_t>(r * k), static_cast<size_t>(k)));
  });
}

void MoeFfn::Drop(int64_t rows) {
  const auto k = static_cast<size_t>(gating_.top_k);
  space_.routed_ids.swap(space_.ids);
  space_.routed_weights.swap(space_.weights);
  space_.kept.resize(space_.routed_ids.size());
  space_.ids.clear();
  space_.weights.clear();
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const auto ids = std::span(space_.routed_ids).subspan(r * k, k);
    const auto weights = std::span(space_.routed_weights).subspan(r * k, k);
    const auto kept = std::span(space_.kept).subspan(r * k, k);
    moe::DropPairs(gating_, moe_layer_, space_.places[r], ids, weights, kept);
    for (size_t i = 0; i < k; ++i) {
      if (kept[i] == 0) continue;
      space_.ids.push_back(ids[i]);
      space_.weights.push_back(weights[i]);
    }
    space_.offsets[r + 1] = static_cast<int32_t>(space_.ids.size());
  }
}

void MoeFfn::Combine(const Exec& exec, const Activations& x, int64_t row, float* y) const {
  const kernels::KernelTable& kernels = exec.kernels();
  std::fill_n(y, hidden_, 0.0f);
  const auto r = static_cast<size_t>(row);
  for (int64_t p = space_.offsets[r]; p < space_.offsets[r + 1]; ++p) {
    kernels.axpy(space_.weights[static_cast<size_t>(p)], space_.pairs_out.data() + p * hidden_,
                 hidden_, y);
  }
  if (shared_ == nullptr) return;
  const float* shared = space_.shared_out.data() + row * hidden_;
  if (w_.shared_router.rows() == 0) return kernels.add(y, shared, hidden_, y);
  float gate;
  kernels.matmul_float(w_.shared_router, x.f32 + row * hidden_, 1, hidden_, 0,
                       w_.shared_router.num_groups(), &gate, 1);
  gate = -gate;
  kernels.exp(&gate, 1, &gate);
  kernels.axpy(1.0f / (1.0f + gate), shared, hidden_, y);
}

absl::Status MoeFfn::Run(const Exec& exec, const Activations& x, int64_t rows, float* y) {
  if (rows == 0) return absl::OkStatus();
  Gate(exec, x, rows);
  const bool drops = gating_.drops();
  if (drops) Drop(rows);
  const auto pairs = static_cast<int64_t>(space_.ids.size());
  if (space_.observer) {
    space_.observer({moe_layer_,
                     rows,
                     {space_.logits.data(), static_cast<size_t>(rows * gating_.num_experts)},
                     drops ? space_.routed_ids : space_.ids,
                     drops ? space_.routed_weights : space_.weights,
                     drops ? std::span<const uint8_t>(space_.kept) : std::span<const uint8_t>()});
  }
  space_.pairs_out.Reserve(pairs * hidden_);
  if (pairs > 0)
    experts_->Start(space_.Batch(moe_layer_, w_, x, rows), 0,
                    space_.pairs_out.data());  // moe/dispatch
  absl::Status status;
  if (shared_ != nullptr) {  // while the others are under way
    space_.shared_out.Reserve(rows * hidden_);
    status = shared_->Run(exec, x, rows, space_.shared_out.data());
  }
  if (pairs > 0) {
    if (experts_->is_elsewhere()) exec.GiveWay();
    if (absl::Status experts = experts_->Wait(0); !experts.ok()) return experts;
  }
  TUTTI_RETURN_IF_ERROR(status);
  exec.ForRows(rows, (gating_.top_k + 1) * hidden_,
               [&](int64_t r) { Combine(exec, x, r, y + r * hidden_); });  // moe/combine
  return absl::OkStatus();
}

}  // namespace

void MoeWorkspace::SizeIds(int64_t rows, int64_t per_row) {
  ids.resize(static_cast<size_t>(rows * per_row));
  offsets.resize(static_cast<size_t>(rows) + 1);
  for (int64_t r = 0; r <= rows; ++r)
    offsets[static_cast<size_t>(r)] = static_cast<int32_t>(r * per_row);
}

moe::ExpertBatch MoeWorkspace::Batch(int moe_layer, const MoeWeights& weights, const Activations& x,
                                     int64_t rows) const {
  moe::ExpertBatch batch{.moe_layer = moe_layer,
                         .num_rows = rows,
                         .hidden = x.cols,
                         .f32 = weights.experts_read_f32 ? x.f32 : nullptr,
                         .row_offsets = offsets,
                         .expert_ids = ids};
  if (weights.experts_read_quantized) batch.quantized = x.q;
  return batch;
}

std::unique_ptr<FeedForward> MakeMoeFfn(const ModelConfig& config, int moe_layer,
                                        const MoeWeights* weights, moe::ExpertBackend* experts,
                                        MoeWorkspace* workspace) {
  return std::make_unique<MoeFfn>(config, moe_layer, weights, experts, workspace);
}

}  // namespace tutti::model
