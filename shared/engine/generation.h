// The engine's implementation: one function, Step, with one call per stage of a token's life.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "shared/engine/drafter.h"
#include "shared/engine/engine.h"
#include "shared/engine/lane.h"
#include "shared/engine/scheduler.h"
#include "shared/engine/sequence.h"
#include "shared/sampling/filters.h"

namespace tutti::engine {

class Generation : public Engine {
 public:
  Generation(model::DecoderModel* model, const EngineOptions& options);
  ~Generation() override;

  absl::Status Submit(SequenceRequest request, int64_t now_us) override;
  void Cancel(SequenceId id) override;
  void Hint(SequenceId id, int32_t position, std::span<const int32_t> tokens) override;
  void Confirm(SequenceId id, uint64_t epoch, int32_t position,
               std::span<const int32_t> tokens) override;
  std::vector<SequenceOutput> Step(int64_t now_us) override;
  bool HasWork() const override { return !sequences_.empty() && !stalled_; }
  void RecomputeAll() override;
  EngineStats Stats() const override;
  const model::ModelInfo& model_info() const override { return model_->info(); }

  // For tests: every page has as many references as it has owners. INTERNAL otherwise.
  absl::Status CheckInvariants() const;
  const LaneStore& store() const { return store_; }

 private:
  absl::Status CheckRequest(const SequenceRequest& request, int64_t now_us) const;
  // The refusal of a sequence that "waited" or "would wait" for so long.
  absl::Status QueueTooSlow(const char* what, int64_t wait_us) const;
  bool MeetsEnd(const Sequence& sequence, int32_t token, FinishReason* reason) const;

  // A draft pauses when it is far enough ahead, or at what would be the end.
  void UpdatePause(Sequence* s) const;

  void ExpireDeadlines(int64_t now_us, std::vector<SequenceOutput>* out);
  // Waits for its first place without having been produced in part elsewhere.
  static bool IsQueued(const Sequence& s) {
    return !s.admitted_before && s.history.num_output() == 0 && !s.is_draft();
  }
  // Of queued sequences, those that waited too long.
  void ExpireQueued(int64_t now_us, std::vector<SequenceOutput>* out);
  // The logits of each slice, or its error, in the order of the batch.
  struct SliceResult {
    absl::Status status;
    std::span<const float> logits;  // [num_logits, vocab]
  };
  std::vector<SliceResult> Forward(const std::vector<Slice>& batch);
  // What a sequence's slices of this step lead to.
  struct Acceptance {
    std::span<const Slice> slices;  // of one sequence
    std::span<const SliceResult> results;
    absl::Status status;       // not OK: the sequence fails
    bool at_goal = false;      // nothing of it is left to run
    bool undone = false;       // a guess may be what failed: again without
    int32_t num_verified = 0;  // output tokens that were verified
    SequenceOutput output;
  };
  static std::vector<Acceptance> GroupBySequence(std::span<const Slice> batch,
                                                 std::span<const SliceResult> results);
  // The part that touches nothing but its sequence: several run at the same time.
  void Sample(Acceptance* a, sampling::Scratch* scratch) const;
  // The rest, in the order of the batch.
  void Accept(Acceptance* a, int64_t now_us, std::vector<SequenceOutput>* out);
  void ScorePrompt(Sequence* s, const Slice& slice, std::span<const float> logits) const;
  // Of a slice that was run: its rows that stand before known output.
  void VerifyOutput(Acceptance* a, sampling::Scratch* scratch) const;
  // The tokens of a decoding sequence's rows, up to the first that was not guessed.
  void SampleRows(Acceptance* a, sampling::Scratch* scratch) const;
  void SampleNext(Sequence* s, std::span<const float> logits, sampling::Scratch* scratch,
                  SequenceOutput* out) const;
  void CountTokens(const Acceptance& a);
  void AcceptBeams(Sequence* s, std::span<const SliceResult> results, SequenceOutput* out);
  TokenOutput Describe(std::span<const float> logits, int32_t token, int num_top) const;
  // Which shards made the pages of this step; see distrust.cc.
  void NoteMakers(const std::vector<Slice>& batch);
  static absl::Status SentWrong(std::string_view what);
  // Drops what was made with these shards.
  void Distrust(uint64_t shards, int64_t now_us, std::vector<SequenceOutput>* out);
  // Its pages go, it is computed again, and what it said is verified.
  void Recompute(Sequence* s);
  // Fills in the end and forgets the sequence.
  void Finish(Sequence* s, FinishReason reason, absl::Status status, int64_t now_us,
              SequenceOutput* out);

  model::DecoderModel* model_;
  EngineOptions options_;
  LaneStore store_;
  Drafter drafter_;
  Scheduler scheduler_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<SequenceId> finished_at_once_;  // nothing to run: reported by the next step
  uint64_t next_arrival_ = 0;
  int num_with_deadline_ = 0;
  int64_t queue_looked_at_us_ = 0;
  bool stalled_ = false;  // the last step found nothing to run, and nobody said anything since
  EngineStats stats_;
  model::StepOutput step_output_;
  bool step_failed_ = false;
  std::vector<sampling::Scratch> scratch_;  // one per thread
};

}  // namespace tutti::engine
