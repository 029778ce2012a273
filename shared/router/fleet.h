// Which workers are there, and which one to ask. Heard from their report streams; no I/O.
//
// A worker is known by the handle of its Join stream: the same process joining again is a new
// handle, so nothing remembered about an earlier life is held against it.
//
// Workers are authenticated before they come here, and still not believed (docs/security.md):
// - what a worker is (id, kind, process, fingerprints) stays as it is first said in a stream;
// - an id belongs to the process that has it, until its stream ends;
// - nothing that one worker says replaces what is known of a model that another worker serves;
// - a tokenizer's vocabulary counts if its content has the digest that a target of the model
// computed
//   from its own file;
// - a shard's experts count if a target says that the model has them.
// A worker that fails is refused: its stream ends, or it stays in the view without work
// (`refused`). What is kept for workers is bounded for each, and let go when they go; a model
// without targets is remembered (its requests wait for one) while there are few of them.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "shared/router/draft_trial.h"
#include "shared/router/expert_fleet.h"
#include "shared/router/types.h"

namespace tutti::router {

struct WorkerView {
  WorkerHandle handle = 0;
  WorkerReport report;
  bool suspect = false;
};

// What a model name stands for: the fingerprint with the most ready targets.
struct ModelEntry {
  ModelInfo info;
  std::shared_ptr<const Vocabulary> vocabulary;  // null: no tokenizer has told yet
  int32_t ready_targets = 0;
};

// In three files: fleet.cc has who is there and who is picked, fleet_models.cc what is believed of
// models and vocabularies, fleet_trust.cc who may have work.
//
// Thread safety: none. Determinism: free (speed only): whom it picks never changes a token.
class Fleet {
 public:
  explicit Fleet(const RouterOptions& options) : options_(options), experts_(options.experts) {}

  // A report of a worker. `actions` receives what follows from it (directives, fetches).
  // Errors, with which the stream is to be closed (reasons in docs/errors.md):
  //   INVALID_ARGUMENT     naming the field; also when what the worker is changed
  //   ALREADY_EXISTS       another process has that worker_id
  //   FAILED_PRECONDITION  experts that the model has not
  //   RESOURCE_EXHAUSTED   too many workers
  absl::Status OnReport(WorkerHandle handle, const WorkerReport& report, int64_t now_us,
                        Actions* actions);
  void OnClosed(WorkerHandle handle, int64_t now_us, Actions* actions);
  // A model or vocabulary that was asked for; an error is asked again later.
  void OnModelInfo(WorkerHandle handle, const absl::StatusOr<ModelInfo>& info, int64_t now_us);
  void OnVocabulary(WorkerHandle handle, const absl::StatusOr<Vocabulary>& vocabulary,
                    int64_t now_us);
  // Workers that were refused since the last call, and why.
  struct Refusal {
    WorkerReport report;
    absl::Status why;
  };
  std::vector<Refusal> TakeRefusals() { return std::exchange(refusals_, {}); }
  // Tells all workers that another router may take over.
  void Drain(Actions* actions);
  // Finds silent workers and asks again what was not answered. True when the view changed.
  bool Tick(int64_t now_us, Actions* actions);

  // Errors: NOT_FOUND         no such model
  //         INVALID_ARGUMENT  no name, and several models with targets
  //         UNAVAILABLE       no target has ever joined
  absl::StatusOr<ModelEntry> FindModel(std::string_view name) const;
  // By fingerprint; nullopt when none with it was ever seen.
  std::optional<ModelEntry> FindModel(uint64_t fingerprint) const;
  std::vector<ModelEntry> Models() const;

