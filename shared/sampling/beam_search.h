// Beam search over one prompt, as transformers' `generate(num_beams=...)` does it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/sampling/history.h"
#include "shared/sampling/params.h"

namespace tutti::sampling {

struct Hypothesis {
  std::vector<int32_t> token_ids;  // output; ends with the end token when it met one
  float score = 0;                 // sum of logprobs / length ^ length_penalty
};

// Holds the running beams and the finished ones; knows no model. Each step it wants one row of
// logits per running beam and says which beams go on from which.
//
// Of the max(2, 1 + end tokens) * num_beams best continuations, those that end are finished if they
// are among the first num_beams; the best num_beams others run on. The search ends when no running
// beam can beat the worst of num_beams finished ones (early_stopping: as soon as there are that
// many), or at max_tokens, where all that run are finished.
//
// Determinism: exact; ties go to the lower (beam, token id).
class BeamSearch {
 public:
  // `max_tokens` >= 1 replaces params.max_tokens (it was cut to the context). End tokens: `eos_ids`
  // unless ignore_eos, and stop_ids.
  BeamSearch(const SamplingParams& params, std::span<const int32_t> eos_ids, int32_t max_tokens,
             std::span<const int32_t> prompt);

  // Beams that want a row: 1 (the prompt) before the first step, later at most num_beams.
  size_t num_running() const { return running_.size(); }
  // The whole token list (prompt and output) of a running beam.
  std::span<const int32_t> tokens(size_t beam) const { return running_[beam].history.tokens(); }

  // One step. logits [num_running(), vocab], raw. Returns, for each beam that now runs, the index
  // of the beam that it continues; empty when the search is done. REQUIRES: !done().
  std::vector<int32_t> Step(std::span<const float> logits);

  bool done() const { return done_; }
  // True when the best hypothesis ended with an end token rather than at max_tokens.
  bool best_met_end() const;
  // The finished hypotheses, best first, at most num_return.
  std::vector<Hypothesis> Best() const;

 private:
  struct Running {
    TokenHistory history;
    float sum = 0;
  };
  struct Finished {
    Hypothesis hypothesis;
    bool met_end = false;
  };
  float Score(float sum, size_t length) const;
  void Finish(std::vector<int32_t> output, float sum, bool met_end);

  SamplingParams params_;
  std::vector<int32_t> eos_ids_;  // for the min_tokens mask
  std::vector<int32_t> end_ids_;  // sorted
  size_t max_tokens_ = 0;
  size_t length_ = 0;               // output tokens of every running beam
  std::vector<Running> running_;    // best first
  std::vector<Finished> finished_;  // best first, at most num_beams
  bool done_ = false;
};

}  // namespace tutti::sampling
