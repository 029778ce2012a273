// What makes two models the same: equal fingerprints give equal bits.
#pragma once

#include <cstdint>

#include "shared/base/status.h"
#include "shared/model/config.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

// Of a model's files (ModelFiles::ContentHash), its configuration, the type of its KV cache and the
// version of the numerics contract. Determinism: exact.
uint64_t Fingerprint(uint64_t content_hash, const ModelConfig& config, DType kv_dtype);

// What targets and expert shards must agree on: the same without the KV cache, which shards lack.
uint64_t ExpertFingerprint(uint64_t content_hash, const ModelConfig& config);

// A packed directory must have the fingerprint that it was written with; anything else is OK.
// Errors: FAILED_PRECONDITION
absl::Status CheckPackedFingerprint(const weights::ModelFiles& files, DType kv_dtype,
                                    uint64_t fingerprint);

}  // namespace tutti::model