  // The target to decode on: one that lately had the longest known prefix of the prompt, unless it
  // has `affinity_slack` sequences more than the least loaded; else the least loaded. Never a
  // suspect, draining or `excluded` one. 0: none.
  WorkerHandle PickTarget(uint64_t fingerprint, std::span<const int32_t> prompt,
                          const std::map<WorkerHandle, int64_t>& excluded_until_us, int64_t now_us);
  // The tokenizer with the fewest of our calls open. `fingerprint` 0: any. 0: none.
  WorkerHandle PickTokenizer(uint64_t fingerprint,
                             const std::map<WorkerHandle, int64_t>& excluded_until_us,
                             int64_t now_us) const;
  // The same among drafts, which must have this vocabulary (not 0).
  WorkerHandle PickDraft(uint64_t tokenizer_fingerprint,
                         const std::map<WorkerHandle, int64_t>& excluded_until_us,
                         int64_t now_us) const;
  // The draft that is being timed without its hints, for a choice that would have had it. 0: none.
  WorkerHandle DraftTimedWithout(uint64_t tokenizer_fingerprint, int64_t now_us) const;
  // Of a choice that has this draft beside it, or had: so many tokens came, so many of them because
  // of its hints, `us` (0: unknown) after those before.
  struct DraftUse {
    bool drafted = false;
    int32_t tokens = 0, accepted = 0;
    int64_t us = 0;
    WorkerHandle target = 0;
  };
  void NoteDraftUse(WorkerHandle draft, const DraftUse& use, int64_t now_us);
  // Not to be asked now (DraftTrial), or gone.
  bool IsDraftPaused(WorkerHandle draft, int64_t now_us) const;

  // True when there is a ready target of that fingerprint that `excluded` does not rule out for
  // good.
  bool HasTarget(uint64_t fingerprint,
                 const std::map<WorkerHandle, int64_t>& excluded_until_us) const;

  void AddOpenCalls(WorkerHandle handle, int delta);
  // A call to it failed as if it were gone: others are preferred for a while.
  void NoteFailure(WorkerHandle handle, int64_t now_us);

  // Others are preferred until then.
  void Avoid(WorkerHandle handle, int64_t until_us);
  // The worker computes wrong: its process gets no work any more, also when it joins again. One
  // that is started anew does.
  void Distrust(WorkerHandle handle, absl::Status why);
  struct Distrusted {
    WorkerReport report;
    absl::Status why;
  };
  // Those since the last call.
  std::vector<Distrusted> TakeDistrusted() { return std::exchange(newly_distrusted_, {}); }
  // The state of a target or tokenizer, as an examination sees it.
  struct Candidate {
    WorkerHandle handle = 0;
    WorkerKind kind = WorkerKind::kTarget;
    uint64_t fingerprint = 0;  // of the model or the tokenizer: those with the same are compared
    int32_t vocab_size = 0;    // of a target
    bool usable = false;       // there, ready and trusted, proven or not
    bool proven = false;       // may have work
    bool disputed = false;     // its output differs from another one's, and nobody decided
  };
  // Those whose model or vocabulary is known, in the order of joining; without distrusted ones.
  std::vector<Candidate> Candidates() const;
  void SetProven(WorkerHandle handle);
  void SetDisputed(WorkerHandle handle, std::string why);
  // There, ready, trusted and proven.
  bool IsUsable(WorkerHandle handle) const;
  // The first report came lately: more workers may be about to join.
  bool IsSettling(int64_t now_us) const {
    return first_report_us_ < 0 || now_us - first_report_us_ < options_.settle_us;
  }
  // Shards found wrong since the last call.
  std::vector<WorkerReport> TakeQuarantined() { return std::exchange(newly_quarantined_, {}); }

  const std::string& AddressOf(WorkerHandle handle) const;  // "" when gone
  std::string IdOf(WorkerHandle handle) const;              // "?" when gone
  // Gone, dead, silent for longer than suspect_after, or with an engine that hangs.
  bool IsSuspect(WorkerHandle handle) const;

  // Which shards have which experts; see ExpertFleet.
  const ExpertFleet& experts() const { return experts_; }
  absl::StatusOr<placement::ExpertPlacement> PinExperts(
      uint64_t fingerprint, const std::vector<ExpertFleet::PinRequest>& pins, bool unpin,
      int64_t now_us, Actions* actions);

  uint64_t epoch() const { return epoch_; }
  std::vector<WorkerView> View() const;

