// The decode engine: continuous batching over one model.
//
// A state machine without I/O, threads or clock: the caller hands in time and calls Step. The
// target service drives it from one thread, `tutti generate --model` from main, the simulator from
// a seed.
//
// Determinism: exact: the tokens, logprob bits and digest of a sequence depend on its prompt and
// parameters alone, not on the batch, chunking, prefix cache, preemption, or a resume.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/model/decoder_model.h"
#include "shared/sampling/params.h"

namespace tutti::engine {

struct EngineOptions {
  // Changes only speed or memory:
  int32_t num_pages =
      0;  // KV pages of 16 tokens; 0: enough for 2 full contexts, at most 1/2 of free memory
  int32_t max_batch_tokens = 512;  // rows of one step
  int32_t prefill_chunk_tokens =
      256;                    // rows of one sequence's prefill in one step; 0: whole prompt
  int32_t max_running = 64;   // sequences that hold pages
  int32_t max_waiting = 256;  // queue behind them; a full one refuses
  // Changes only what is refused. A sequence that comes when by the measured rate it would wait
  // longer than start_within_us for its place, behind a queue of a quarter of max_running, is
  // refused at once; one that waited max_queue_us without a place is refused then. 0: no bound. A
  // resume is never refused so.
  int64_t start_within_us = 0, max_queue_us = 0;
  bool prefix_cache = true;
  ThreadPool* pool = nullptr;  // borrowed: sequences are sampled in parallel; null: one by one
  // Speculation (drafter.h): tokens guessed and verified for a sequence in one step; 0: none, and
  // hints are dropped.
  int32_t max_draft_tokens = 15;
  bool ngram_drafts = false;  // guess what followed the same tokens before, besides hints
  int32_t recent_output_tokens = 1 << 16;  // of all clients, where such tokens are looked for, too
  bool adapt_drafts = true;  // as many as pay by measured acceptance and time; false: all
  // Read after each forward for the durations in Usage, and at the end of a step for what it cost;
  // empty: the `now_us` of the step.
  std::function<int64_t()> clock_us;
};

using SequenceId = uint64_t;

struct SequenceRequest {
  SequenceId id = 0;            // the caller's, unique among live sequences
  std::vector<int32_t> prompt;  // >= 1 token
  // A resume: what was already produced, and the digest after it. Penalties and logprobs count
  // these as output; they are prefilled, not sampled again. Prompt logprobs are not reported
  // again. A beam search emits nothing before its end, so it starts over and has none here.
  // A target computes them again and verifies them first (verification.h); one that differs ends
  // the sequence with DATA_LOSS, reason RESUME_MISMATCH. Output that is complete is verified all
  // the same, and then ends without a further token.
  std::vector<int32_t> generated;
  uint64_t digest = 0;
  std::vector<uint64_t> digests;  // after each of `generated`; empty: not known
  sampling::SamplingParams params;
  int32_t priority = 0;  // higher first
  uint64_t client = 0;   // of one priority, the client that had least goes first (fair_share.h)
  // Sequences of one request have the same: a client's places are shared among its requests
  // (places.h).
  uint64_t group = 0;
  // A draft, which runs ahead of another engine with the same request: as many tokens past the last
  // confirmed one (Confirm), no end of its own, no digests. 0: no draft.
  int32_t lookahead = 0;
  int64_t deadline_us = 0;  // on the caller's clock; 0: none
};

struct TopLogprob {
  int32_t token_id = 0;
  float logprob = 0;
};
// One output (or, for prompt logprobs, prompt) token.
struct TokenOutput {
  int32_t token_id = 0;
  float logprob = 0;            // log-softmax of the raw logits; NaN for the first prompt token
  std::vector<TopLogprob> top;  // best first, ties to the lower id
  uint64_t digest = 0;          // chain up to and including this position; 0 for prompt tokens
};

enum class FinishReason { kNone, kEos, kStopId, kLength, kCancelled, kDeadline, kError };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt, found in the prefix cache
  int32_t output_tokens = 0;  // all output, including `generated` of a resume
  int32_t preemptions = 0;
  int32_t proposed_tokens = 0, accepted_tokens = 0;  // guessed and verified; and right
  int32_t accepted_hint_tokens = 0;                  // of those, guessed by a hint
  int64_t queue_us = 0, prefill_us = 0, decode_us = 0;
};

