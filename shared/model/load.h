// Loads a decoder from a GGUF file, a Hugging Face folder or a packed directory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/thread_pool.h"
#include "shared/model/decoder_model.h"
#include "shared/moe/expert_backend.h"

namespace tutti::model {

struct LoadOptions {
  // Changes the answer (and the fingerprint):
  DType kv_dtype = DType::kF16;  // F16, F32, or Q8_0: half the memory of F16
  int ffn_slices = 0;            // see ModelConfig; a dense model's FFN as experts
  std::string skip_layers;       // layers that are left out (skip_layers.h); empty: none

  // Changes only speed or memory:
  // Where routed experts run: borrowed, must outlive the model. nullptr: in this process; else
  // their weights are not loaded.
  moe::ExpertBackend* experts = nullptr;
  // With `experts`: those that stay in this process, as moe::ExpertSet reads; empty: none.
  std::string local_experts;
  ThreadPool* pool =
      nullptr;  // borrowed, must outlive the model; nullptr: the calling thread alone
  // Called from the loading thread with bytes packed (or verified) so far and in all (progress
  // bar); may be empty.
  std::function<void(size_t done, size_t total)> on_progress;
};

// The KV cache type that a flag or a file calls "f16", "f32" or "q8".
// Errors: INVALID_ARGUMENT  for other names
inline std::vector<std::string> KvTypeNames() { return {"f16", "f32", "q8"}; }
absl::StatusOr<DType> KvTypeFromName(std::string_view name);

// Errors: NOT_FOUND no such path; INVALID_ARGUMENT the file is damaged, a tensor is missing or has
// the wrong shape (the message names it); UNIMPLEMENTED the architecture is not one of the
// families; DATA_LOSS a packed directory is damaged (the message names the place);
// FAILED_PRECONDITION it was packed by a program that gives this model another fingerprint.
absl::StatusOr<std::unique_ptr<DecoderModel>> LoadDecoder(const std::string& path,
                                                          const LoadOptions& options);

}  // namespace tutti::model
