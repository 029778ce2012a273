// From model files to a ModelConfig: which family they are, and what their keys and tensors are
// called.
#pragma once

#include <string>
#include <vector>

#include "shared/model/config.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

struct ParsedModel {
  ModelConfig config;  // Validate() was OK
  TensorNames names;
};

// Errors: INVALID_ARGUMENT  a key is missing, has the wrong type or a wild value, or dimensions
// disagree
//                           with the embedding tensor; names it
//         UNIMPLEMENTED     the architecture or an option is not one that is built here; names it
absl::StatusOr<ParsedModel> ParseModel(const weights::ModelFiles& files);

// The names that `ParseModel` knows, for messages: "gemma2", "llama", ...
std::vector<std::string> KnownArchitectures(weights::Format format);

}  // namespace tutti::model