struct Beam {
  std::vector<int32_t> token_ids;
  float score = 0;
};

// What a step produced for one sequence.
struct SequenceOutput {
  SequenceId id = 0;
  int32_t first_index = 0;  // output index of tokens[0]
  std::vector<TokenOutput> tokens;
  std::vector<TokenOutput>
      prompt_tokens;  // once, before the first token, when prompt_logprobs >= 0
  FinishReason finish = FinishReason::kNone;
  absl::Status status;      // not OK with kError, kDeadline, kCancelled
  std::vector<Beam> beams;  // at the end of a beam search (which has no `tokens`), best first
  // Chain up to the last position sampled so far; of a beam search, over the rows of every step,
  // beams in order.
  uint64_t digest = 0;
  // Of a draft: the epoch of the last Confirm, and how much output it had been told by then.
  uint64_t epoch = 0;
  int32_t confirmed = 0;
  Usage usage;  // so far; with its times when finish is set
};

struct EngineStats {
  int32_t num_waiting = 0, num_running = 0;
  int32_t num_pages = 0, num_free_pages = 0,
          num_cached_pages = 0;  // cached: held by the prefix cache alone
  uint64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, preemptions = 0;
  uint64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
  // Of speculation; decode_slices: times that a sequence was given its row or rows.
  uint64_t decode_slices = 0, proposed_tokens = 0, accepted_tokens = 0;
  uint64_t hint_tokens = 0, accepted_hint_tokens = 0;
  // Of resumes: output tokens that were computed again and agreed; sequences with one that did not.
  uint64_t verified_tokens = 0, resume_mismatches = 0;
  // Of drafts: what they said that their targets confirmed, and that was taken back.
  uint64_t confirmed_tokens = 0, taken_back_tokens = 0;
  // Of expert shards that turned out to compute wrong: cached pages that were dropped, sequences
  // that started over, steps that were thrown away.
  uint64_t distrusted_pages = 0, distrusted_sequences = 0, distrusted_steps = 0;
};

class Engine {
 public:
  // `model` is borrowed and must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(model::DecoderModel* model,
                                                        const EngineOptions& options);
  virtual ~Engine() = default;

  // Queues a sequence.
  // Errors: INVALID_ARGUMENT    parameters, token ids, or prompt + max_tokens over the context
  //                             (max_tokens is cut to what fits; only a prompt that fills it is
  //                             refused)
  //         RESOURCE_EXHAUSTED  reason QUEUE_FULL; QUEUE_TOO_SLOW, with when to come again; or
  //                             KV_TOO_SMALL when it could never fit
  //         ALREADY_EXISTS      the id is live
  virtual absl::Status Submit(SequenceRequest request, int64_t now_us) = 0;

  // Frees its pages before the next step; the sequence gets no further output. Unknown ids are
  // ignored.
  virtual void Cancel(SequenceId id) = 0;

  // `tokens` may be the output from index `position` on. A hint is never an obligation: what does
  // not join what is known, or comes too late, is dropped; a wrong one costs rows, never a token.
  // Unknown ids are ignored.
  virtual void Hint(SequenceId id, int32_t position, std::span<const int32_t> tokens) = 0;

  // To a draft: the output from index `position` on is `tokens`. What it had said otherwise is
  // taken back, and it goes on from there; with a new epoch, so is all that it had said beyond.
  // What leaves a gap behind what it was told before is dropped, as are unknown ids.
  virtual void Confirm(SequenceId id, uint64_t epoch, int32_t position,
                       std::span<const int32_t> tokens) = 0;

  // Runs one forward over a batch chosen from running and waiting sequences, samples, and returns
  // what came out (also of sequences that ended without a token). Empty when there is nothing to
  // do.
  virtual std::vector<SequenceOutput> Step(int64_t now_us) = 0;

  // Computes every live sequence again, from the prompt on, and verifies what it said so far: for
  // pages that may be wrong, after they left the prefix cache. A sequence whose output was wrong
  // ends with DATA_LOSS, reason RESUME_MISMATCH; prompt logprobs that were not reported yet are
  // computed again.
  virtual void RecomputeAll() = 0;

  // False also when all that is left are drafts that may not run further.
  virtual bool HasWork() const = 0;
  virtual EngineStats Stats() const = 0;
  virtual const model::ModelInfo& model_info() const = 0;
};

}  // namespace tutti::engine
