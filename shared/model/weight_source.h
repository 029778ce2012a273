// Where the packed matrices of a model come from.
#pragma once

#include <memory>

#include "shared/model/weight_parts.h"

namespace tutti::model {

// Thread safety: Get from many threads at once.
// Determinism: exact: both sources give the same bytes of the same model.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Errors: INVALID_ARGUMENT, RESOURCE_EXHAUSTED  name the tensor
  virtual absl::StatusOr<kernels::PackedMatrix> Get(const MatrixPart& part) const = 0;
};

// Of a GGUF file or a Hugging Face folder: packs into memory of this process, letting go of the
// file's pages behind it. Of a packed directory: borrows what lies in the mapped files, unread.
// `files` is borrowed; the matrices do not need it.
std::unique_ptr<WeightSource> MakeWeightSource(const weights::ModelFiles& files);

}  // namespace tutti::model
