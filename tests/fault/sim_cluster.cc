#include "tests/fault/sim_cluster.h"

#include <algorithm>

#include "shared/base/strings.h"
#include "shared/router/output_text.h"
#include "shared/wire/generation.h"
#include "tests/fault/sim_client.h"
#include "tests/fault/sim_router.h"
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

class SimCluster final : public Cluster, public Surroundings {
 public:
  explicit SimCluster(const SimOptions& options);
  SimResult Run();

  // Cluster
  int num_routers() const override { return static_cast<int>(routers_.size()); }
  void Generate(int router, Client* client, std::shared_ptr<ClientStream> stream,
                RequestSpec spec) override;
  void Resume(int router, Client* client, std::shared_ptr<ClientStream> stream,
              const std::string& id, const std::string& token, uint32_t index,
              std::optional<uint32_t> after) override;
  void Abort(int router, const std::string& id, const std::string& token) override;
  void Disconnect(std::shared_ptr<ClientStream> stream) override;

  // Surroundings
  int64_t Delay() override { return world.Draw(100, 3'000); }
  int64_t Delay(int router, const Process* worker) override {
    const auto it = cut_until_.find({router, worker});
    return Delay() +
           (it == cut_until_.end() ? 0 : std::max<int64_t>(0, it->second - world.now_us()));
  }
  Target* TargetAt(const std::string& address) override;
  Tokenizer* TokenizerAt(const std::string& address) override;
  bool IsSilent(const Process* p) const override { return silent_.count(p) != 0; }
  uint64_t NewId() override { return ++last_id_; }
  void Left(int router, WorkerHandle handle) override;

  World world;

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

SimCluster::SimCluster(const SimOptions& o) : Surroundings(o), world(o.seed, o.trace) {
  journal = store::MakeMemoryJournal(store::JournalOptions());
  raw_network = world.Chance(30);
  RouterOptions router;
  router.max_live_requests = static_cast<int32_t>(world.Draw(4, 32));
  router.max_live_choices = 64;
  router.worker_wait_us = 5'000'000;
  router.exam_tokens = world.Chance(50) ? 0 : static_cast<int32_t>(world.Draw(1, 4));
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
    report.process_nonce = report.worker_id;
    report.vocabulary_digest = "sim";
    report.address = worker->name();
    report.state = WorkerState::kReady;
    if (auto* target = dynamic_cast<Target*>(worker)) {
      report.kind = target->traits().draft ? WorkerKind::kDraft : WorkerKind::kTarget;
      report.fingerprint = reference_model_->info().fingerprint;
      report.tokenizer_fingerprint = target->traits().tokenizer_fingerprint;
      const engine::EngineStats s = target->Stats();
      report.load.running = s.num_running;
      report.load.waiting = s.num_waiting;
      report.load.step_age_us = target->step_age_us();
      report.load.step_limit_us = 1'000'000;
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
                        const std::string& request_id, const std::string& resume_token,
                        uint32_t index, std::optional<uint32_t> after) {
  RouterNode* r = routers_[static_cast<size_t>(router)].get();
  world.After(Delay(), [this, r, client, stream, request_id, resume_token, index, after] {
    if (!r->alive()) return world.After(Delay(), [client, stream] { client->OnBroken(stream); });
    r->connecting.emplace_back(client, stream);
    r->Deliver(r->life(), [r, client, stream, request_id, resume_token, index, after] {
      std::erase(r->connecting, std::pair(client, stream));
      if (!stream->open) return;
      const SubscriberId id = r->AddStream(client, stream);
      r->Run([&](Router& router, int64_t now, Actions* a) {
        router.Resume(id, request_id, resume_token, index, after, now, a);
      });
    });
  });
}

void SimCluster::Abort(int router, const std::string& id, const std::string& token) {
  RouterNode* r = routers_[static_cast<size_t>(router)].get();
  world.After(Delay(), [r, id, token] {
    r->Deliver(r->life(), [r, id, token] {
      r->Run(
          [&](Router& router, int64_t now, Actions* a) { (void)router.Abort(id, token, now, a); });
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
    } else if (kind < 42) {
      ++result_.hangs;
      target->Hang();
      world.After(length, [target] { target->Unhang(); });
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
