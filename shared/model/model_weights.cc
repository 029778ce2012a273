#include "shared/model/model_weights.h"

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
  }
  return sum;
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
  for (const MatrixPart& part : parts.matrices) {
    // Borrowing costs nothing; what a packed directory costs is the reading of its ranges, below.
    tasks.push_back({packed != nullptr ? 0 : part.stored_bytes, [&source, &part] {
                       auto matrix = source->Get(part);
                       if (matrix.ok()) *part.out = *std::move(matrix);
                       return matrix.status();
                     }});
  }
  for (size_t i = 0; packed != nullptr && i < packed->manifest().ranges.size(); ++i) {
    tasks.push_back(
        {packed->manifest().ranges[i].bytes, [packed, i] { return packed->VerifyRange(i); }});
  }
  TUTTI_RETURN_IF_ERROR(RunLoadTasks(std::move(tasks), options));
  return w;
}

}  // namespace tutti::model
