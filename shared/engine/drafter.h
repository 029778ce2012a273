// Which tokens are guessed ahead of a sequence, and how many rows they get.
//
// A guess is a hint of a peer, or what followed the same tokens before: in the sequence itself, or
// in recent outputs (speculation/), also past a token that an edited copy changed. A step then runs
// 1 + k rows of the sequence, samples its own token at each, and keeps those up to the first that
// differs from the guess. So a guess can save a step and never change a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "shared/engine/engine.h"
#include "shared/engine/sequence.h"
#include "shared/speculation/draft.h"
#include "shared/speculation/plan.h"
#include "shared/speculation/recent_outputs.h"
#include "shared/speculation/step_cost.h"

namespace tutti::engine {

// Thread safety: none. Determinism: free: how many tokens are guessed depends on measured times;
// which tokens come does not depend on that.
class Drafter {
 public:
  Drafter(const EngineOptions& options, int vocab_size)
      : options_(options), vocab_size_(vocab_size), recent_(RecentTokens(options)) {}

  // Takes note of a hint (Engine::Hint).
  void Hint(Sequence* s, int32_t position, std::span<const int32_t> tokens);

  // Sets `verify` of each: how many tokens of its draft get a row in this step. `base_rows` run
  // anyway; at most `max_rows` are given.
  void Plan(std::span<Sequence* const> decoders, int32_t base_rows, int32_t max_rows);

  // The sequence got tokens from output index `first_index` on: the draft that was there is
  // compared with them.
  void Observe(Sequence* s, size_t first_index);
  // A step without prefill took that long.
  void ObserveStep(int32_t rows, int64_t us) { cost_.Observe(rows, us); }
  // The sequence has ended; others may say the same.
  void Ended(const Sequence& s);

 private:
  static size_t RecentTokens(const EngineOptions& o) {
    return o.ngram_drafts ? static_cast<size_t>(o.recent_output_tokens) : 0;
  }
  void Propose(Sequence* s);
  static void FollowHints(Sequence* s);
  void ProposeHint(Sequence* s, int32_t most);
  void ProposeNgram(Sequence* s, int32_t most);
  // Takes other_ for the draft if it promises more.
  void Offer(Sequence* s);
  float SumOfGains(const Sequence& s, const speculation::Draft& draft) const;
  // Compares the passage that is being copied with the tokens from index `first` on.
  static void FollowCopy(Sequence* s, size_t first);
  float Chance(const Sequence& s, speculation::Kind kind) const;
  // Chances that each token of the draft is reached and right.
  void AppendGains(const Sequence& s);

  const EngineOptions& options_;
  const int vocab_size_;
  speculation::RecentOutputs recent_;
  speculation::Acceptance acceptance_;  // of all sequences
  speculation::StepCost cost_;
  int32_t steps_since_plain_ = 0;
  speculation::Draft other_;    // scratch of Propose
  std::vector<int64_t> nexts_;  // and of ProposeNgram
  std::vector<float> gains_;
  std::vector<speculation::Offer> offers_;
};

}  // namespace tutti::engine
