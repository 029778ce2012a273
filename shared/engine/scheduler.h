// Decides which rows the next forward runs, and who gives pages up when they run out.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "shared/engine/drafter.h"
#include "shared/engine/engine.h"
#include "shared/engine/fair_share.h"
#include "shared/engine/lane.h"
#include "shared/engine/places.h"
#include "shared/engine/queue_clock.h"
#include "shared/engine/sequence.h"

namespace tutti::engine {

// Rows [first, first + num_rows) of one lane in the next forward, with logits of the last
// `num_logits`. A decoding sequence has one row, and one for each guess that is verified.
struct Slice {
  Sequence* sequence = nullptr;
  size_t lane = 0;
  int32_t num_rows = 0;
  int32_t num_logits = 0;
  bool prefill = false;  // tokens that were there before, rather than the last one sampled
};

// Sequences wait; the next to run is of the highest priority, then of the client that had least
// (fair_share.h), then the first to arrive. When no place or page is free for it, who holds many
// places gives way to who holds few (places.h). Running sequences hold pages. Each step gives every
// decoding sequence its row and divides what is left of max_batch_tokens among prefills, in that
// order.
//
// When pages run out, the last running sequence in that order gives up all of its pages and waits
// again, in its old place; it is computed again later. The first one is never asked, so there is
// always progress.
//
// Of several sequences with a common prefix that is being computed right now, one computes it and
// the others wait until they find it in the prefix cache.
//
// Thread safety: none. Determinism: the choice depends on the calls alone; it cannot show in a
// result.
class Scheduler {
 public:
  // `store`, `drafter` and `eos_ids` are borrowed and outlive the scheduler.
  Scheduler(const EngineOptions& options, LaneStore* store, Drafter* drafter,
            std::span<const int32_t> eos_ids)
      : options_(options), store_(store), drafter_(drafter), eos_ids_(eos_ids) {}

  // A new sequence, and its end: out of the queue or the batch, its pages freed.
  void Add(Sequence* sequence);
  void Remove(Sequence* sequence);
  // Its pages are given up and computed again; see Engine::RecomputeAll.
  void Recompute(Sequence* sequence, EngineStats* stats);
  // It got that many output tokens.
  void ChargeOutput(const Sequence& sequence, int64_t num_tokens) {
    share_.Charge(sequence.request.client, num_tokens * FairShare::kOutputTokenCost);
  }

  // The rows of the next forward. Sequences that start to run are stamped with `now_us`.
  std::vector<Slice> NextBatch(int64_t now_us, EngineStats* stats);

  // Room behind the running ones and in the queue.
  bool QueueFull() const;
  // How long the sequence would wait for its place; 0 while the queue is short.
  int64_t EstimateWaitUs(const SequenceRequest& request, int64_t now_us) const;
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  const std::vector<Sequence*>& running() const { return running_; }

 private:
  // Pages for the rows of this step, taken from later sequences if need be. False when the sequence
  // had to give up its own.
  bool SecurePages(Sequence* sequence, int32_t num_rows, EngineStats* stats);
  void Preempt(Sequence* sequence, EngineStats* stats);
  void StopRunning(Sequence* sequence);
  // Who should run next; nullptr when all of this step have been looked at.
  Sequence* NextWaiting() const;
  // Gives guesses up for which no page is free: they are not worth anybody's pages.
  void TrimDraft(Sequence* sequence) const;
  std::vector<Sequence*> DecodersOfStep() const;
  bool Admit(Sequence* sequence, int64_t now_us, EngineStats* stats);
  // Who is to give its pages up so that `sequence` can start; nullptr: nobody.
  Sequence* GivesWay(const Sequence& sequence) const;
  bool ShouldWaitForSibling(const Sequence& sequence) const;
  int32_t PrefillRows(const Sequence& sequence, int32_t budget) const;
  static void AppendPrefill(Sequence* sequence, int32_t num_rows, std::vector<Slice>* batch);

  EngineOptions options_;
  LaneStore* store_;
  Drafter* drafter_;
  std::span<const int32_t> eos_ids_;
  std::set<Sequence*, BeforeOrder> waiting_;
  FairShare share_;
  std::vector<Sequence*> running_;  // in the order Before
  QueueClock queue_clock_;
  uint64_t step_ = 0;
  int32_t started_in_step_ = 0;
  bool preempted_in_step_ = false;
};

}  // namespace tutti::engine
