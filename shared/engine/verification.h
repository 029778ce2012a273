// The check of output that this engine was given, or computed with pages that are gone.
//
// A resume gives output tokens and their digests. The engine computes the logits of those positions
// again, samples its own token at each and rebuilds the digest chain. The first token or digest
// that differs ends the sequence with DATA_LOSS (reason RESUME_MISMATCH): either the giver or this
// engine is wrong, and the caller finds out which.
//
// Which positions are computed again: all from the page of the last prompt token on. Pages before
// it may come from the prefix cache, since K and V alone are needed of them; a wrong page there
// shows as other logits.
//
// A preemption keeps what is verified already: those rows were computed here. Beam search and
// drafts are never verified: a beam search starts over, and a draft's output is checked by its
// target.
//
// Thread safety: none. Determinism: exact.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/sampling/history.h"
#include "shared/sampling/params.h"
#include "shared/sampling/sampler.h"

namespace tutti::engine {

class Verification {
 public:
  Verification() = default;  // nothing to verify

  // The first `count` output tokens are to be verified, from the first on.
  //   digest   the chain after the last of them
  //   digests  the chain after each of them, or empty: then a difference that changes no token is
  //            found at the last one
  void Start(const sampling::SamplingParams& params, std::span<const int32_t> prompt, int32_t count,
             uint64_t digest, std::vector<uint64_t> digests);
  // The same again: what was verified has to be computed with other pages.
  void Restart();

  bool active() const { return num_verified_ < count_; }
  int32_t num_verified() const { return num_verified_; }

  // The logits of the next position, whose token is said to be `token`.
  // Errors: DATA_LOSS, reason RESUME_MISMATCH, naming the index
  // REQUIRES: active()
  absl::Status Next(const sampling::SamplingParams& params, std::span<const int32_t> eos_ids,
                    int32_t token, std::span<const float> logits, sampling::Scratch* scratch);

 private:
  int32_t count_ = 0, num_verified_ = 0;
  uint64_t want_ = 0;               // after the last one
  std::vector<uint64_t> wanted_;    // after each
  uint64_t digest_ = 0;             // rebuilt so far
  sampling::TokenHistory history_;  // prompt and what is verified
};

// What Next says of a mismatch, and what a reader takes it for.
inline constexpr std::string_view kResumeMismatch = "RESUME_MISMATCH";

}  // namespace tutti::engine