 private:
  struct Worker {
    WorkerReport report;
    absl::Status refused;  // not OK: gets no work
    int64_t last_report_us = 0;
    bool suspect = false;
    int32_t open_calls = 0;            // ours
    int32_t open_calls_at_report = 0;  // ours when it last reported its load
    int64_t avoid_until_us = 0;
    bool fetching = false, fetched = false;
    int64_t fetch_again_us = 0;
    bool distrusted = false;
    bool proven = false;   // a target or tokenizer that may have work; see Examiner
    std::string disputed;  // why it waits for a third one; "": it does not
    std::shared_ptr<const Vocabulary> vocabulary;  // came before a target of its model
    std::optional<DraftTrial> trial;               // of a draft
  };

  // What the targets of one fingerprint agree on.
  struct Model {
    ModelInfo info;
    std::string vocabulary_digest;
    std::optional<ExpertShape> experts;
    int64_t since_us = 0, until_us = 0;  // had targets
    bool in_use = true;                  // has some now
  };
  // The vocabulary of a tokenizer fingerprint that models have.
  struct BoundVocabulary {
    std::string digest;                            // as their targets computed it
    std::shared_ptr<const Vocabulary> vocabulary;  // null: none with that content has come yet
  };

  absl::Status CheckReport(const WorkerReport& report) const;
  absl::Status CheckSameWorker(const WorkerReport& before, const WorkerReport& now) const;
  absl::Status CheckExperts(const WorkerReport& report, bool* known) const;
  absl::Status Learn(const Worker& w, ModelInfo info, int64_t now_us);
  // A vocabulary that came against those that models have.
  void Bind(Worker& w, int64_t now_us);
  void Refuse(Worker& w, absl::Status why, int64_t now_us);
  void Accept(Worker& w);
  // Which models are in use; forgets those that nobody needs.
  void UpdateModels(int64_t now_us);

  bool Usable(const Worker& w) const;
  // The same, proven or not.
  bool Ready(const Worker& w) const;
  std::string WhyNoWork(const Worker& w) const;  // WorkerReport::refused; "": it may have some
  bool IsDistrustedProcess(const WorkerReport& report) const;
  bool MayDraft(const Worker& w, int64_t now_us) const;
  WorkerHandle PickLeastLoaded(WorkerKind kind, uint64_t tokenizer_fingerprint,
                               const std::map<WorkerHandle, int64_t>& excluded_until_us,
                               int64_t now_us) const;
  int32_t LoadOf(const Worker& w) const;
  void Fetch(WorkerHandle handle, Worker& w, int64_t now_us, Actions* actions);
  void Changed(Actions* actions);
  // Targets found these shard processes wrong: they hold no expert any more.
  void Quarantine(const WorkerReport& target, int64_t now_us, Actions* actions);
  // Calls fn(actions) and completes the directives that come of it.
  template <typename F>
  void WithExperts(Actions* actions, F&& fn);
  void Remember(std::span<const int32_t> prompt, WorkerHandle handle);
  ModelEntry EntryOf(const ModelInfo& info) const;

  RouterOptions options_;
  ExpertFleet experts_;
  std::vector<WorkerReport> newly_quarantined_;
  std::map<uint64_t, std::string> quarantined_;  // shard processes, and the target that said so
  bool draining_ = false;
  std::map<WorkerHandle, Worker> workers_;
  std::map<uint64_t, Model> models_;  // by fingerprint
  // By tokenizer fingerprint; 0: of models without a tokenizer, for which the first that comes
  // counts.
  std::map<uint64_t, BoundVocabulary> vocabularies_;
  std::vector<Refusal> refusals_;
  std::set<std::string> distrusted_;  // processes (ProcessOf)
  std::vector<Distrusted> newly_distrusted_;
  int64_t first_report_us_ = -1;
  uint64_t epoch_ = 0;

  // Prefix hints: hash of a prompt's first pages -> the target that had them last.
  struct Hint {
    uint64_t hash;
    WorkerHandle worker;
  };
  std::list<Hint> hints_;  // most recent first
  std::unordered_map<uint64_t, std::list<Hint>::iterator> hint_index_;
};

}  // namespace tutti::router
