#include "shared/sampling/params.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "shared/base/limits.h"
#include "shared/sampling/ranges.h"

namespace tutti::sampling {

namespace {

using limits::kMaxBeams;
using limits::kMaxLogitBias;
using limits::kMaxLogprobs;
using limits::kMaxStopIds;

absl::Status OutOfRange(const char* field, double value, const char* range) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must be %s", field, value, range));
}

absl::Status NeedsNoBeams(const char* field) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s cannot be used with num_beams > 1: beam search draws no samples", field));
}

absl::Status ValidateBeams(const SamplingParams& p) {
  if (p.num_beams < 1 || p.num_beams > kMaxBeams)
    return OutOfRange("num_beams", p.num_beams, "in [1, 64]");
  if (p.num_return < 1 || p.num_return > p.num_beams) {
    return OutOfRange("num_return", p.num_return, "in [1, num_beams]");
  }
  if (p.num_beams == 1) return absl::OkStatus();
  if (p.temperature != 0.0f && p.temperature != 1.0f)
    return NeedsNoBeams("temperature (other than 0 or 1)");
  if (p.top_k != 0) return NeedsNoBeams("top_k");
  if (p.top_p != 1.0f) return NeedsNoBeams("top_p");
  if (p.min_p != 0.0f) return NeedsNoBeams("min_p");
  if (p.typical_p != 1.0f) return NeedsNoBeams("typical_p");
  if (p.logprobs >= 0) return NeedsNoBeams("logprobs");
  return absl::OkStatus();
}

}  // namespace

absl::Status SamplingParams::Validate(int vocab_size) const {
  for (const Range& range : Ranges()) {
    if (!range.Holds(this->*range.field))
      return OutOfRange(range.name.data(), this->*range.field, range.Text().c_str());
  }
  if (top_k < 0) return OutOfRange("top_k", top_k, "0 (all) or more");
  if (no_repeat_ngram_size < 0)
    return OutOfRange("no_repeat_ngram_size", no_repeat_ngram_size, "0 (off) or more");
  if (max_tokens < 0) return OutOfRange("max_tokens", max_tokens, "0 or more");
  if (min_tokens < 0 || min_tokens > max_tokens)
    return OutOfRange("min_tokens", min_tokens, "in [0, max_tokens]");
  if (logprobs < -1 || logprobs > kMaxLogprobs)
    return OutOfRange("logprobs", logprobs, "-1 (none) or in [0, 20]");
  if (prompt_logprobs < -1 || prompt_logprobs > kMaxLogprobs) {
    return OutOfRange("prompt_logprobs", prompt_logprobs, "-1 (none) or in [0, 20]");
  }

  if (logit_bias.size() > kMaxLogitBias) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "logit_bias has %d entries; at most %d are allowed", logit_bias.size(), kMaxLogitBias));
  }
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("logit_bias names token id %d; ids are in [0, %d)", id, vocab_size));
    }
    if (!(std::fabs(bias) <= 100.0f)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("logit_bias of token id %d is %g; it must be in [-100, 100]", id, bias));
    }
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  if (const auto twice = std::adjacent_find(ids.begin(), ids.end()); twice != ids.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("logit_bias names token id %d twice", *twice));
  }

  if (stop_ids.size() > kMaxStopIds) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "stop_ids has %d entries; at most %d are allowed", stop_ids.size(), kMaxStopIds));
  }
  for (int32_t id : stop_ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stop_ids names token id %d; ids are in [0, %d)", id, vocab_size));
    }
  }
  return ValidateBeams(*this);
}

}  // namespace tutti::sampling
