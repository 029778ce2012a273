#include "shared/model/model_weights.h"

#include <algorithm>

#include "shared/model/fingerprint.h"
#include "shared/model/load_tasks.h"
#include "shared/model/weight_parts.h"
#include "shared/model/weight_source.h"

namespace tutti::model {

size_t ModelWeights::bytes() const {
  size_t sum = embedding.bytes() + output.bytes() + positions.bytes();
  for (const LayerWeights& l : layers) {
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.attn_out, &l.ffn.gate, &l.ffn.up, &l.ffn.down}) {
      sum += m->weight.bytes();
    }
    sum += l.latent.q_a.weight.bytes() + l.latent.kv_a.weight.bytes();
    for (const auto* matrices : {&l.latent.into, &l.latent.out_of}) {
      for (const kernels::PackedMatrix& m : *matrices) sum += m.bytes();
    }
    sum += l.moe.router.bytes() + l.moe.shared_router.bytes();
    const auto add = [&sum](const FfnWeights& w) {
      sum += w.gate.weight.bytes() + w.up.weight.bytes() + w.down.weight.bytes();
    };
    add(l.moe.shared);
    for (const FfnWeights& expert : l.moe.experts) add(expert);
  }
  return sum;
}

namespace {

bool IsExpertRange(const std::string& name) { return name.find(".experts.") != std::string::npos; }

}  // namespace

absl::StatusOr<ExpertFiles> OpenExperts(const std::string& path, int ffn_slices) {
  ExpertFiles out;
  TUTTI_ASSIGN_OR_RETURN(out.files, weights::ModelFiles::Open(path));
  TUTTI_ASSIGN_OR_RETURN(out.model, ParseModel(*out.files));
  ModelConfig& c = out.model.config;
  c.ffn_slices = ffn_slices;
  TUTTI_RETURN_IF_ERROR(Annotate(c.Validate(), path));
  if (c.num_expert_layers() == 0) {
    return absl::InvalidArgumentError(path +
                                      ": the model has no experts; --ffn-slices cuts a dense one");
  }
  if (ffn_slices > 0 && out.files->packed() != nullptr)
    return absl::FailedPreconditionError(path + ": slices need the source of a packed model");
  ModelWeights w;
  TUTTI_RETURN_IF_ERROR(FindWeightParts(*out.files, out.model, &w).status());
  ExpertDescription& d = out.experts;
  d.name = c.name;
  d.fingerprint = ExpertFingerprint(out.files->ContentHash(), c);
  d.hidden = c.hidden_size;
  d.num_layers = c.num_expert_layers();
  d.experts_per_layer = c.experts_per_layer();
  d.activation = c.activation;
  for (int i = 0; i < c.num_layers; ++i) {
    if (!c.has_experts(i)) continue;
    d.layers.push_back(i);
    d.reads_f32 |= w.layers[static_cast<size_t>(i)].moe.experts_read_f32;
    d.reads_quantized |= w.layers[static_cast<size_t>(i)].moe.experts_read_quantized;
  }
  return out;
}

absl::StatusOr<FfnWeights> LoadExpert(const weights::ModelFiles& files, const ParsedModel& model,
                                      int layer, int expert) {
  if (layer < 0 || layer >= model.config.num_layers || !model.config.has_experts(layer)) {
    return absl::InvalidArgumentError("layer " + std::to_string(layer) + " has no experts");
  }
  if (expert < 0 || expert >= model.config.experts_per_layer()) {
    return absl::InvalidArgumentError("expert " + std::to_string(expert) + " is not in [0, " +
                                      std::to_string(model.config.experts_per_layer()) + ")");
  }
  MoeWeights w;
  TUTTI_ASSIGN_OR_RETURN(const WeightParts parts, FindExpertParts(files, model, layer, &w));
  const auto index = static_cast<size_t>(expert);
  const std::string& range = parts.ranges[index];
  const auto source = MakeWeightSource(files);
  for (const MatrixPart& part : parts.matrices) {
    if (part.range != index) continue;
    TUTTI_ASSIGN_OR_RETURN(*part.out, source->Get(part));
  }
  const weights::PackedFiles* const packed = files.packed().get();
  for (size_t i = 0; packed != nullptr && i < packed->manifest().ranges.size(); ++i) {
    if (packed->manifest().ranges[i].name == range) TUTTI_RETURN_IF_ERROR(packed->VerifyRange(i));
  }
  return std::move(w.experts[index]);
}

absl::StatusOr<ModelWeights> LoadWeights(const weights::ModelFiles& files, const ParsedModel& model,
                                         const LoadOptions& options) {
  ModelWeights w;
  TUTTI_ASSIGN_OR_RETURN(const WeightParts parts, FindWeightParts(files, model, &w));
  for (const VectorPart& part : parts.vectors) {
    std::vector<float> all(static_cast<size_t>(part.tensor->NumElements()));
    kernels::DequantizeBlocks(part.tensor->dtype, part.tensor->data.data(),
                              part.tensor->NumElements(), all.data());
    part.out->assign(all.begin() + part.begin, all.begin() + part.begin + part.size);
  }

  const weights::PackedFiles* const packed = files.packed().get();
  const auto source = MakeWeightSource(files);
  std::vector<LoadTask> tasks;
  const bool elsewhere = options.experts != nullptr;
  for (const MatrixPart& part : parts.matrices) {
    if (elsewhere && IsExpertRange(parts.ranges[part.range])) continue;
    // Borrowing costs nothing; what a packed directory costs is the reading of its ranges, below.
    tasks.push_back({packed != nullptr ? 0 : part.stored_bytes, [&source, &part] {
                       auto matrix = source->Get(part);
                       if (matrix.ok()) *part.out = *std::move(matrix);
                       return matrix.status();
                     }});
  }
  for (size_t i = 0; packed != nullptr && i < packed->manifest().ranges.size(); ++i) {
    const std::string& name = packed->manifest().ranges[i].name;
    if (elsewhere && IsExpertRange(name)) continue;
    const bool skipped =
        !model.config.file_layers.empty() &&
        std::find(parts.ranges.begin(), parts.ranges.end(), name) == parts.ranges.end();
    if (skipped) continue;
    tasks.push_back(
        {packed->manifest().ranges[i].bytes, [packed, i] { return packed->VerifyRange(i); }});
  }
  TUTTI_RETURN_IF_ERROR(RunLoadTasks(std::move(tasks), options));
  for (LayerWeights& layer : w.layers) {
    if (elsewhere) layer.moe.experts.clear();
  }
  return w;
}

}  // namespace tutti::model
