// One request of a client, from its prompt to the end of its last choice.
//
// A state machine: every method takes what happened and the time, and leaves in Context::actions
// what is to be done about it. It survives the loss of any worker: what a decoder said is kept, and
// another one goes on from there, to the same tokens.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/router/auditor.h"
#include "shared/router/fleet.h"
#include "shared/router/observer.h"
#include "shared/router/output_text.h"
#include "shared/router/types.h"

namespace tutti::router {

class Session;

// Open calls to workers, and whose they are.
class CallTable {
 public:
  static constexpr int kEncode = -1, kAudit = -2, kExam = -3;
  struct Call {
    Session* session = nullptr;  // null: of an audit or an examination
    int choice = 0;              // or kEncode, kAudit, kExam
    WorkerHandle worker = 0;
  };
  CallId Open(Session* session, int choice, WorkerHandle worker, Fleet* fleet) {
    const CallId id = ++last_;
    calls_[id] = {session, choice, worker};
    fleet->AddOpenCalls(worker, 1);
    return id;
  }
  void Close(CallId id, Fleet* fleet) {
    const auto it = calls_.find(id);
    if (it == calls_.end()) return;
    fleet->AddOpenCalls(it->second.worker, -1);
    calls_.erase(it);
  }
  const Call* Find(CallId id) const {
    const auto it = calls_.find(id);
    return it == calls_.end() ? nullptr : &it->second;
  }
  size_t size() const { return calls_.size(); }

 private:
  CallId last_ = 0;
  std::unordered_map<CallId, Call> calls_;
};

// What a session may touch while it handles one event.
struct Context {
  int64_t now_us;
  const RouterOptions& options;
  Fleet& fleet;
  CallTable& calls;
  Observer& observer;
  Actions& actions;
  Auditor& auditor;
  bool draining = false;  // workers that are lost do not come back

  // A Decode call to `worker`, open in `calls`; the caller completes the action and pushes it.
  // `session` and `choice`: as in CallTable.
  action::OpenDecode MakeDecode(Session* session, int choice, WorkerHandle worker,
                                int32_t vocab_size, OpenRequest open);
  // Closes the call and tells its worker.
  void Cancel(CallId call);
};

// Where one subscriber is in the request's output.
struct Cursor {
  int only_choice = -1;  // -1: all
  bool started_sent = false;
  bool over = false;
  struct Choice {
    size_t next_token = 0, next_prompt_token = 0;
    bool tail_sent = false, finished_sent = false;
  };
  std::vector<Choice> choices;
  size_t turn = 0;
};

class Session {
 public:
  // REQUIRES: ValidateRequest passed; request_id and seed are set.
  Session(RequestSpec spec, int64_t now_us);
  // Goes on with what another router, or an earlier connection, left in the journal.
  Session(RequestSpec spec, store::StoredRequest stored, int64_t now_us);

  void Start(Context& ctx) { Advance(ctx); }
  // Does what can be done now: finds the model, encodes, opens decoders. Called on every event that
  // may let it (a fleet change, a tick).
  void Advance(Context& ctx);
  void Tick(Context& ctx);

  void OnEncoded(Context& ctx, CallId call, absl::StatusOr<Encoded> encoded);
  void OnTokens(Context& ctx, int choice, CallId call, DecodedTokens tokens);
  void OnDecodeEnd(Context& ctx, int choice, CallId call, DecodeEnd end);
  void OnCallClosed(Context& ctx, int choice, CallId call, const absl::Status& status);

  // Ends all open choices with that reason.
  void Stop(Context& ctx, FinishReason reason);
  // Ends the request with an error. A transient one leaves the journal entry open, for a Resume.
  void Fail(Context& ctx, absl::Status status);
  // Nobody listens any more: frees the decoders' pages; the journal keeps what there is.
  void Park(Context& ctx);

  // All choices ended, or the request failed.
  bool done() const { return done_; }
  const std::string& request_id() const { return spec_->request_id; }
  const RequestSpec& spec() const { return *spec_; }
  int num_choices() const { return static_cast<int>(choices_.size()); }
  size_t num_tokens(int choice) const {
    return choices_[static_cast<size_t>(choice)].tokens.size();
  }
  bool finished(int choice) const {
    return choices_[static_cast<size_t>(choice)].finish.has_value();
  }

  // A cursor for all choices from the start, or for one choice from after an output index.
  // Errors: INVALID_ARGUMENT  index or after_index
  absl::StatusOr<Cursor> MakeCursor(std::optional<uint32_t> index,
                                    std::optional<uint32_t> after_index) const;
  // The next message for that subscriber; nullopt: nothing now. After End: always nullopt.
  std::optional<Message> Next(Cursor* cursor) const;

 private:
  std::optional<Message> NextOutput(Cursor* cursor, Message m) const;

