#include "shared/model/file_experts.h"

namespace tutti::model {

FileExperts::FileExperts(ExpertFiles files)
    : files_(std::move(files)),
      exec_(&kernels::Kernels(), nullptr),
      layers_(static_cast<size_t>(files_.experts.num_layers)),
      experts_(&exec_, files_.experts.activation, Layers()) {}

std::vector<const std::vector<FfnWeights>*> FileExperts::Layers() const {
  std::vector<const std::vector<FfnWeights>*> out;
  for (const auto& layer : layers_) out.push_back(&layer);
  return out;
}

absl::Status FileExperts::Run(const moe::ExpertBatch& batch, float* out) {
  const auto at = static_cast<size_t>(batch.moe_layer);
  std::vector<FfnWeights>& experts = layers_[at];
  experts.resize(static_cast<size_t>(files_.experts.experts_per_layer));
  absl::Status status;
  for (const int32_t id : batch.expert_ids) {
    FfnWeights& weights = experts[static_cast<size_t>(id)];
    if (weights.up.weight.rows() > 0) continue;  // another row wants it, too
    auto loaded = LoadExpert(*files_.files, files_.model, files_.experts.layers[at], id);
    if (!loaded.ok()) {
      status = loaded.status();
      break;
    }
    weights = *std::move(loaded);
  }
  if (status.ok()) experts_.Start(batch, 0, out);
  experts = {};
  return status;
}

}  // namespace tutti::model
