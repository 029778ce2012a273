// A decoder small enough for unit tests and honest about its pages.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "shared/model/decoder_model.h"

namespace tutti::testing {

struct ToyOptions {
  int vocab_size = 64;
  int context_tokens = 512;
  std::vector<int32_t> eos_ids = {1};
  uint64_t seed = 1;         // of the weights
  float sharpness = 6.0f;    // spread of the logits; larger: more peaked
  int32_t fault_token = -1;  // a slice that holds it fails with NUMERIC_FAULT
};

// A fake DecoderModel in two "layers": a position's first record is a hash of (token, position),
// its second one a hash of all first records up to it, and the logits are float arithmetic over a
// hash of all second records. All are read back from the pages, so a wrong page, position or order,
// or content that was not recomputed, changes every later logit bit, as in a real model. Part of
// each logit goes through denormal numbers, so a thread that flushes them shows too.
//
// Forward refuses to write to a page that has other owners.
// Cost: O(position) per row.
class ToyModel : public model::DecoderModel {
 public:
  explicit ToyModel(const ToyOptions& options = {});

  const model::ModelInfo& info() const override { return info_; }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override;

  // Flips one bit of one weight: what silent corruption would do.
  void FlipWeightBit(size_t weight, int bit);
  size_t num_weights() const { return weights_.size(); }

  // Called before each forward (to look at batches, or to fail it).
  std::function<absl::Status(std::span<const model::SequenceSlice>)> on_forward;
  int64_t num_forwards() const { return num_forwards_; }
  int64_t num_rows() const { return num_rows_; }

 private:
  absl::Status ForwardSlice(const model::SequenceSlice& slice, kv_cache::PagePool& pool,
                            float* logits, float* hidden) const;

  ToyOptions options_;
  model::ModelInfo info_;
  std::vector<float> weights_;  // [vocab, kFeatures]
  int64_t num_forwards_ = 0, num_rows_ = 0;
};

// Weights of the same size whose forward passes are unrelated, as two different models are.
std::unique_ptr<ToyModel> MakeToyModel(uint64_t seed);

}  // namespace tutti::testing
