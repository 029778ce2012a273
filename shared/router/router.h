// The router: all requests, all workers, one state machine. The gRPC service and the simulator are
// shells around it: they hand in what happened and do what Actions say, in that order.
//
// Thread safety: none; the shell holds a lock (events cost microseconds) or has one thread.
// Determinism: what a client receives as tokens, logprobs and digests is exact; who computed it is
// free.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "shared/router/examiner.h"
#include "shared/router/session.h"

namespace tutti::router {

struct RouterStats {
  int32_t live_requests = 0, live_choices = 0, waiting_choices = 0, subscribers = 0;
  size_t open_calls = 0;
};

class Router {
 public:
  // `random` draws seeds, request ids and resume tokens, so nobody may be able to guess it;
  // `observer` is borrowed.
  Router(const RouterOptions& options, std::function<uint64_t()> random, Observer* observer);
  ~Router();

  // ---- clients. A subscriber id is new with each of the first two; its stream is then fed by Next
  // whenever a Wake names it, until End.
  void Generate(SubscriberId subscriber, RequestSpec spec, int64_t now_us, Actions* actions);
  // `resume_token` must be the request's own (message::Started); with another one Resume and Abort
  // answer as if there were no such request.
  void Resume(SubscriberId subscriber, std::string_view request_id, std::string_view resume_token,
              uint32_t index, std::optional<uint32_t> after_index, int64_t now_us,
              Actions* actions);
  // Errors: NOT_FOUND  not running here (it may be in the journal, parked or finished)
  absl::Status Abort(std::string_view request_id, std::string_view resume_token, int64_t now_us,
                     Actions* actions);
  // The one answer to an unknown id and to a wrong token.
  static absl::Status NoSuchRequest(std::string_view request_id);
  std::optional<Message> Next(SubscriberId subscriber);
  // The stream is over for whatever reason, End included. The last one to leave an unfinished
  // request parks it: its decoders are cancelled, and a Resume goes on from the journal.
  void OnSubscriberGone(SubscriberId subscriber, int64_t now_us, Actions* actions);
  // Refuses new requests from now on (UNAVAILABLE, DRAINING) and tells the workers that another
  // router may take over. Running requests go on with the workers that are there; those that would
  // have to wait for a worker to come end with UNAVAILABLE.
  void Drain(int64_t now_us, Actions* actions);

  // ---- answers to actions; those of calls that were cancelled are ignored.
  void OnEncoded(CallId call, absl::StatusOr<Encoded> encoded, int64_t now_us, Actions* actions);
  void OnTokens(CallId call, DecodedTokens tokens, int64_t now_us, Actions* actions);
  void OnDecodeEnd(CallId call, DecodeEnd end, int64_t now_us, Actions* actions);
  void OnCallClosed(CallId call, const absl::Status& status, int64_t now_us, Actions* actions);
  void OnJournalCreated(const std::string& request_id, const absl::Status& status, int64_t now_us,
                        Actions* actions);
  void OnJournalLoaded(SubscriberId subscriber, absl::StatusOr<store::StoredRequest> stored,
                       RequestSpec spec, int64_t now_us, Actions* actions);

  // ---- workers
  absl::Status OnReport(WorkerHandle worker, const WorkerReport& report, int64_t now_us,
                        Actions* actions);
  void OnWorkerClosed(WorkerHandle worker, int64_t now_us, Actions* actions);
  void OnModelInfo(WorkerHandle worker, const absl::StatusOr<ModelInfo>& info, int64_t now_us,
                   Actions* actions);
  void OnVocabulary(WorkerHandle worker, const absl::StatusOr<Vocabulary>& vocabulary,
                    int64_t now_us, Actions* actions);

  // Time passes; at least every 50 ms while anything is live.
  void Tick(int64_t now_us, Actions* actions);

  Fleet& fleet() { return fleet_; }
  const Fleet& fleet() const { return fleet_; }
  RouterStats Stats() const;
  // For tests: a live request, or null.
  const Session* FindSession(std::string_view request_id) const;
  const CallTable& calls() const { return calls_; }

 private:
  struct Subscriber {
    Session* session = nullptr;
    Cursor cursor;
    std::optional<absl::Status> refused;  // End with this, instead of a session
    // A Resume that waits for the journal:
    std::string resume_id, resume_token;
    uint32_t resume_index = 0;
    std::optional<uint32_t> resume_after;
  };

  Context MakeContext(int64_t now_us, Actions* actions);
  void Refuse(SubscriberId subscriber, absl::Status status, std::string_view request_id,
              Actions* actions);
  void Attach(SubscriberId subscriber, Session* session, std::optional<uint32_t> index,
              std::optional<uint32_t> after_index, Actions* actions);
  absl::Status Admit(const RequestSpec& spec) const;
  void TellRefusals();
  void AdvanceAll(int64_t now_us, Actions* actions);
  // Calls fn(), by which a worker may become proven: requests may have waited for it.
  template <typename F>
  void Examine(Context* ctx, F&& fn);

  RouterOptions options_;
  std::function<uint64_t()> random_;
  Observer* observer_;
  bool draining_ = false;
  Fleet fleet_;
  CallTable calls_;
  Auditor auditor_;
  Examiner examiner_;
  std::unordered_map<std::string, std::unique_ptr<Session>> sessions_;
  std::unordered_map<SubscriberId, Subscriber> subscribers_;
  int32_t live_choices_ = 0;
};

}  // namespace tutti::router
