#include "shared/model/ffn.h"

namespace tutti::model {
namespace {

class SlicedFfn final : public FeedForward {
 public:
  SlicedFfn(const ModelConfig& config, int moe_layer, const MoeWeights* weights,
            moe::ExpertBackend* experts, MoeWorkspace* workspace)
      : slices_(config.ffn_slices),
        moe_layer_(moe_layer),
        hidden_(config.hidden_size),
        w_(*weights),
        experts_(experts),
        space_(*workspace) {}

  bool reads_quantized() const override { return w_.experts_read_quantized; }
  absl::Status Run(const Exec& exec, const Activations& x, int64_t rows, float* y) override;

 private:
  const int64_t slices_;
  const int moe_layer_;
  const int64_t hidden_;
  const MoeWeights& w_;
  moe::ExpertBackend* const experts_;
  MoeWorkspace& space_;
};

// Every row wants every slice. y = slice 0, then y = y + slice s, ascending: each slice has summed
// its own chain from zero, wherever it ran.
absl::Status SlicedFfn::Run(const Exec& exec, const Activations& x, int64_t rows, float* y) {
  if (rows == 0) return absl::OkStatus();
  const int64_t pairs = rows * slices_;
  space_.SizeIds(rows, slices_);
  for (int64_t p = 0; p < pairs; ++p)
    space_.ids[static_cast<size_t>(p)] = static_cast<int32_t>(p % slices_);
  float* out = y;  // one slice lands where it belongs
  if (slices_ > 1) {
    space_.pairs_out.Reserve(pairs * hidden_);
    out = space_.pairs_out.data();
  }
  if (experts_->is_elsewhere()) exec.GiveWay();
  experts_->Start(space_.Batch(moe_layer_, w_, x, rows), 0, out);
  TUTTI_RETURN_IF_ERROR(experts_->Wait(0));
  if (slices_ == 1) return absl::OkStatus();
  exec.ForRows(rows, slices_ * hidden_, [&](int64_t r) {
    const float* slice = out + r * slices_ * hidden_;
    std::copy_n(slice, hidden_, y + r * hidden_);
    for (int64_t s = 1; s < slices_; ++s)
      exec.kernels().add(y + r * hidden_, slice + s * hidden_, hidden_, y + r * hidden_);
  });
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<FeedForward> MakeSlicedFfn(const ModelConfig& config, int moe_layer,
                                           const MoeWeights* weights, moe::ExpertBackend* experts,
                                           MoeWorkspace* workspace) {
  return std::make_unique<SlicedFfn>(config, moe_layer, weights, experts, workspace);
}

}  // namespace tutti::model
