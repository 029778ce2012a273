// Makes a mixture of experts out of a dense model: sparse upcycling (Komatsuzaki et al.,
// arXiv:2212.05055).
//
// Each layer's feed-forward network becomes `num_experts` copies of itself behind a router. In the
// paper the router starts at random and training makes the experts differ; here nothing is trained.
// The router's rows are the centers of a clustering of what the layer reads (router_rows.h), so
// that it sends kinds of rows to experts from the first token on, and the experts differ by the
// noise that they are given. Without noise the mixture computes what the dense model does, since
// the weights of the chosen experts sum to 1: to the bit with top_k = 1, else up to the rounding
// of those weights.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/upcycle/ffn_inputs.h"
#include "shared/weights/model_files.h"

namespace tutti::upcycle {

struct UpcycleOptions {
  // Changes the file:
  int num_experts = 8;  // in [1, kExpertsMax]
  int top_k = 2;        // experts of a token; in [1, num_experts]
  // Every weight of an expert gets a normal random number times `noise` times the root mean square
  // of its row, and is stored in the type that it had. 0: experts are copies, bit for bit.
  double noise = 0;  // in [0, 1]
  // GShard's options (moe/drops.h), kept in the file as tutti.moe.second_expert and
  // .capacity_factor.
  bool random_second = false;  // needs top_k = 2
  double capacity_factor = 0;  // 0: no limit
  uint64_t seed = 0;
  std::span<const Text> texts;  // what the routers are made from

  // Changes only speed:
  ThreadPool* pool = nullptr;  // borrowed; nullptr: the calling thread alone
  // Called from the calling thread; `stage` is "reading texts", "clustering" or "writing". false
  // ends the run.
  std::function<bool(std::string_view stage, uint64_t done, uint64_t total)> on_progress;
};
inline constexpr int kExpertsMax = 256;

struct UpcycleResult {
  int num_layers = 0;
  int64_t rows = 0;  // of every layer that were clustered
  uint64_t file_bytes = 0;
  // Root mean square of the experts' change, relative to that of the weights: about `noise`, more
  // or less as the type rounds. 0 without noise.
  double relative_change = 0;
};

// Whether `files` can be upcycled.
// Errors: UNIMPLEMENTED        no GGUF file, or not of the architecture "llama"
//         FAILED_PRECONDITION  it is a mixture already
//         INVALID_ARGUMENT     a feed-forward tensor is missing, or has a bias
absl::Status CheckDense(const weights::ModelFiles& files);

// Reads `files` and writes `out` (OutputFile: whole or not at all), a GGUF file of the architecture
// "llama" with experts. All other tensors and metadata are copied, but for the name, which says
// what was made.
//
// Errors: those of CheckDense, CollectFfnInputs, MakeRouterRows, OutputFile
//         INVALID_ARGUMENT  an option is out of range; `out` is the source itself; a weight is not
//                           finite, or too large for its type with its noise
//         CANCELLED         on_progress returned false
//
// Determinism: exact; the file's bytes depend on the source and the first group of options alone.
// Cost: a pass over the texts, then num_experts times the source's FFN written; with noise 0.05 to
// 0.4 us of processor time per weight. Memory: the model, layers * tokens * hidden floats, and one
// tensor with its encodings.
absl::StatusOr<UpcycleResult> UpcycleModel(const weights::ModelFiles& files, const std::string& out,
                                           const UpcycleOptions& options);

}  // namespace tutti::upcycle
