// Turns a GGUF model into the same model in another element type.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/quantize/plan.h"
#include "shared/weights/model_files.h"

namespace tutti::quantize {

struct QuantizeOptions {
  // Changes the file:
  PlanOptions types;

  // Changes only speed:
  ThreadPool* pool = nullptr;  // borrowed; nullptr: the calling thread alone
  // Called from the calling thread with bytes of the source done and in all; false ends the run.
  std::function<bool(uint64_t done, uint64_t total)> on_progress;
};

// What became of one tensor.
struct TensorResult {
  std::string name;
  DType from, wanted, to;  // wanted differs from `to` where the rows do not fit (plan.h)
  uint64_t num_elements = 0, bytes = 0;
  // Sums over the elements: of the source, of the change. Both are 0 for a tensor that was copied.
  double squares = 0, squared_error = 0;

  bool copied() const { return from == to; }
  // Root of the mean squared change, relative to that of the source; 0 where nothing changed.
  double RelativeError() const;
};

struct QuantizeResult {
  std::vector<TensorResult> tensors;  // in file order
  uint64_t file_bytes = 0;
};

// Reads `files` and writes `out` (OutputFile: whole or not at all). Metadata is copied byte for
// byte, but for general.file_type and general.quantization_version, which are set. Tensors keep
// their names, shapes and order.
//
// Errors:
//   UNIMPLEMENTED     the model is no GGUF
//   INVALID_ARGUMENT  `out` is the source itself; a weight is not finite, or too large for its type
//                     (the message names the tensor and the element)
//   CANCELLED         on_progress returned false
//   those of OutputFile
//
// Determinism: exact; the file's bytes depend on the source and options.types alone.
// Cost: one pass; memory for a few MB of rows. The source's pages are let go as they are done.
absl::StatusOr<QuantizeResult> QuantizeModel(const weights::ModelFiles& files,
                                             const std::string& out,
                                             const QuantizeOptions& options);

}  // namespace tutti::quantize
