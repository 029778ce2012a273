// What the engine needs of a model: one forward pass over rows of many sequences.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/kv_cache/page_pool.h"

namespace tutti::model {

struct ModelInfo {
  std::string name;          // for people: general.name or the folder's name
  std::string architecture;  // "llama", "qwen3", ...
  uint64_t fingerprint =
      0;  // weights, config, kv dtype, numerics version: equal fingerprints give equal bits
  int vocab_size = 0;
  int context_tokens = 0;  // longest sequence
  int hidden_size = 0;
  std::vector<int32_t> eos_ids;
  kv_cache::PageLayout kv;
  // K and V depend on SequenceSlice::seed too (random second experts): prefixes are shared between
  // sequences of one seed only.
  bool kv_depends_on_seed = false;
  size_t weight_bytes = 0;
};

// Consecutive rows of one sequence in one step.
struct SequenceSlice {
  std::span<const int32_t> tokens;  // [n] n >= 1, ids in [0, vocab_size)
  int32_t first_pos = 0;            // position of tokens[0]; positions before it are in the pages
  std::span<const kv_cache::PageId> pages;  // cover positions [0, first_pos + n)
  int32_t num_logits = 0;                   // logits wanted for the last num_logits rows, 0..n
  uint64_t seed = 0;                        // the request's; see ModelInfo::kv_depends_on_seed
};

struct StepOutput {
  // [sum of num_logits, vocab_size], slices in the order given, rows ascending. Final logits (after
  // any soft cap). The buffer is the caller's and is resized.
  std::vector<float> logits;
  // Filled when want_hidden: [sum of num_logits, hidden_size] after the final norm.
  bool want_hidden = false;
  std::vector<float> hidden;
  // [slices]: OK, or INTERNAL with reason NUMERIC_FAULT naming layer and row. A faulty slice does
  // not touch the others.
  std::vector<absl::Status> slice_status;
  // Also when Forward fails: moe::ExpertBackend::Provenance of the step's experts.
  uint64_t made_by = 0, distrusted = 0;
};

// Thread safety: one Forward at a time.
// Determinism: exact: a slice's logits depend on its own tokens alone, not on the other slices, on
// how the sequence was cut into slices, or on the number of threads.
class DecoderModel {
 public:
  virtual ~DecoderModel() = default;
  virtual const ModelInfo& info() const = 0;

  // Writes K and V of the rows into the pages and computes the wanted logits.
  // Errors: INVALID_ARGUMENT  a token id or position is out of range, or the pages do not cover the
  // rows
  //         of experts that run elsewhere: no slice of the step counts, and K and V of its rows are
  //         to be taken for not written
  virtual absl::Status Forward(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool,
                               StepOutput* out) = 0;
};

}  // namespace tutti::model
