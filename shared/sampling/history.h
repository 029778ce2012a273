// The tokens of a sequence, with what the penalties need to know about them.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "shared/sampling/params.h"

namespace tutti::sampling {

// Grows by one token at a time; the counts are kept up to date rather than counted again at each
// step. Copyable (beams fork).
class TokenHistory {
 public:
  TokenHistory() = default;
  // Counts are kept only when `params` has a penalty.
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  void Append(int32_t token);
  // Forgets all output but the first `num_output` tokens. REQUIRES: there are as many.
  void Truncate(size_t num_output);

  std::span<const int32_t> tokens() const { return tokens_; }  // prompt, then output
  std::span<const int32_t> output() const { return std::span(tokens_).subspan(num_prompt_); }
  size_t num_prompt() const { return num_prompt_; }
  size_t num_output() const { return tokens_.size() - num_prompt_; }

  // Every distinct token with its count in the output (0: in the prompt alone). Empty without
  // penalties.
  const std::unordered_map<int32_t, int32_t>& output_counts() const { return output_counts_; }

 private:
  std::vector<int32_t> tokens_;
  size_t num_prompt_ = 0;
  bool counting_ = false;
  std::unordered_map<int32_t, int32_t> output_counts_;
};

}  // namespace tutti::sampling
