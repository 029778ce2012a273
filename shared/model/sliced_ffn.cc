#include "shared/model/ffn.h"

namespace tutti::model {
namespace {

class SlicedFfn final : public FeedForward {
 public:
  SlicedFfn(const ModelConfig& config, int moe_layer, const MoeWeights* weights,
            moe::ExpertBackend* experts, MoeWorkspaces* workspaces)
      : slices_(config.ffn_slices),
        moe_layer_(moe_layer),
        hidden_(config.hidden_size),
        w_(*weights),
        experts_(experts),
        spaces_(*workspaces) {}

  bool reads_quantized() const override { return w_.experts_read_quantized; }
  void Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) override;
  absl::Status Finish(const Exec& exec, int lane) override;

 private:
  const int64_t slices_;
  const int moe_layer_;
  const int64_t hidden_;
  const MoeWeights& w_;
  moe::ExpertBackend* const experts_;
  MoeWorkspaces& spaces_;
};

// Every row wants every slice.
void SlicedFfn::Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) {
  MoeWorkspace& space = spaces_[static_cast<size_t>(lane)];
  space.x = x;
  space.rows = rows;
  space.y = y;
  if (rows == 0) return;
  const int64_t pairs = rows * slices_;
  space.SizeIds(rows, slices_);
  for (int64_t p = 0; p < pairs; ++p)
    space.ids[static_cast<size_t>(p)] = static_cast<int32_t>(p % slices_);
  float* out = y;  // one slice lands where it belongs
  if (slices_ > 1) {
    space.pairs_out.Reserve(pairs * hidden_);
    out = space.pairs_out.data();
  }
  if (experts_->is_elsewhere()) exec.GiveWay();
  experts_->Start(space.Batch(moe_layer_, w_), lane, out);
}

// y = slice 0, then y = y + slice s, ascending: each slice has summed its own chain from zero,
// wherever it ran.
absl::Status SlicedFfn::Finish(const Exec& exec, int lane) {
  MoeWorkspace& space = spaces_[static_cast<size_t>(lane)];
  if (space.rows == 0) return absl::OkStatus();
  if (experts_->is_elsewhere()) exec.GiveWay();
  TUTTI_RETURN_IF_ERROR(experts_->Wait(lane));
  if (slices_ == 1) return absl::OkStatus();
  exec.ForRows(space.rows, slices_ * hidden_, [&](int64_t r) {
    const float* slice = space.pairs_out.data() + r * slices_ * hidden_;
    float* y = space.y + r * hidden_;
    std::copy_n(slice, hidden_, y);
    for (int64_t s = 1; s < slices_; ++s) exec.kernels().add(y, slice + s * hidden_, hidden_, y);
  });
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<FeedForward> MakeSlicedFfn(const ModelConfig& config, int moe_layer,
                                           const MoeWeights* weights, moe::ExpertBackend* experts,
                                           MoeWorkspaces* workspaces) {
  return std::make_unique<SlicedFfn>(config, moe_layer, weights, experts, workspaces);
}

}  // namespace tutti::model
