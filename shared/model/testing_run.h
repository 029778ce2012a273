// For tests: what a model says of a fixed prompt.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "shared/model/load.h"
#include "shared/model/single_sequence.h"

namespace tutti::model {

struct ModelRun {
  uint64_t fingerprint = 0;
  std::vector<float> logits;
};

inline absl::StatusOr<ModelRun> RunModel(const std::string& path, const LoadOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(const auto model, LoadDecoder(path, options));
  const std::vector<int32_t> ids = {3, 14, 15, 9, 26};
  TUTTI_ASSIGN_OR_RETURN(std::vector<float> logits, PromptLogits(model.get(), ids));
  return ModelRun{model->info().fingerprint, std::move(logits)};
}

inline bool SameBits(const ModelRun& a, const ModelRun& b) {
  return a.logits.size() == b.logits.size() &&
         std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
}

}  // namespace tutti::model
