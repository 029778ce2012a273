// What a client may ask of the choice of tokens.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/status.h"

namespace tutti::sampling {

// Every field changes the answer, except where the comment says otherwise.
// Order of processing (docs/determinism.md): logit_bias, no_repeat_ngram, repetition penalty,
// presence and frequency penalties, temperature, top_k, top_p, min_p, typical_p.
struct SamplingParams {
  uint64_t seed = 0;                // the router draws one when the client gave none
  uint32_t sample_index = 0;        // choice of an n > 1 request: its own noise under the same seed
  float temperature = 1.0f;         // 0: the largest logit (greedy)
  int32_t top_k = 0;                // 0: all; ties at the border stay
  float top_p = 1.0f;               // (0, 1]: smallest set that reaches it
  float min_p = 0.0f;               // [0, 1): of the largest probability
  float typical_p = 1.0f;           // (0, 1]
  float repetition_penalty = 1.0f;  // > 0; over prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]; over output
  float frequency_penalty = 0.0f;   // [-2, 2]; over output
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token id, bias in [-100, 100])
  int32_t no_repeat_ngram_size = 0;                   // 0: off

  int32_t max_tokens = 16;  // output tokens; >= 0 (0 scores the prompt only)
  int32_t min_tokens = 0;   // eos and stop ids are masked before that many
  bool ignore_eos = false;
  std::vector<int32_t>
      stop_ids;  // besides the model's eos; the token is part of token_ids, not of the text

  // Only what is reported:
  int32_t logprobs = -1;  // -1: none; else logprob of each token and this many alternatives, <= 20
  int32_t prompt_logprobs = -1;  // the same for prompt tokens (the first has none)

  // Beam search; num_beams > 1 switches it on and needs temperature 0 or unset semantics (no
  // noise).
  int32_t num_beams = 1;
  int32_t num_return = 1;       // best beams reported, <= num_beams
  float length_penalty = 1.0f;  // score = sum of logprobs / length ^ length_penalty
  bool early_stopping = false;  // stop as soon as num_beams hypotheses are complete

  // Errors: INVALID_ARGUMENT naming the field, its value and its range (also NaN and infinity).
  absl::Status Validate(int vocab_size) const;
};

}  // namespace tutti::sampling
