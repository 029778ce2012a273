// The state of one live sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "shared/engine/engine.h"
#include "shared/engine/lane.h"
#include "shared/engine/verification.h"
#include "shared/sampling/beam_search.h"
#include "shared/sampling/history.h"
#include "shared/speculation/draft.h"
#include "shared/speculation/ngram_index.h"

namespace tutti::engine {

// What is guessed of a sequence's next tokens (drafter.h).
struct Speculation {
  bool allowed = true;        // false: a guess led to a fault that may not be the sequence's own
  std::vector<int32_t> hint;  // of a peer, from output index hint_first on
  int32_t hint_first = 0;
  // What a hint had said beyond a token that came otherwise, from output index stale_first on: two
  // texts that part for a word often go on alike, and what the peer says now is on its way yet.
  std::vector<int32_t> stale;
  int32_t stale_first = 0;
  int32_t stale_agreed = 0, stale_misses = 0;  // tokens in a row since then; mistakes lately
  speculation::NgramIndex ngrams;              // over prompt and output
  // A passage that is being copied: tokens()[copy.next] is what comes next if it goes on, also
  // after a token that was changed on the way.
  struct Copy {
    int64_t next = -1;   // -1: none
    int32_t agreed = 0;  // tokens in a row
    int32_t misses = 0;  // lately
  } copy;
  int64_t copied_to = -1;  // where the last such passage ended so far; -1: none yet
  speculation::SequenceOdds odds;
  speculation::Draft draft;   // what may come next; of this step
  int32_t verify = 0;         // tokens of it that get a row
  std::vector<int32_t> rows;  // the last token and those: input of the forward
};

// Everything but `lanes` and `beams` survives a preemption.
struct Sequence {
  SequenceRequest request;         // prompt and generated moved into `history`
  uint64_t arrival = 0;            // order of Submit; kept over preemptions
  int32_t max_output = 0;          // max_tokens, cut to the context
  sampling::TokenHistory history;  // prompt and output
  uint64_t digest = 0;
  std::optional<sampling::BeamSearch> beams;
  std::vector<Lane> lanes = std::vector<Lane>(1);
  uint64_t kv_seed = 0;  // the request's where K and V depend on it, else 0

  // Shards with which its pages were made and its tokens sampled (distrust.cc).
  uint64_t made_by = 0;
  bool distrusted = false;  // what it said may be wrong, by this engine's own fault

  Verification verification;  // of output that was not computed here
  bool complete = false;      // a resume whose output is all there: nothing is sampled

  bool wants_prompt_logprobs = false;
  bool prompt_reported = false;
  std::vector<TokenOutput> prompt_tokens;  // of positions 0, 1, ... so far

  // Of a draft (request.lookahead > 0): output that is known to be right, and whether it has to
  // wait for more of it.
  int32_t confirmed = 0;
  uint64_t epoch = 0;
  bool paused = false;

  bool running = false;
  uint64_t last_step = 0;       // last step that had rows of it
  uint64_t looked_at_step = 0;  // last step in which it was a candidate to run
  Speculation speculation;
  Usage usage;
  bool admitted_before = false, sampled_before = false;
  int64_t submit_us = 0, admit_us = 0, first_token_us = 0;

  bool is_draft() const { return request.lookahead > 0; }
  int32_t num_prompt() const { return static_cast<int32_t>(history.num_prompt()); }
  std::span<const int32_t> tokens(size_t lane) const {
    return beams ? beams->tokens(lane) : history.tokens();
  }

  // Nothing is sampled after the last row: a prompt is scored, or complete output verified.
  bool ends_at_goal() const { return max_output == 0 || complete; }
  // Positions whose rows must be run before anything can be sampled; without sampling the last one
  // is not needed.
  int32_t goal() const { return static_cast<int32_t>(tokens(0).size()) - (ends_at_goal() ? 1 : 0); }
  int32_t num_remaining() const { return goal() - lanes[0].computed; }

  // The first position whose row must give logits for a prompt logprob: row p scores token p + 1.
  // goal() or more when none is left.
  bool scoring_prompt() const {
    return wants_prompt_logprobs && static_cast<int32_t>(prompt_tokens.size()) < num_prompt();
  }
  int32_t first_scored_row() const { return static_cast<int32_t>(prompt_tokens.size()) - 1; }

  // The row that verifies the next output token: row num_prompt() - 1 gives the first one.
  bool verifying() const { return verification.active(); }
  int32_t first_verified_row() const { return num_prompt() - 1 + verification.num_verified(); }

  // The first row whose logits are needed, and so has to be run here; goal() - 1 when only the last
  // one is.
  bool needs_many_logits() const { return scoring_prompt() || verifying(); }
  int32_t first_logits_row() const {
    return scoring_prompt() ? first_scored_row() : verifying() ? first_verified_row() : goal() - 1;
  }
};

// Who goes first: higher priority, then earlier arrival.
inline bool Before(const Sequence& a, const Sequence& b) {
  if (a.request.priority != b.request.priority) return a.request.priority > b.request.priority;
  return a.arrival < b.arrival;
}
struct BeforeOrder {
  bool operator()(const Sequence* a, const Sequence* b) const { return Before(*a, *b); }
};

}  // namespace tutti::engine
