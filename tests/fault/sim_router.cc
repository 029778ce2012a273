#include "tests/fault/sim_router.h"

#include <algorithm>

#include "shared/base/strings.h"
#include "shared/router/output_text.h"
#include "shared/wire/generation.h"

namespace tutti::fault {

using namespace tutti::router;  // NOLINT: the simulation is about it

RouterNode::RouterNode(Surroundings* cluster, World* world, int index, const RouterOptions& options)
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
    a.open.digests.clear();
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
            if (c != nullptr && c->session != nullptr)
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

// Asks `node` what `reply` says there, and hands `take` the first answer, an error after 5 s.
template <typename T, typename Node>
void RouterNode::Ask(Node* node, std::function<T()> reply,
                     std::function<void(Router&, absl::StatusOr<T>, int64_t, Actions*)> take) {
  const uint64_t link = cluster_->NewId() * 2;
  auto answered = std::make_shared<bool>(false);
  const auto answer = [this, link, node, answered, take = std::move(take),
                       life = life()](absl::StatusOr<T> what) {
    if (std::exchange(*answered, true)) return;
    Back(life, link + 1, cluster_->Delay(index_, node),
         [take, what](Router& r, int64_t now, Actions* actions) { take(r, what, now, actions); });
  };
  world_->After(5'000'000, [answer] { answer(absl::DeadlineExceededError("no answer")); });
  world_->Send(link, cluster_->Delay(index_, node), [node, answer, reply = std::move(reply)] {
    if (!node->alive()) return answer(absl::UnavailableError("refused"));
    node->Deliver(node->life(), [answer, reply] { answer(reply()); });
  });
}

void RouterNode::Do(action::FetchModel& a) {
  Ask<ModelInfo>(
      cluster_->TargetAt(a.address),
      [] {
        const model::ModelInfo m = MakeModel()->info();
        return ModelInfo{m.name,       m.architecture,   m.fingerprint, kTokenizerFingerprint,
                         m.vocab_size, m.context_tokens, m.eos_ids};
      },
      [worker = a.worker](Router& r, absl::StatusOr<ModelInfo> info, int64_t now,
                          Actions* actions) { r.OnModelInfo(worker, info, now, actions); });
}

void RouterNode::Do(action::FetchVocabulary& a) {
  Ask<Vocabulary>(
      cluster_->TokenizerAt(a.address),
      [this] { return Vocabulary{kTokenizerFingerprint, cluster_->decoder, 0, 1, false, "sim"}; },
      [worker = a.worker](Router& r, absl::StatusOr<Vocabulary> v, int64_t now, Actions* actions) {
        r.OnVocabulary(worker, v, now, actions);
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
         RequestSpec spec = wire::UnpackStored(&stored);
         r.OnJournalLoaded(a.subscriber, std::move(stored), std::move(spec), now, actions);
       });
}

void RouterNode::Do(action::CloseWorker& a) { cluster_->Left(index_, a.worker); }

}  // namespace tutti::fault
