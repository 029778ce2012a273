// Writes a model as a packed directory (docs/decisions/0095), and proves one whole.
#pragma once

#include <functional>
#include <string>

#include "shared/model/load.h"

namespace tutti::model {

struct PackOptions {
  std::string source;    // a GGUF file or a Hugging Face folder
  std::string out;       // the directory to write
  bool replace = false;  // a packed directory that stands at `out` goes; anything else never does
  ThreadPool* pool = nullptr;  // borrowed; nullptr: the calling thread alone
  // With the source's bytes packed so far and in all; may be empty.
  std::function<void(size_t done, size_t total)> on_progress;
  // Asked between ranges; true: CANCELLED, and nothing is left behind. May be empty.
  std::function<bool()> cancelled;
};

struct PackedSummary {
  std::string name;
  uint64_t fingerprint = 0;  // with F16 caches
  size_t num_ranges = 0, num_tensors = 0;
  uint64_t data_bytes = 0;
};

// Determinism: exact: the bytes depend on the source's alone. Memory: one range (a layer's FFN, or
// the embedding) at a time.
// Errors: as LoadDecoder for the source; ALREADY_EXISTS, FAILED_PRECONDITION  something stands at
// `out`; CANCELLED; and those of writing, which name the file.
absl::StatusOr<PackedSummary> PackModel(const PackOptions& options);

// Checks every byte of a packed directory: manifest, files, ranges, tensors, and that a model can
// be made of them. Errors: INVALID_ARGUMENT  not a packed directory; as LoadDecoder
absl::StatusOr<PackedSummary> VerifyPackedModel(const std::string& path,
                                                const LoadOptions& options);

}  // namespace tutti::model
