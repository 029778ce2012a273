#include "shared/model/model_weights.h"

#include <algorithm>
#include <map>
#include <set>

#include "shared/model/fingerprint.h"
#include "shared/model/load_tasks.h"
#include "shared/model/weight_parts.h"
#include "shared/model/weight_source.h"
#include "shared/moe/expert_set.h"

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

// Ranges of the experts that run elsewhere.
absl::StatusOr<std::set<std::string>> RangesElsewhere(const ModelConfig& c,
                                                      const LoadOptions& options) {
  std::set<std::string> out;
  if (options.experts == nullptr) {
    if (!options.local_experts.empty())
      return absl::InvalidArgumentError("local_experts: needs experts that run elsewhere");
    return out;
  }
  const auto local =
      moe::ExpertSet::Parse(options.local_experts, c.num_expert_layers(), c.experts_per_layer());
  if (!local.ok()) return Annotate(local.status(), "local_experts");
  int moe_layer = 0;
  for (int i = 0; i < c.num_layers; ++i) {
    if (!c.has_experts(i)) continue;
    for (int e = 0; e < c.experts_per_layer(); ++e) {
      if (!local->Contains(moe_layer, e)) out.insert(ExpertRangeName(c, i, e));
    }
    ++moe_layer;
  }
  return out;
}

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
  ModelWeights w;
  TUTTI_ASSIGN_OR_RETURN(const WeightParts parts, FindWeightParts(*out.files, out.model, &w));
  ExpertDescription& d = out.experts;
  d.name = c.name;
  d.fingerprint = ExpertFingerprint(out.files->ContentHash(), c);
  d.hidden = c.hidden_size;
  d.num_layers = c.num_expert_layers();
  d.experts_per_layer = c.experts_per_layer();
  d.activation = c.activation;
  std::map<std::string, int64_t> bytes_of;  // of the expert of a range
  for (int i = 0; i < c.num_layers; ++i) {
    if (!c.has_experts(i)) continue;
    d.layers.push_back(i);
    d.reads_f32 |= w.layers[static_cast<size_t>(i)].moe.experts_read_f32;
    d.reads_quantized |= w.layers[static_cast<size_t>(i)].moe.experts_read_quantized;
    for (int e = 0; e < d.experts_per_layer; ++e) bytes_of[ExpertRangeName(c, i, e)] = 0;
  }
  for (const MatrixPart& part : parts.matrices) {
    const auto of = bytes_of.find(parts.ranges[part.range]);
    if (of == bytes_of.end()) continue;
    of->second += static_cast<int64_t>(
        kernels::PackedMatrix::PackedBytes(part.dtype(), part.rows, part.cols));
    d.expert_bytes = std::max(d.expert_bytes, of->second);
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
  const auto source = MakeWeightSource(files);
  for (const MatrixPart& part : parts.matrices) {
    if (part.range != index) continue;
    TUTTI_ASSIGN_OR_RETURN(*part.out, source->Get(part));
  }
  // Slices lie in the range of the whole.
  const std::string range =
      model.config.ffn_slices > 0 ? FfnRangeName(model.config, layer) : parts.ranges[index];
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
  TUTTI_ASSIGN_OR_RETURN(const std::set<std::string> elsewhere,
                         RangesElsewhere(model.config, options));
  for (const MatrixPart& part : parts.matrices) {
    if (elsewhere.contains(parts.ranges[part.range])) continue;
    // Borrowing costs nothing; what a packed directory costs is the reading of its ranges, below.
    tasks.push_back({packed != nullptr ? 0 : part.stored_bytes, [&source, &part] {
                       auto matrix = source->Get(part);
                       if (matrix.ok()) *part.out = *std::move(matrix);
                       return matrix.status();
                     }});
  }
  // FFNs of which no slice is here.
  std::set<std::string> sliced_elsewhere;
  const ModelConfig& c = model.config;
  for (int l = 0; c.ffn_slices > 0 && l < c.num_layers; ++l) {
    bool all = true;
    for (int s = 0; s < c.ffn_slices; ++s) all &= elsewhere.contains(ExpertRangeName(c, l, s));
    if (all) sliced_elsewhere.insert(FfnRangeName(c, l));
  }
  for (size_t i = 0; packed != nullptr && i < packed->manifest().ranges.size(); ++i) {
    const std::string& name = packed->manifest().ranges[i].name;
    if (elsewhere.contains(name)) continue;
    const bool skipped =
        !model.config.file_layers.empty() &&
        std::find(parts.ranges.begin(), parts.ranges.end(), name) == parts.ranges.end();
    if (skipped) continue;
    if (sliced_elsewhere.contains(name)) {
      tasks.push_back({0, [packed, i] { return packed->VerifyVectors(i); }});
      continue;
    }
    tasks.push_back(
        {packed->manifest().ranges[i].bytes, [packed, i] { return packed->VerifyRange(i); }});
  }
  TUTTI_RETURN_IF_ERROR(RunLoadTasks(std::move(tasks), options));
  for (LayerWeights& layer : w.layers) {
    const auto is_here = [](const FfnWeights& e) { return e.up.weight.rows() > 0; };
    std::vector<FfnWeights>& experts = layer.moe.experts;
    if (std::none_of(experts.begin(), experts.end(), is_here)) experts.clear();
  }
  return w;
}

}  // namespace tutti::model