  // A draft that runs ahead of a choice. It may be missing, slow, wrong or dead: the choice never
  // waits for it.
  struct DraftStream {
    static constexpr size_t kNoMistake = std::numeric_limits<size_t>::max();
    CallId call = 0;  // 0: none
    WorkerHandle worker = 0;
    uint64_t epoch = 0;    // grows when it starts anew; what it says of earlier ones is stale
    size_t next = 0;       // output index of what it says next, unless it is told more before
    size_t confirmed = 0;  // output tokens of which it is known to have been told
    // Output index of its first word that was wrong: what it says is of no use until it has been
    // told of that one. kNoMistake: none that it has not been told of.
    size_t mistake = kNoMistake;
    std::vector<int32_t> ahead;  // what it said beyond the choice's tokens
    int64_t last_progress_us = 0;
    int64_t retry_us = 0;  // no other one before
    int32_t failures = 0;  // in a row
    std::map<WorkerHandle, int64_t> excluded_until_us;
  };
  enum class Phase { kModel, kPrompt, kDecode };
  struct Choice {
    std::vector<Token> tokens, prompt_tokens;
    std::optional<Finish> finish;
    std::optional<OutputText> text;  // made once the vocabulary is there
    CallId call = 0;                 // 0: none
    WorkerHandle worker = 0;
    int64_t opened_us = 0, last_progress_us = 0, last_token_us = 0;
    size_t tokens_at_open = 0;
    Usage usage;                       // of this call so far
    int32_t accepted_hint_tokens = 0;  // likewise
    int32_t fruitless = 0;             // decoders lost in a row without a new token
    uint32_t failovers = 0;
    int64_t waiting_since_us = -1;  // for a decoder; -1: not waiting
    std::map<WorkerHandle, int64_t> excluded_until_us;
    DraftStream draft;
    std::vector<WorkerHandle> authors;   // targets that produced `tokens`, in order
    std::vector<WorkerHandle> refusers;  // targets whose final error another one was asked about
    std::vector<WorkerHandle> deniers;   // targets that compute other tokens than `tokens`
  };

  bool FindModel(Context& ctx);
  bool Encode(Context& ctx);
  void OnPrompt(Context& ctx, std::vector<int32_t> ids, std::string text);
  void OpenChoice(Context& ctx, size_t index);
  void LoseCall(Context& ctx, size_t index, const absl::Status& why);
  void FinishChoice(Context& ctx, size_t index, Finish finish);
  void CloseCall(Context& ctx, Choice& c);
  // Hands a finished choice to the auditor when its turn has come.
  void OfferAudit(Context& ctx, size_t index) const;

  // session_dispute.cc: targets that say different things of one request.
  // A target ended the choice with an error that would be the same anywhere. Another target is
  // asked before the client hears it.
  void AskSecondOpinion(Context& ctx, size_t index, WorkerHandle worker, const absl::Status& why);
  // A target that took over computes other tokens, or other logits, than were sent. A third target
  // decides: it goes on where it agrees with what was sent; else the request ends with DATA_LOSS.
  void AskWhoIsRight(Context& ctx, size_t index, WorkerHandle worker, const absl::Status& why);
  // The choice's target has gone on behind the tokens that were sent, so it agrees with them.
  void NoteAgreement(Context& ctx, Choice& c);

  // session_draft.cc
  void OpenDraft(Context& ctx, size_t index);
  void OnDraftTokens(Context& ctx, size_t index, DecodedTokens got);
  // The target has decided on the tokens from index `have` on.
  void ConfirmToDraft(Context& ctx, Choice& c, size_t have);
  // Its word at that index was wrong.
  static void NoteMistake(DraftStream* d, size_t index);
  // Something was lost on the way: it starts anew behind the choice's tokens.
  void RestartDraft(Context& ctx, Choice& c);
  void SendHint(Context& ctx, const Choice& c, size_t first);
  // Tells the draft the choice's tokens from index `first` on.
  void SendConfirm(Context& ctx, const Choice& c, size_t first);
  void LoseDraft(Context& ctx, Choice& c, const absl::Status& why);
  void CloseDraft(Context& ctx, Choice& c);
  // Opens a call to `worker` that decodes choice `index` from where it is.
  action::OpenDecode OpenCall(Context& ctx, size_t index, WorkerHandle worker);
  OpenRequest MakeOpenRequest(const Choice& c, size_t index) const;
  // True while the wait is within bounds; else the request has failed. A draining router waits only
  // for targets that are there.
  bool MayWait(Context& ctx, int64_t* since_us, const char* for_what);
  FinishReason ImpliedFinish(const Choice& c) const;
  bool IsHidden(int32_t token_id) const;
  bool HasProgress() const;
  void WakeAll(Context& ctx);
  void CheckDone(Context& ctx);
  Finish MakeFinish(FinishReason reason) const;

  friend class Router;
  std::shared_ptr<RequestSpec> spec_;
  int64_t created_us_;
  Phase phase_ = Phase::kModel;
  bool journaled_ = false, done_ = false;
  absl::Status failed_;
  std::optional<ModelEntry> model_;
  uint64_t pinned_fingerprint_ = 0;  // adopted: only this model will do
  std::shared_ptr<const std::vector<int32_t>> prompt_ids_;
  std::string prompt_text_;
  std::vector<Choice> choices_;
  int64_t waiting_since_us_ = -1;  // for model, vocabulary or tokenizer
  CallId encode_call_ = 0;
  WorkerHandle encode_worker_ = 0;
  int64_t encode_opened_us_ = 0;
  int32_t encode_attempts_ = 0;
  std::map<WorkerHandle, int64_t> encode_excluded_until_us_;
  int64_t first_token_us_ = -1, last_progress_us_ = -1;
  std::vector<SubscriberId> subscribers_;
};

}  // namespace tutti::router
