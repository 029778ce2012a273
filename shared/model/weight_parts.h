// Which pieces of a model's files make up its weights. One walk over the model, which checks that
// every tensor is there with the right shape; loading and packing go through its lists.
#pragma once

#include <string>
#include <vector>

#include "shared/model/model_weights.h"
#include "shared/model/registry.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

// Rows [row_begin, row_begin + rows) of a stored matrix.
struct MatrixPart {
  const weights::TensorInfo* tensor;
  int64_t row_begin, rows, cols;
  bool transposed;  // stored [cols, all rows], from col_begin on
  kernels::PackedMatrix* out;
  size_t stored_bytes;                     // in the source's file
  size_t range;                            // index into WeightParts::ranges
  int64_t col_begin = 0, stored_cols = 0;  // of slices: columns [col_begin, col_begin + cols)
  bool slice = false;                      // of a matrix that a packed directory has whole

  // What is packed: a transposed part of a quantised matrix, whose blocks run the wrong way, is
  // widened.
  DType dtype() const {
    return transposed && Traits(tensor->dtype).quantized ? DType::kF32 : tensor->dtype;
  }
  // Its first row in the stored tensor: a packed directory knows it by name and this. A transposed
  // part is either some of the columns of a whole matrix, or all columns of rows from col_begin on.
  int64_t first_stored_row() const { return transposed ? row_begin + col_begin : row_begin; }
};

// Elements [begin, begin + size) of a stored vector.
struct VectorPart {
  const weights::TensorInfo* tensor;
  int64_t begin, size;
  std::vector<float>* out;
  size_t range;
};

// In the order in which a forward pass needs them.
struct WeightParts {
  // What a packed directory keeps together: "embedding", "layers.3.attention", "layers.3.ffn",
  // "layers.3.experts.5", ...
  std::vector<std::string> ranges;
  std::vector<MatrixPart> matrices;
  std::vector<VectorPart> vectors;
};

// The range of one routed expert, or slice, of a layer.
std::string ExpertRangeName(const ModelConfig& config, int layer, int64_t expert);
// That of its FFN: norms, and all of a dense one.
std::string FfnRangeName(const ModelConfig& config, int layer);

// The parts point into `files` and into `weights`, which gets its layers here.
// Errors: INVALID_ARGUMENT  names a tensor that is missing, or has the wrong shape or type
absl::StatusOr<WeightParts> FindWeightParts(const weights::ModelFiles& files,
                                            const ParsedModel& model, ModelWeights* weights);
// The routed experts (or slices) of one layer alone: ranges[e] is that of expert e.
absl::StatusOr<WeightParts> FindExpertParts(const weights::ModelFiles& files,
                                            const ParsedModel& model, int layer,
                                            MoeWeights* weights);

}  // namespace tutti::model
