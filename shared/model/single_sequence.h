// One sequence in pages of its own: for tools, tests and benchmarks that need no engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "shared/base/status.h"
#include "shared/kv_cache/page_pool.h"
#include "shared/model/decoder_model.h"

namespace tutti::model {

// Borrows the model, which must outlive it. Thread safety: none.
class SingleSequence {
 public:
  // Room for `max_tokens` positions, at least 1 and at most the model's context.
  // Errors: INVALID_ARGUMENT  max_tokens is out of range
  static absl::StatusOr<std::unique_ptr<SingleSequence>> Create(DecoderModel* model,
                                                                int64_t max_tokens);

  // Runs `tokens` after what is there. Returns the logits [num_logits, vocab_size] of the last
  // `num_logits` of them, valid until the next call.
  // Errors: those of DecoderModel::Forward and of the slice
  absl::StatusOr<std::span<const float>> Append(std::span<const int32_t> tokens,
                                                int32_t num_logits);
  // Forgets everything from position `length` on.
  void Truncate(int32_t length) { length_ = length < length_ ? length : length_; }
  int32_t length() const { return length_; }

  // The request's seed, for models whose mixtures choose by chance.
  void set_seed(uint64_t seed) { seed_ = seed; }

  // Fills `hidden` with the next Append ([num_logits, hidden_size], after the final norm).
  void set_want_hidden(bool want) { output_.want_hidden = want; }
  std::span<const float> hidden() const { return output_.hidden; }

 private:
  SingleSequence(DecoderModel* model, int32_t num_pages);

  DecoderModel* model_;
  kv_cache::PagePool pool_;
  std::vector<kv_cache::PageId> pages_;
  StepOutput output_;
  int32_t length_ = 0;
  uint64_t seed_ = 0;
};

// Called with logits [rows, vocab_size] of positions [first, first + rows), ascending; an error
// ends the run and is returned.
using LogitsSink = std::function<absl::Status(int32_t first, std::span<const float> logits)>;

// Logits at every position of `ids`, a chunk of `chunk_tokens` at a time, so that memory stays at
// one chunk's. What `tutti logits` and `tutti perplexity` print. Errors: INVALID_ARGUMENT  no ids,
// more than the context, or an id out of range Determinism: exact; `chunk_tokens` changes only
// speed and memory.
absl::Status ForEachPromptLogits(DecoderModel* model, std::span<const int32_t> ids,
                                 const LogitsSink& sink, int32_t chunk_tokens = 64);

// The same in one array [ids, vocab_size].
absl::StatusOr<std::vector<float>> PromptLogits(DecoderModel* model, std::span<const int32_t> ids,
                                                int32_t chunk_tokens = 64);

}  // namespace tutti::model
