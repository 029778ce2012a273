// Experts of a model read from its file when they are wanted and let go again: what a target asks
// when its shards differ.
#pragma once

#include <vector>

#include "shared/model/local_experts.h"
#include "shared/model/model_weights.h"

namespace tutti::model {

// Holds no weights between calls. Cost of a call: reading and packing each expert of the batch,
// some ms for a small model, a second for experts of several 100 MB.
//
// Thread safety: one Run at a time. Determinism: exact, the bits of LocalExperts.
class FileExperts {
 public:
  explicit FileExperts(ExpertFiles files);

  // All pairs of the batch, to `out` [pairs, hidden] as moe::ExpertBackend::Start says. In the
  // calling thread. Errors: as LoadExpert
  absl::Status Run(const moe::ExpertBatch& batch, float* out);

 private:
  std::vector<const std::vector<FfnWeights>*> Layers() const;

  const ExpertFiles files_;
  const Exec exec_;
  std::vector<std::vector<FfnWeights>> layers_;  // [moe layers, experts], empty between calls
  LocalExperts experts_;
};

}  // namespace tutti::model
