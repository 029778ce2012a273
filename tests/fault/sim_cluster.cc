#include "tests/fault/sim_cluster.h"

#include <algorithm>

#include "shared/base/strings.h"
#include "shared/router/output_text.h"
#include "shared/wire/generation.h"
#include "tests/fault/sim_client.h"
#include "tests/fault/sim_workers.h"

namespace tutti::fault {
namespace {

using namespace tutti::router;  // NOLINT: the simulation is about it

constexpr int64_t kFaultsUntil = 10'000'000, kDeadline = 400'000'000;
constexpr std::pair<Bug, const char*> kBugs[] = {{Bug::kNone, "none"},
                                                 {Bug::kDropGenerated, "drop_generated"},
                                                 {Bug::kDropDigest, "drop_digest"},
                                                 {Bug::kSkipPositionCheck, "skip_position_check"},
                                                 {Bug::kFlipWeight, "flip_weight"},
                                                 {Bug::kLoseWake, "lose_wake"}};

class Tokenizer final : public Process {
 public:
  using Process::Process;
};

class SimCluster;

// The shell around router::Router, as services/router is one.
class RouterNode final : public Process, public Observer {
 public:
  RouterNode(SimCluster* cluster, World* world, int index, const RouterOptions& options);

  template <typename F>
  void Run(F&& fn) {
    fn(*router_, world_->now_us(), &actions_);
    Execute();
  }
  Router& router() { return *router_; }
  int index() const { return index_; }

  SubscriberId AddStream(Client* client, std::shared_ptr<ClientStream> stream);
  void DropStream(const std::shared_ptr<ClientStream>& stream);

  int failovers = 0, gaps = 0;
  int64_t hints = 0, confirms = 0;
  std::vector<std::pair<Client*, std::shared_ptr<ClientStream>>> connecting;  // not looked at yet

 private:
  struct Subscription {
    Client* client = nullptr;
    std::shared_ptr<ClientStream> stream;
    bool in_flight = false;
  };
  struct Route {
    uint64_t key = 0;
    Target* target = nullptr;
    uint64_t target_life = 0;
    uint64_t encode_worker = 0;
  };
  void OnKilled() override;
  void OnStarted() override;
  void OnFailover(std::string_view id, uint32_t choice, std::string_view worker, size_t tokens,
                  const absl::Status& why) override {
    ++failovers;
    if (why.code() == absl::StatusCode::kAborted) ++gaps;
    world_->Trace(name() + ": " + std::string(id) + "[" + std::to_string(choice) + "] leaves " +
                  std::string(worker) + " after " + std::to_string(tokens) +
                  " tokens: " + std::string(why.message()));
  }
  void OnContradiction(std::string_view id, uint32_t, std::string_view,
                       const absl::Status& s) override {
    world_->Fail("contradiction in " + std::string(id) + ": " + std::string(s.message()));
  }
  void OnJournalError(std::string_view, const absl::Status&) override {}

  void Execute();
  void Pump(SubscriberId id);
  void ScheduleTick();
  void Do(action::Encode& a);
  void Do(action::OpenDecode& a);
  void Do(action::Hint& a);
  void Do(action::Confirm& a);
  template <typename F>
  void ToDecoder(CallId call, F tell);
  void Do(action::CancelCall& a);
  void Do(action::FetchModel& a);
  void Do(action::FetchVocabulary& a);
  void Do(action::JournalCreate& a);
  void Do(action::JournalPrompt& a);
  void Do(action::JournalAppend& a);
  void Do(action::JournalFinish& a);
  void Do(action::LoadJournal& a);
  void Do(action::Wake& a) { woken_.push_back(a.subscriber); }
  void Do(action::Directive&) {}
  void Do(action::CloseWorker& a);

  // Runs fn here, in the life that asked, as a message over its connection would.
  template <typename F>
  void Back(uint64_t life, uint64_t link, int64_t delay, F fn) {
    world_->Send(link, delay, [this, life, fn = std::move(fn)]() mutable {
      Deliver(life, [this, fn = std::move(fn)]() mutable { Run(fn); });
    });
  }
  void Note(const absl::Status& s) {
    if (s.code() == absl::StatusCode::kDataLoss)
      world_->Fail(name() + ": the journal has another token: " + s.ToString());
  }

  SimCluster* const cluster_;
  const int index_;
  const RouterOptions options_;
  std::unique_ptr<Router> router_;
  Actions actions_;
  std::vector<SubscriberId> woken_;
  std::map<SubscriberId, Subscription> subscriptions_;
  std::map<CallId, Route> routes_;
  bool executing_ = false;
};

class SimCluster final : public Cluster {
 public:
  explicit SimCluster(const SimOptions& options);
  SimResult Run();

