#include "shared/router/router.h"

#include <algorithm>

#include "shared/base/hash.h"
#include "shared/base/secret.h"
#include "shared/base/strings.h"
#include "shared/router/validate.h"
#include "shared/sampling/ranges.h"

namespace tutti::router {

Router::Router(const RouterOptions& options, std::function<uint64_t()> random, Observer* observer)
    : options_(options),
      random_(std::move(random)),
      observer_(observer),
      fleet_(options),
      auditor_(options.audit_rate),
      examiner_(options.exam_tokens, [this] { return random_(); }) {}

Router::~Router() = default;

Context Router::MakeContext(int64_t now_us, Actions* actions) {
  return Context{now_us, options_, fleet_, calls_, *observer_, *actions, auditor_, draining_};
}

absl::Status Router::Admit(const RequestSpec& spec) const {
  if (draining_) return WithReason(absl::UnavailableError("router: draining"), "DRAINING");
  const bool full = static_cast<int32_t>(sessions_.size()) >= options_.max_live_requests ||
                    live_choices_ + spec.n > options_.max_live_choices;
  if (!full) return absl::OkStatus();
  return WithRetryAfterMs(
      WithReason(absl::ResourceExhaustedError("router: " + std::to_string(sessions_.size()) +
                                              " requests with " + std::to_string(live_choices_) +
                                              " choices are live, at most " +
                                              std::to_string(options_.max_live_requests) + " and " +
                                              std::to_string(options_.max_live_choices)),
                 "QUEUE_FULL"),
      options_.retry_after_us / 1000);
}

void Router::Refuse(SubscriberId subscriber, absl::Status status, std::string_view request_id,
                    Actions* actions) {
  observer_->OnRefused(request_id, status);
  subscribers_[subscriber].refused = std::move(status);
  actions->push_back(action::Wake{subscriber});
}

void Router::Generate(SubscriberId subscriber, RequestSpec spec, int64_t now_us, Actions* actions) {
  if (const absl::Status s = ValidateRequest(&spec, options_); !s.ok()) {
    return Refuse(subscriber, s, spec.request_id, actions);
  }
  if (const absl::Status s = Admit(spec); !s.ok())
    return Refuse(subscriber, s, spec.request_id, actions);
  if (spec.request_id.empty()) spec.request_id = "req-" + Hex64(random_()) + Hex64(random_());
  if (sessions_.count(spec.request_id) != 0) {
    return Refuse(subscriber,
                  absl::AlreadyExistsError("request_id: " + spec.request_id +
                                           " is running already; Resume joins it"),
                  spec.request_id, actions);
  }
  if (!spec.has_seed) spec.sampling.seed = random_() & sampling::kDrawnSeedMask;
  const uint64_t secret[2] = {random_(), random_()};
  spec.resume_token.assign(reinterpret_cast<const char*>(secret), sizeof(secret));
  const std::string id = spec.request_id;
  live_choices_ += spec.n;
  auto owned = std::make_unique<Session>(std::move(spec), now_us);
  Session* session = owned.get();
  sessions_[id] = std::move(owned);
  observer_->OnAdmitted(id, session->spec());
  Attach(subscriber, session, std::nullopt, std::nullopt, actions);
  Context ctx = MakeContext(now_us, actions);
  session->Start(ctx);
}

void Router::Attach(SubscriberId subscriber, Session* session, std::optional<uint32_t> index,
                    std::optional<uint32_t> after_index, Actions* actions) {
  absl::StatusOr<Cursor> cursor = session->MakeCursor(index, after_index);
  if (!cursor.ok()) return Refuse(subscriber, cursor.status(), session->request_id(), actions);
  Subscriber& s = subscribers_[subscriber];
  s.session = session;
  s.cursor = *std::move(cursor);
  session->subscribers_.push_back(subscriber);
  actions->push_back(action::Wake{subscriber});
}

absl::Status Router::NoSuchRequest(std::string_view request_id) {
  return absl::NotFoundError("request_id: no request " + Printable(request_id) +
                             " with this resume_token is running or journaled");
}

void Router::Resume(SubscriberId subscriber, std::string_view request_id,
                    std::string_view resume_token, uint32_t index,
                    std::optional<uint32_t> after_index, int64_t now_us, Actions* actions) {
  (void)now_us;
  if (request_id.empty()) {
    return Refuse(subscriber, absl::InvalidArgumentError("request_id: missing"), "", actions);
  }
  if (const absl::Status s = ValidateRequestId(request_id); !s.ok())
    return Refuse(subscriber, s, "", actions);
  const auto it = sessions_.find(std::string(request_id));
  if (it != sessions_.end()) {
    if (!SameSecret(it->second->spec().resume_token, resume_token))
      return Refuse(subscriber, NoSuchRequest(request_id), request_id, actions);
    return Attach(subscriber, it->second.get(), index, after_index, actions);
  }
  if (static_cast<int32_t>(sessions_.size()) >= options_.max_live_requests || draining_) {
    RequestSpec one;
    return Refuse(subscriber, Admit(one), request_id, actions);
  }
  Subscriber& s = subscribers_[subscriber];
  s.resume_id = std::string(request_id);
  s.resume_token = std::string(resume_token);
  s.resume_index = index;
  s.resume_after = after_index;
  actions->push_back(action::LoadJournal{subscriber, s.resume_id});
}

void Router::OnJournalLoaded(SubscriberId subscriber, absl::StatusOr<store::StoredRequest> stored,
                             RequestSpec spec, int64_t now_us, Actions* actions) {
  const auto at = subscribers_.find(subscriber);
  if (at == subscribers_.end() || at->second.resume_id.empty()) return;
  Subscriber pending = at->second;
  at->second.resume_id.clear();
  const auto it = sessions_.find(pending.resume_id);  // another Resume may have been faster
  const bool known = it != sessions_.end() || stored.ok();
  if (known ? !SameSecret(it != sessions_.end() ? it->second->spec().resume_token
                                                : stored->request.resume_token,
                          pending.resume_token)
            : absl::IsNotFound(stored.status())) {
    return Refuse(subscriber, NoSuchRequest(pending.resume_id), pending.resume_id, actions);
  }
  if (!known) return Refuse(subscriber, stored.status(), pending.resume_id, actions);
  if (it != sessions_.end()) {
    return Attach(subscriber, it->second.get(), pending.resume_index, pending.resume_after,
                  actions);
  }
  auto owned = std::make_unique<Session>(std::move(spec), *std::move(stored), now_us);
  Session* session = owned.get();
  Attach(subscriber, session, pending.resume_index, pending.resume_after, actions);
  if (subscribers_[subscriber].session != session) return;  // the index was wrong
  live_choices_ += session->num_choices();
  sessions_[pending.resume_id] = std::move(owned);
  Context ctx = MakeContext(now_us, actions);
  session->Start(ctx);
}

absl::Status Router::Abort(std::string_view request_id, std::string_view resume_token,
                           int64_t now_us, Actions* actions) {
  const auto it = sessions_.find(std::string(request_id));
  if (it == sessions_.end() || !SameSecret(it->second->spec().resume_token, resume_token))
    return NoSuchRequest(request_id);
  Context ctx = MakeContext(now_us, actions);
  it->second->Stop(ctx, FinishReason::kCancelled);
  return absl::OkStatus();
}

std::optional<Message> Router::Next(SubscriberId subscriber) {
  const auto it = subscribers_.find(subscriber);
  if (it == subscribers_.end()) return std::nullopt;
  Subscriber& s = it->second;
  if (s.refused.has_value()) {
    if (s.cursor.over) return std::nullopt;
    s.cursor.over = true;
    Message m;
    m.body = message::End{*s.refused};
    return m;
  }
  return s.session == nullptr ? std::nullopt : s.session->Next(&s.cursor);
}

void Router::OnSubscriberGone(SubscriberId subscriber, int64_t now_us, Actions* actions) {
  const auto it = subscribers_.find(subscriber);
  if (it == subscribers_.end()) return;
  Session* session = it->second.session;
  subscribers_.erase(it);
  if (session == nullptr) return;
  std::erase(session->subscribers_, subscriber);
  if (!session->subscribers_.empty()) return;
  if (!session->done()) {
    Context ctx = MakeContext(now_us, actions);
    session->Park(ctx);
    RequestSummary s;
    s.request_id = session->request_id();
    s.label = session->spec().label;
    s.parked = true;
    s.e2e_us = now_us - session->created_us_;
    observer_->OnDone(s);
  }
  live_choices_ -= session->num_choices();
  sessions_.erase(session->request_id());
}

void Router::Drain(int64_t now_us, Actions* actions) {
  draining_ = true;
  fleet_.Drain(actions);
  AdvanceAll(now_us, actions);
}

template <typename F>
void Router::Examine(Context* ctx, F&& fn) {
  const uint64_t before = fleet_.epoch();
  fn();
  if (fleet_.epoch() != before) AdvanceAll(ctx->now_us, &ctx->actions);
}

void Router::OnEncoded(CallId call, absl::StatusOr<Encoded> encoded, int64_t now_us,
                       Actions* actions) {
  const CallTable::Call* c = calls_.Find(call);
  if (c == nullptr) return;
  Context ctx = MakeContext(now_us, actions);
  if (c->choice == CallTable::kExam)
    return Examine(&ctx, [&] { examiner_.OnEncoded(ctx, call, encoded); });
  if (c->choice != CallTable::kEncode) return;
  c->session->OnEncoded(ctx, call, std::move(encoded));
}

void Router::OnTokens(CallId call, DecodedTokens tokens, int64_t now_us, Actions* actions) {
  const CallTable::Call* c = calls_.Find(call);
  if (c == nullptr) return;
  Context ctx = MakeContext(now_us, actions);
  if (c->choice == CallTable::kExam) return examiner_.OnTokens(ctx, call, tokens);
  if (c->choice < 0) return;
  c->session->OnTokens(ctx, c->choice, call, std::move(tokens));
}

void Router::OnDecodeEnd(CallId call, DecodeEnd end, int64_t now_us, Actions* actions) {
  const CallTable::Call* c = calls_.Find(call);
  if (c == nullptr || c->choice == CallTable::kEncode) return;
  Context ctx = MakeContext(now_us, actions);
  if (c->choice == CallTable::kAudit) return auditor_.OnDecodeEnd(ctx, call, end);
  if (c->choice == CallTable::kExam)
    return Examine(&ctx, [&] { examiner_.OnDecodeEnd(ctx, call, end); });
  c->session->OnDecodeEnd(ctx, c->choice, call, std::move(end));
}

void Router::OnCallClosed(CallId call, const absl::Status& status, int64_t now_us,
                          Actions* actions) {
  const CallTable::Call* c = calls_.Find(call);
  if (c == nullptr || c->choice == CallTable::kEncode) return;
  Context ctx = MakeContext(now_us, actions);
  if (c->choice == CallTable::kAudit) return auditor_.OnCallClosed(ctx, call, status);
  if (c->choice == CallTable::kExam) return examiner_.OnCallClosed(ctx, call, status);
  c->session->OnCallClosed(ctx, c->choice, call, status);
}

void Router::OnJournalCreated(const std::string& request_id, const absl::Status& status,
                              int64_t now_us, Actions* actions) {
  if (status.ok()) return;
  const auto it = sessions_.find(request_id);
  if (it == sessions_.end()) return;
  if (status.code() != absl::StatusCode::kAlreadyExists)
    return observer_->OnJournalError(request_id, status);
  Context ctx = MakeContext(now_us, actions);
  it->second->journaled_ = false;  // the entry is another request's
  it->second->Fail(ctx, status);
}

absl::Status Router::OnReport(WorkerHandle worker, const WorkerReport& report, int64_t now_us,
                              Actions* actions) {
  const uint64_t before = fleet_.epoch();
  if (const absl::Status why = fleet_.OnReport(worker, report, now_us, actions); !why.ok()) {
    observer_->OnWorkerRefused(report, why);
    return why;
  }
  if (fleet_.epoch() != before) {
    observer_->OnWorker("report", report);
    for (const WorkerReport& shard : fleet_.TakeQuarantined())
      observer_->OnWorker("quarantined", shard);
    AdvanceAll(now_us, actions);
  }
  return absl::OkStatus();
}

void Router::OnWorkerClosed(WorkerHandle worker, int64_t now_us, Actions* actions) {
  for (const WorkerView& w : fleet_.View()) {
    if (w.handle == worker) observer_->OnWorker("left", w.report);
  }
  fleet_.OnClosed(worker, now_us, actions);
  AdvanceAll(now_us, actions);
}

void Router::OnModelInfo(WorkerHandle worker, const absl::StatusOr<ModelInfo>& info, int64_t now_us,
                         Actions* actions) {
  fleet_.OnModelInfo(worker, info, now_us);
  TellRefusals();
  Context ctx = MakeContext(now_us, actions);
  examiner_.Tick(ctx);
  AdvanceAll(now_us, actions);
}

void Router::OnVocabulary(WorkerHandle worker, const absl::StatusOr<Vocabulary>& vocabulary,
                          int64_t now_us, Actions* actions) {
  fleet_.OnVocabulary(worker, vocabulary, now_us);
  TellRefusals();
  Context ctx = MakeContext(now_us, actions);
  examiner_.Tick(ctx);
  AdvanceAll(now_us, actions);
}

void Router::TellRefusals() {
  for (const Fleet::Refusal& r : fleet_.TakeRefusals()) observer_->OnWorkerRefused(r.report, r.why);
}

void Router::AdvanceAll(int64_t now_us, Actions* actions) {
  Context ctx = MakeContext(now_us, actions);
  for (auto& [id, session] : sessions_) session->Advance(ctx);
}

void Router::Tick(int64_t now_us, Actions* actions) {
  fleet_.Tick(now_us, actions);
  Context ctx = MakeContext(now_us, actions);
  examiner_.Tick(ctx);
  for (auto& [id, session] : sessions_) session->Tick(ctx);
  auditor_.Tick(ctx);
  for (const Fleet::Distrusted& d : fleet_.TakeDistrusted())
    observer_->OnDistrusted(d.report, d.why);
}

RouterStats Router::Stats() const {
  RouterStats s;
  s.live_requests = static_cast<int32_t>(sessions_.size());
  s.live_choices = live_choices_;
  s.subscribers = static_cast<int32_t>(subscribers_.size());
  s.open_calls = calls_.size();
  for (const auto& [id, session] : sessions_) {
    if (session->done()) continue;
    for (const auto& c : session->choices_)
      s.waiting_choices += !c.finish.has_value() && c.call == 0 ? 1 : 0;
  }
  return s;
}

const Session* Router::FindSession(std::string_view request_id) const {
  const auto it = sessions_.find(std::string(request_id));
  return it == sessions_.end() ? nullptr : it->second.get();
}

}  // namespace tutti::router