  // Cluster
  int num_routers() const override { return static_cast<int>(routers_.size()); }
  void Generate(int router, Client* client, std::shared_ptr<ClientStream> stream,
                RequestSpec spec) override;
  void Resume(int router, Client* client, std::shared_ptr<ClientStream> stream,
              const std::string& id, uint32_t index, std::optional<uint32_t> after) override;
  void Abort(int router, const std::string& id) override;
  void Disconnect(std::shared_ptr<ClientStream> stream) override;

  int64_t Delay() { return world.Draw(100, 3'000); }
  // From or to a target or tokenizer: a cut link holds messages back until it is whole again.
  int64_t Delay(int router, const Process* worker) {
    const auto it = cut_until_.find({router, worker});
    return Delay() +
           (it == cut_until_.end() ? 0 : std::max<int64_t>(0, it->second - world.now_us()));
  }
  Target* TargetAt(const std::string& address);
  Tokenizer* TokenizerAt(const std::string& address);
  bool IsSilent(const Process* p) const { return silent_.count(p) != 0; }
  uint64_t NewId() { return ++last_id_; }
  void Left(int router, WorkerHandle handle);

  World world;
  const SimOptions options;
  bool raw_network = false;  // replies lost, doubled, reordered: worse than gRPC would ever do
  std::unique_ptr<store::Journal> journal;
  std::shared_ptr<const tokenizer::TokenDecoder> decoder = MakeDecoder();

 private:
  struct Membership {
    uint64_t router_life = 0, worker_life = 0;
    WorkerHandle handle = 0;
  };
  void ReportLoop(Process* worker);
  ClientPlan MakePlan();
  std::vector<Expected> Alone(const RequestSpec& spec, const std::vector<int32_t>& prompt);
  void ScheduleFault();
  void KillWorker(Process* p, bool silent);
  void CheckEnd(SimResult* result);

  std::vector<std::unique_ptr<RouterNode>> routers_;
  std::vector<std::unique_ptr<Target>> targets_;
  std::vector<std::unique_ptr<Tokenizer>> tokenizers_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<std::pair<int, const Process*>, Membership> members_;
  std::map<std::pair<int, const Process*>, int64_t> cut_until_;
  std::set<const Process*> silent_;
  std::unique_ptr<testing::ToyModel> reference_model_ = MakeModel();
  uint64_t last_id_ = 0;
  SimResult result_;
};

// ---- RouterNode

RouterNode::RouterNode(SimCluster* cluster, World* world, int index, const RouterOptions& options)
    : Process(world, "router" + std::to_string(index)),
      cluster_(cluster),
      index_(index),
      options_(options) {
  OnStarted();
}

void RouterNode::OnStarted() {
  router_ = std::make_unique<Router>(
      options_, [this] { return world_->Draw(); }, this);
  ScheduleTick();
}

void RouterNode::OnKilled() {
  for (auto& [id, s] : subscriptions_) {
    world_->After(cluster_->Delay(),
                  [client = s.client, stream = s.stream] { client->OnBroken(stream); });
  }
  subscriptions_.clear();
  for (auto& [client, stream] : std::exchange(connecting, {})) {
    world_->After(cluster_->Delay(),
                  [client = client, stream = stream] { client->OnBroken(stream); });
  }
  for (auto& [call, r] : routes_) {
    if (r.target == nullptr) continue;
    world_->Send(r.key * 2, cluster_->Delay(index_, r.target),
                 [t = r.target, life = r.target_life, key = r.key] {
                   t->Deliver(life, [t, key] { t->Cancel(key); });
                 });
  }
  routes_.clear();
  actions_.clear();
  woken_.clear();
  router_ = std::make_unique<Router>(
      options_, [this] { return world_->Draw(); }, this);  // not asked before OnStarted
}

void RouterNode::ScheduleTick() {
  world_->After(50'000, [this, life = life()] {
    if (!alive() || life != this->life()) return;
    if (!frozen()) Run([](Router& r, int64_t now, Actions* a) { r.Tick(now, a); });
    ScheduleTick();
  });
}

void RouterNode::Execute() {
  if (executing_) return;  // the outer one sees what was added
  executing_ = true;
  for (size_t i = 0; i < actions_.size(); ++i) {
    Action action = std::move(actions_[i]);
    std::visit([this](auto& a) { Do(a); }, action);
  }
  actions_.clear();
  executing_ = false;
  std::vector<SubscriberId> woken;
  woken.swap(woken_);
  for (const SubscriberId id : woken) {
    if (cluster_->options.bug == Bug::kLoseWake && world_->Chance(3)) continue;
    Pump(id);
  }
}

SubscriberId RouterNode::AddStream(Client* client, std::shared_ptr<ClientStream> stream) {
  const SubscriberId id = cluster_->NewId();
  subscriptions_[id] = {client, std::move(stream), false};
  return id;
}

void RouterNode::DropStream(const std::shared_ptr<ClientStream>& stream) {
  for (auto it = subscriptions_.begin(); it != subscriptions_.end(); ++it) {
    if (it->second.stream != stream) continue;
    const SubscriberId id = it->first;
    subscriptions_.erase(it);
    return Run([&](Router& r, int64_t now, Actions* a) { r.OnSubscriberGone(id, now, a); });
  }
}

// One message at a time is on its way, as a stream with a slow reader has it.
void RouterNode::Pump(SubscriberId id) {
  const auto it = subscriptions_.find(id);
  if (it == subscriptions_.end() || it->second.in_flight) return;
  const std::optional<Message> m = router_->Next(id);
  if (!m.has_value()) return;
  ClientMessage copy = CopyMessage(*m);
  const bool end = copy.kind == ClientMessage::Kind::kEnd;
  Subscription& s = it->second;
  s.in_flight = true;
  world_->Send(id * 2 + 1, cluster_->Delay(),
               [this, life = life(), id, end, client = s.client, stream = s.stream,
                copy = std::move(copy)]() mutable {
                 client->OnMessage(stream, std::move(copy));
                 if (end) return;
                 world_->After(cluster_->Delay(), [this, life, id] {
                   Deliver(life, [this, id] {
                     const auto at = subscriptions_.find(id);
                     if (at == subscriptions_.end()) return;
                     at->second.in_flight = false;
                     Pump(id);
                   });
                 });
               });
  if (end) {
    subscriptions_.erase(it);
    Run([&](Router& r, int64_t now, Actions* a) { r.OnSubscriberGone(id, now, a); });
  }
}

void RouterNode::Do(action::Encode& a) {
  Tokenizer* t = cluster_->TokenizerAt(a.address);
  const CallId call = a.call;
  const uint64_t link = cluster_->NewId() * 2;
  auto answered = std::make_shared<bool>(false);
  const auto answer = [this, call, link, t, answered, life = life()](absl::StatusOr<Encoded> e) {
    if (std::exchange(*answered, true)) return;
    Back(life, link + 1, cluster_->Delay(index_, t),
         [call, e = std::move(e)](Router& r, int64_t now, Actions* actions) {
           r.OnEncoded(call, e, now, actions);
         });
  };
  world_->After(10'000'000, [answer] { answer(absl::DeadlineExceededError("no answer")); });
  world_->Send(link, cluster_->Delay(index_, t), [this, t, a, answer] {
    if (!t->alive()) {
      if (!cluster_->IsSilent(t)) answer(absl::UnavailableError("refused"));
      return;
    }
    t->Deliver(t->life(), [a, answer] {
      if (const auto* text = std::get_if<std::string>(&a.prompt)) {
        answer(Encoded{EncodeText(*text), ""});
      } else {
        answer(absl::InvalidArgumentError("no chats here"));
      }
    });
  });
}

void RouterNode::Do(action::OpenDecode& a) {
  Target* t = cluster_->TargetAt(a.address);
  const uint64_t key = cluster_->NewId();
  const CallId call = a.call;
  routes_[call] = {key, t, 0, 0};
  uint32_t shift = 0;
  if (cluster_->options.bug == Bug::kDropGenerated && !a.open.generated_ids.empty()) {
    shift = static_cast<uint32_t>(a.open.generated_ids.size());
    a.open.generated_ids.clear();
  }
  if (cluster_->options.bug == Bug::kDropDigest) a.open.digest = 0;

  // Replies travel on the stream's link, in order; a raw network loses, doubles and overtakes.
  const auto reply = [this, key, t, life = life()](
                         std::function<void(Router&, int64_t, Actions*)> fn, bool may_suffer) {
    if (may_suffer && cluster_->raw_network) {
      if (world_->Chance(3)) return;
      const bool overtaken = world_->Chance(6), doubled = world_->Chance(6);
      if (overtaken || doubled) {
        world_->After(cluster_->Delay(index_, t) + world_->Draw(0, 20'000),
                      [this, life, fn] { Deliver(life, [this, fn] { Run(fn); }); });
      }
      if (overtaken) return;
    }
    Back(life, key * 2 + 1, cluster_->Delay(index_, t), fn);
  };
  StreamSink sink;
  sink.tokens = [this, call, reply, shift](DecodedTokens tokens) {
    tokens.position += shift;
    reply(
        [this, call, tokens](Router& r, int64_t now, Actions* actions) {
          DecodedTokens copy = tokens;
          if (cluster_->options.bug == Bug::kSkipPositionCheck) {
            const CallTable::Call* c = r.calls().Find(call);
            if (c != nullptr)
              copy.position = static_cast<uint32_t>(c->session->num_tokens(c->choice));
          }
          r.OnTokens(call, std::move(copy), now, actions);
        },
        true);
  };
  sink.end = [call, reply](DecodeEnd end) {
    reply([call, end](Router& r, int64_t now,
                      Actions* actions) { r.OnDecodeEnd(call, end, now, actions); },
          true);
  };
  sink.closed = [this, call, reply](absl::Status status) {
    reply(
        [this, call, status](Router& r, int64_t now, Actions* actions) {
          routes_.erase(call);
          r.OnCallClosed(call, status, now, actions);
        },
        false);
  };
  world_->Send(key * 2, cluster_->Delay(index_, t),
               [this, t, key, call, sink, life = life(),
                open = std::make_shared<OpenRequest>(std::move(a.open))] {
                 if (!t->alive()) {
                   world_->After(cluster_->IsSilent(t) ? 3'000'000 : 0, [sink] {
                     sink.closed(absl::UnavailableError("connection refused"));
                   });
                   return;
                 }
                 // The connection died with the router, before this was read.
                 if (!alive() || life != this->life()) return;
                 const auto route = routes_.find(call);
                 if (route != routes_.end()) route->second.target_life = t->life();
                 t->Deliver(t->life(), [t, key, sink, open] { t->Open(key, *open, sink); });
               });
}

// A message on a call's stream, in order behind its Open.
template <typename F>
void RouterNode::ToDecoder(CallId call, F tell) {
  const auto it = routes_.find(call);
  if (it == routes_.end()) return;
  const Route r = it->second;
  world_->Send(r.key * 2, cluster_->Delay(index_, r.target), [t = r.target, key = r.key, tell] {
    t->Deliver(t->life(), [t, key, tell] { tell(t, key); });
  });
}

void RouterNode::Do(action::Hint& a) {
  ++hints;
  ToDecoder(a.call, [a](Target* t, uint64_t key) { t->Hint(key, a.position, a.tokens); });
}

void RouterNode::Do(action::Confirm& a) {
  ++confirms;
  ToDecoder(a.call,
            [a](Target* t, uint64_t key) { t->Confirm(key, a.epoch, a.position, a.tokens); });
}

void RouterNode::Do(action::CancelCall& a) {
  const auto it = routes_.find(a.call);
  if (it == routes_.end()) return;
  const Route r = it->second;
  routes_.erase(it);
  world_->Send(r.key * 2, cluster_->Delay(index_, r.target), [t = r.target, key = r.key] {
    t->Deliver(t->life(), [t, key] { t->Cancel(key); });
  });
}

void RouterNode::Do(action::FetchModel& a) {
  Target* t = cluster_->TargetAt(a.address);
  const WorkerHandle worker = a.worker;
  const uint64_t link = cluster_->NewId() * 2;
  auto answered = std::make_shared<bool>(false);
  const auto answer = [this, worker, link, t, answered,
                       life = life()](absl::StatusOr<ModelInfo> info) {
    if (std::exchange(*answered, true)) return;
    Back(life, link + 1, cluster_->Delay(index_, t),
         [worker, info](Router& r, int64_t now, Actions* actions) {
           r.OnModelInfo(worker, info, now, actions);
         });
  };
  world_->After(5'000'000, [answer] { answer(absl::DeadlineExceededError("no answer")); });
  world_->Send(link, cluster_->Delay(index_, t), [t, answer] {
    if (!t->alive()) return answer(absl::UnavailableError("refused"));
    t->Deliver(t->life(), [answer] {
      const model::ModelInfo m = MakeModel()->info();
      ModelInfo info{m.name,       m.architecture,   m.fingerprint, kTokenizerFingerprint,
                     m.vocab_size, m.context_tokens, m.eos_ids};
      answer(info);
    });
  });
}

void RouterNode::Do(action::FetchVocabulary& a) {
  Tokenizer* t = cluster_->TokenizerAt(a.address);
  const WorkerHandle worker = a.worker;
  const uint64_t link = cluster_->NewId() * 2;
  auto answered = std::make_shared<bool>(false);
  const auto answer = [this, worker, link, t, answered,
                       life = life()](absl::StatusOr<Vocabulary> v) {
    if (std::exchange(*answered, true)) return;
    Back(life, link + 1, cluster_->Delay(index_, t),
         [worker, v](Router& r, int64_t now, Actions* actions) {
           r.OnVocabulary(worker, v, now, actions);
         });
  };
  world_->After(5'000'000, [answer] { answer(absl::DeadlineExceededError("no answer")); });
  world_->Send(link, cluster_->Delay(index_, t), [this, t, answer] {
    if (!t->alive()) return answer(absl::UnavailableError("refused"));
    t->Deliver(t->life(), [this, answer] {
      answer(Vocabulary{kTokenizerFingerprint, cluster_->decoder, 0, 1, false});
    });
  });
}

void RouterNode::Do(action::JournalCreate& a) {
  a.record.request = wire::PackRequest(*a.spec);
  const absl::Status s = cluster_->journal->Create(a.record, world_->now_us());
  if (!s.ok()) router_->OnJournalCreated(a.record.request_id, s, world_->now_us(), &actions_);
}
void RouterNode::Do(action::JournalPrompt& a) {
  Note(cluster_->journal->SetPromptTokens(a.request_id, a.index, a.tokens, world_->now_us()));
}
void RouterNode::Do(action::JournalAppend& a) {
  Note(cluster_->journal->Append(a.request_id, a.index, a.first_index, a.tokens, world_->now_us()));
}
void RouterNode::Do(action::JournalFinish& a) {
  Note(cluster_->journal->FinishChoice(a.request_id, a.index, a.finish, world_->now_us()));
}

void RouterNode::Do(action::LoadJournal& a) {
  Back(life(), cluster_->NewId() * 2, cluster_->Delay(),
       [this, a](Router& r, int64_t now, Actions* actions) {
         absl::StatusOr<store::StoredRequest> stored = cluster_->journal->Load(a.request_id, now);
         RequestSpec spec;
         if (stored.ok()) {
           absl::StatusOr<RequestSpec> unpacked = wire::UnpackRequest(stored->request.request);
           if (unpacked.ok()) {
             spec = *std::move(unpacked);
           } else {
             stored = unpacked.status();
           }
         }
         r.OnJournalLoaded(a.subscriber, std::move(stored), std::move(spec), now, actions);
       });
}

void RouterNode::Do(action::CloseWorker& a) { cluster_->Left(index_, a.worker); }

// ---- SimCluster

SimCluster::SimCluster(const SimOptions& o)
    : world(o.seed, o.trace),
      options(o),
      journal(store::MakeMemoryJournal(store::JournalOptions())) {
  raw_network = world.Chance(30);
  RouterOptions router;
  router.max_live_requests = static_cast<int32_t>(world.Draw(4, 32));
  router.max_live_choices = 64;
  router.worker_wait_us = 5'000'000;
  const int num_targets = static_cast<int>(world.Draw(1, 3)),
            num_routers = static_cast<int>(world.Draw(1, 2));
  for (int i = 0; i < num_targets; ++i) {
    engine::EngineOptions e;
    e.num_pages = static_cast<int32_t>(world.Draw(12, 40));
    e.max_batch_tokens = static_cast<int32_t>(world.Draw(8, 64));
    e.prefill_chunk_tokens = static_cast<int32_t>(world.Draw(0, 2) * 7);
    e.max_running = static_cast<int32_t>(world.Draw(1, 6));
    e.max_waiting = static_cast<int32_t>(world.Draw(1, 8));
    e.prefix_cache = world.Chance(70);
    e.ngram_drafts = world.Chance(30);
    e.adapt_drafts = world.Chance(30);
    e.max_draft_tokens = static_cast<int32_t>(world.Draw(0, 12));
    targets_.push_back(std::make_unique<Target>(
        &world, "target" + std::to_string(i), e,
        DecoderTraits{.flip_weight = o.bug == Bug::kFlipWeight && i == 0}));
  }
  router.draft_lookahead = static_cast<int32_t>(world.Draw(0, 12));
  router.draft_trial_tokens = world.Chance(50) ? 0 : static_cast<int32_t>(world.Draw(1, 8));
  for (int i = 0, n = static_cast<int>(world.Draw(0, 2)); i < n; ++i) {
    engine::EngineOptions e;
    e.num_pages = static_cast<int32_t>(world.Draw(12, 60));
    e.max_batch_tokens = static_cast<int32_t>(world.Draw(8, 64));
    e.max_running = static_cast<int32_t>(world.Draw(1, 6));
    e.max_waiting = static_cast<int32_t>(world.Draw(1, 8));
    e.prefix_cache = world.Chance(70);
    DecoderTraits traits{.draft = true};
    traits.liar = world.Chance(15);
    if (world.Chance(30)) traits.model_seed = kModelSeed + 1;
    if (world.Chance(10)) traits.tokenizer_fingerprint = kTokenizerFingerprint + 1;
    targets_.push_back(std::make_unique<Target>(&world, "draft" + std::to_string(i), e, traits));
  }
  for (int i = 0; i < 1 + static_cast<int>(world.Draw(0, 1)); ++i) {
    tokenizers_.push_back(std::make_unique<Tokenizer>(&world, "tokenizer" + std::to_string(i)));
  }
  for (int i = 0; i < num_routers; ++i) {
    routers_.push_back(std::make_unique<RouterNode>(this, &world, i, router));
  }
  for (auto& t : targets_) ReportLoop(t.get());
  for (auto& t : tokenizers_) ReportLoop(t.get());
  const int num_clients = static_cast<int>(world.Draw(3, 10));
  for (int i = 0; i < num_clients; ++i) {
    clients_.push_back(
        std::make_unique<Client>(&world, this, "client" + std::to_string(i), MakePlan()));
  }
  for (int i = static_cast<int>(world.Draw(0, 10)); i > 0; --i) ScheduleFault();
}

Target* SimCluster::TargetAt(const std::string& address) {
  for (auto& t : targets_) {
    if (t->name() == address) return t.get();
  }
  return nullptr;
}
Tokenizer* SimCluster::TokenizerAt(const std::string& address) {
  for (auto& t : tokenizers_) {
    if (t->name() == address) return t.get();
  }
  return nullptr;
}

// A worker's reports to every router; the first over a new stream is its Join.
void SimCluster::ReportLoop(Process* worker) {
  if (worker->alive() && !worker->frozen()) {
    WorkerReport report;
    report.worker_id = worker->name() + "-" + std::to_string(worker->life());
    report.address = worker->name();
    report.state = WorkerState::kReady;
    if (auto* target = dynamic_cast<Target*>(worker)) {
      report.kind = target->traits().draft ? WorkerKind::kDraft : WorkerKind::kTarget;
      report.fingerprint = reference_model_->info().fingerprint;
      report.tokenizer_fingerprint = target->traits().tokenizer_fingerprint;
      const engine::EngineStats s = target->Stats();
      report.load.running = s.num_running;
      report.load.waiting = s.num_waiting;
    } else {
      report.kind = WorkerKind::kTokenizer;
      report.tokenizer_fingerprint = kTokenizerFingerprint;
    }
    for (auto& router : routers_) {
      if (!router->alive()) continue;
      Membership& m = members_[{router->index(), worker}];
      if (m.handle == 0 || m.router_life != router->life() || m.worker_life != worker->life()) {
        m = {router->life(), worker->life(), NewId()};
      }
      world.Send(m.handle * 2, Delay(router->index(), worker),
                 [r = router.get(), handle = m.handle, life = m.router_life, report] {
                   r->Deliver(life, [r, handle, report] {
                     r->Run([&](Router& router, int64_t now, Actions* a) {
                       (void)router.OnReport(handle, report, now, a);
                     });
                   });
                 });
    }
  }
  world.After(world.Draw(400'000, 550'000), [this, worker] { ReportLoop(worker); });
}

void SimCluster::Left(int router, WorkerHandle handle) {
  for (auto& [key, m] : members_) {
    if (key.first == router && m.handle == handle) m.handle = 0;  // it joins again
  }
}

void SimCluster::Generate(int router, Client* client, std::shared_ptr<ClientStream> stream,
                          RequestSpec spec) {
  RouterNode* r = routers_[static_cast<size_t>(router)].get();
  world.After(Delay(), [this, r, client, stream, spec = std::move(spec)] {
    if (!r->alive()) return world.After(Delay(), [client, stream] { client->OnBroken(stream); });
    r->connecting.emplace_back(client, stream);
    r->Deliver(r->life(), [r, client, stream, spec] {
      std::erase(r->connecting, std::pair(client, stream));
      if (!stream->open) return;
      const SubscriberId id = r->AddStream(client, stream);
      r->Run([&](Router& router, int64_t now, Actions* a) { router.Generate(id, spec, now, a); });
    });
  });
}

void SimCluster::Resume(int router, Client* client, std::shared_ptr<ClientStream> stream,
                        const std::string& request_id, uint32_t index,
                        std::optional<uint32_t> after) {
  RouterNode* r = routers_[static_cast<size_t>(router)].get();
  world.After(Delay(), [this, r, client, stream, request_id, index, after] {
    if (!r->alive()) return world.After(Delay(), [client, stream] { client->OnBroken(stream); });
    r->connecting.emplace_back(client, stream);
    r->Deliver(r->life(), [r, client, stream, request_id, index, after] {
      std::erase(r->connecting, std::pair(client, stream));
      if (!stream->open) return;
      const SubscriberId id = r->AddStream(client, stream);
      r->Run([&](Router& router, int64_t now, Actions* a) {
        router.Resume(id, request_id, index, after, now, a);
      });
    });
  });
}

void SimCluster::Abort(int router, const std::string& id) {
  RouterNode* r = routers_[static_cast<size_t>(router)].get();
  world.After(Delay(), [r, id] {
    r->Deliver(r->life(), [r, id] {
      r->Run([&](Router& router, int64_t now, Actions* a) { (void)router.Abort(id, now, a); });
    });
  });
}

void SimCluster::Disconnect(std::shared_ptr<ClientStream> stream) {
  stream->open = false;
  world.After(Delay(), [this, stream] {
    for (auto& r : routers_) {
      r->Deliver(r->life(), [r = r.get(), stream] { r->DropStream(stream); });
    }
  });
}

// The truth: one sequence, alone, in an engine of its own, then the text rules.
std::vector<Expected> SimCluster::Alone(const RequestSpec& spec,
                                        const std::vector<int32_t>& prompt) {
  std::vector<Expected> out;
  for (int i = 0; i < spec.n; ++i) {
    engine::EngineOptions e;
    e.num_pages = 16;
    auto engine = *engine::Engine::Create(reference_model_.get(), e);
    engine::SequenceRequest r;
    r.id = 1;
    r.prompt = prompt;
    r.params = spec.sampling;
    r.params.sample_index = static_cast<uint32_t>(i);
    r.params.prompt_logprobs = -1;
    Expected want;
    if (const absl::Status s = engine->Submit(std::move(r), 0); !s.ok())
      world.Fail("reference: " + s.ToString());
    OutputText text(decoder,
                    {spec.skip_special, spec.stop, spec.include_stop, spec.sampling.min_tokens});
    bool over = false;
    while (!over && engine->HasWork()) {
      for (const auto& step : engine->Step(0)) {
        for (const auto& t : step.tokens) {
          if (over) break;
          want.tokens.push_back(FromEngine(t));
          const bool stop_id =
              std::find(spec.sampling.stop_ids.begin(), spec.sampling.stop_ids.end(), t.token_id) !=
              spec.sampling.stop_ids.end();
          const bool eos = t.token_id == 1 && spec.skip_special && !spec.sampling.ignore_eos;
          const auto piece = text.Push(t.token_id, stop_id || eos);
          want.text += piece.text;
          if (piece.matched >= 0) {
            over = true;
            want.reason = FinishReason::kStop;
          }
        }
        if (!over && step.finish != engine::FinishReason::kNone) {
          over = true;
          want.reason = FromEngine(step.finish);
          const auto tail = text.Flush();
          want.text += tail.text;
          if (tail.matched >= 0) want.reason = FinishReason::kStop;
        }
      }
    }
    out.push_back(std::move(want));
  }
  return out;
}

ClientPlan SimCluster::MakePlan() {
  ClientPlan plan;
  RequestSpec& spec = plan.spec;
  spec.n = world.Chance(75) ? 1 : static_cast<int32_t>(world.Draw(2, 3));
  static const std::string kShared(20, 'q');  // prompts with a common prefix
  std::string text = world.Chance(50) ? kShared : std::string();
  for (int64_t k = world.Draw(1, 30); k > 0; --k)
    text.push_back(static_cast<char>('a' + world.Draw(0, 25)));
  const std::vector<int32_t> ids = EncodeText(text);
  if (world.Chance(60)) {
    spec.prompt = text;
  } else {
    spec.prompt = ids;
  }
  spec.has_seed = spec.has_max_tokens = true;
  sampling::SamplingParams& p = spec.sampling;
  p.seed = world.Draw();
  p.max_tokens = static_cast<int32_t>(world.Draw(1, 60));
  p.temperature = world.Chance(30) ? 0.0f : world.Chance(50) ? 0.7f : 1.5f;
  if (world.Chance(30)) p.top_k = 20;
  if (world.Chance(30)) p.repetition_penalty = 1.3f;
  if (world.Chance(30)) p.frequency_penalty = 0.5f;
  if (world.Chance(30)) p.logprobs = static_cast<int32_t>(world.Draw(0, 3));
  if (world.Chance(20)) p.prompt_logprobs = 1;
  if (world.Chance(50)) p.ignore_eos = true;
  if (world.Chance(20)) p.min_tokens = static_cast<int32_t>(world.Draw(0, p.max_tokens));
  if (world.Chance(20)) p.stop_ids = {static_cast<int32_t>(world.Draw(2, kVocabulary - 1))};
  spec.skip_special = world.Chance(80);
  plan.expected = Alone(spec, ids);
  if (world.Chance(40)) {  // a stop string that really comes (and one that hardly will)
    const std::string& full = plan.expected[0].text;
    if (full.size() > 2) {
      const auto at = static_cast<size_t>(world.Draw(0, static_cast<int64_t>(full.size()) - 2));
      std::string stop = full.substr(at, static_cast<size_t>(world.Draw(1, 4)));
      if (IsValidUtf8(stop)) {
        spec.stop = {"zzzz", stop};
        spec.include_stop = world.Chance(30);
        plan.expected = Alone(spec, ids);
      }
    }
  }
  plan.start_us = world.Draw(0, 4'000'000);
  if (world.Chance(10)) plan.leave_after_us = world.Draw(1'000, 1'500'000);
  if (world.Chance(10)) plan.abort_after_us = world.Draw(1'000, 1'500'000);
  if (world.Chance(25)) plan.drop_after_us = world.Draw(1'000, 1'500'000);
  return plan;
}

void SimCluster::KillWorker(Process* p, bool silent) {
  if (!p->alive()) return;
  ++result_.kills;
  if (silent) {
    silent_.insert(p);
  } else {
    silent_.erase(p);
  }
  auto* target = dynamic_cast<Target*>(p);
  p->Kill();
  if (target != nullptr) {
    for (StreamSink& sink : target->TakeSinks()) {
      if (!silent) sink.closed(absl::UnavailableError("the peer is gone"));
    }
  }
  for (auto& [key, m] : members_) {
    if (key.second != p || m.handle == 0) continue;
    if (!silent) {
      RouterNode* r = routers_[static_cast<size_t>(key.first)].get();
      world.Send(m.handle * 2, Delay(key.first, p), [r, handle = m.handle, life = m.router_life] {
        r->Deliver(life, [r, handle] {
          r->Run([&](Router& router, int64_t now, Actions* a) {
            router.OnWorkerClosed(handle, now, a);
          });
        });
      });
    }
    m.handle = 0;
  }
}

void SimCluster::ScheduleFault() {
  const int64_t at = world.Draw(0, kFaultsUntil);
  const int64_t kind = world.Draw(0, 99);
  const uint64_t which = world.Draw();
  const int64_t length = world.Draw(50'000, world.Chance(30) ? 9'000'000 : 1'500'000);
  const bool silent = world.Chance(30);
  Target* target = targets_[which % targets_.size()].get();
  Tokenizer* tokenizer = tokenizers_[which % tokenizers_.size()].get();
  RouterNode* router = routers_[which % routers_.size()].get();
  world.At(at, [=, this] {
    if (kind < 35) {
      KillWorker(target, silent);
      world.After(length, [target] { target->Restart(); });
    } else if (kind < 55) {
      ++result_.freezes;
      target->Freeze();
      world.After(length, [target] { target->Thaw(); });
    } else if (kind < 65) {
      ++result_.kills;
      router->Kill();
      world.After(length, [router] { router->Restart(); });
    } else if (kind < 72) {
      KillWorker(tokenizer, silent);
      world.After(length, [tokenizer] { tokenizer->Restart(); });
    } else if (kind < 79) {
      ++result_.freezes;
      tokenizer->Freeze();
      world.After(length, [tokenizer] { tokenizer->Thaw(); });
    } else if (kind < 84) {
      ++result_.freezes;
      router->Freeze();
      world.After(length, [router] { router->Thaw(); });
    } else if (kind < 95) {
      world.Trace("link of " + router->name() + " and " + target->name() + " cut");
      cut_until_[{router->index(), target}] = world.now_us() + length;
    } else {
      world.Trace("store erased");
      journal->Clear();
    }
  });
}

void SimCluster::CheckEnd(SimResult* result) {
  for (auto& r : routers_) {
    const RouterStats s = r->router().Stats();
    if (s.live_requests != 0 || s.live_choices != 0 || s.subscribers != 0 || s.open_calls != 0) {
      world.Fail(r->name() + " holds " + std::to_string(s.live_requests) + " requests, " +
                 std::to_string(s.live_choices) + " choices, " + std::to_string(s.subscribers) +
                 " subscribers, " + std::to_string(s.open_calls) + " calls though all is over");
    }
    result->failovers += r->failovers;
    result->gaps += r->gaps;
    result->hints += r->hints;
    result->confirms += r->confirms;
  }
  for (auto& t : targets_) {
    if (const std::string wrong = t->CheckIdle(); !wrong.empty())
      world.Fail(t->name() + ": " + wrong);
    result->proposed += t->proposed();
    result->accepted += t->accepted();
  }
  // What the journal keeps is the truth as far as it goes.
  for (auto& c : clients_) {
    const auto stored = journal->Load(c->request_id(), world.now_us());
    if (!stored.ok()) continue;
    for (size_t i = 0; i < stored->choices.size(); ++i) {
      const auto& have = stored->choices[i].tokens;
      const auto& want = c->plan().expected[i].tokens;
      bool equal = have.size() <= want.size();
      for (size_t k = 0; equal && k < have.size(); ++k)
        equal = have[k].id == want[k].id && have[k].digest == want[k].digest;
      if (!equal) world.Fail("the journal of " + c->request_id() + " has other tokens");
    }
  }
}

SimResult SimCluster::Run() {
  const bool finished = world.RunUntil(kDeadline, [this] {
    return std::all_of(clients_.begin(), clients_.end(), [](const auto& c) { return c->done(); });
  });
  if (!finished && !world.failed()) {
    std::string open;
    for (auto& c : clients_) open += c->done() ? "" : " " + c->Describe();
    world.Fail("not done after " + std::to_string(kDeadline / 1'000'000) +
               " virtual seconds:" + open);
  }
  if (!world.failed()) {
    // Faults end, what was frozen thaws, cancellations arrive; then nothing may be held any more.
    const int64_t quiet = std::max(world.now_us(), kFaultsUntil + 10'000'000) + 5'000'000;
    world.RunUntil(quiet, [] { return false; });
    if (!world.failed()) CheckEnd(&result_);
  }
  result_.failure = world.failure();
  result_.events = world.events();
  result_.virtual_us = world.now_us();
  for (auto& c : clients_) {
    ++result_.requests;
    result_.gone += c->gone();
    result_.cancelled += c->cancelled();
    result_.finished += c->done() && !c->gone() && !c->cancelled();
    result_.resumes += c->resumes();
    result_.restarts_from_scratch += c->from_scratch();
    result_.tokens += c->tokens();
  }
  return result_;
}

}  // namespace

const char* BugName(Bug bug) {
  for (const auto& [b, name] : kBugs) {
    if (b == bug) return name;
  }
  return "?";
}

std::optional<Bug> BugFromName(const std::string& name) {
  for (const auto& [b, n] : kBugs) {
    if (name == n) return b;
  }
  return std::nullopt;
}

SimResult RunSimulation(const SimOptions& options) { return SimCluster(options).Run(); }

}  // namespace tutti::fault
