// The process of a router in the simulation.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shared/router/router.h"
#include "shared/store/journal.h"
#include "tests/fault/sim_client.h"
#include "tests/fault/sim_cluster.h"
#include "tests/fault/sim_workers.h"

namespace tutti::fault {

class Tokenizer final : public Process {
 public:
  using Process::Process;
};

// What a router sees of the cluster around it.
class Surroundings {
 public:
  explicit Surroundings(const SimOptions& o) : options(o) {}
  virtual ~Surroundings() = default;

  virtual int64_t Delay() = 0;  // of a message, in us
  // From or to a target or tokenizer: a cut link holds messages back until it is whole again.
  virtual int64_t Delay(int router, const Process* worker) = 0;
  virtual Target* TargetAt(const std::string& address) = 0;  // nullptr: nobody is there
  virtual Tokenizer* TokenizerAt(const std::string& address) = 0;
  virtual bool IsSilent(const Process* p) const = 0;  // dead without a word
  virtual uint64_t NewId() = 0;
  virtual void Left(int router, router::WorkerHandle handle) = 0;

  const SimOptions options;
  bool raw_network = false;  // replies lost, doubled, reordered: worse than gRPC would ever do
  std::unique_ptr<store::Journal> journal;
  std::shared_ptr<const tokenizer::TokenDecoder> decoder = MakeDecoder();
};

// The shell around router::Router, as services/router is one.
class RouterNode final : public Process, public router::Observer {
 public:
  RouterNode(Surroundings* cluster, World* world, int index, const router::RouterOptions& options);

  template <typename F>
  void Run(F&& fn) {
    fn(*router_, world_->now_us(), &actions_);
    Execute();
  }
  router::Router& router() { return *router_; }
  int index() const { return index_; }

  router::SubscriberId AddStream(Client* client, std::shared_ptr<ClientStream> stream);
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
  void Pump(router::SubscriberId id);
  void ScheduleTick();
  void Do(router::action::Encode& a);
  void Do(router::action::OpenDecode& a);
  void Do(router::action::Hint& a);
  void Do(router::action::Confirm& a);
  template <typename F>
  void ToDecoder(router::CallId call, F tell);
  template <typename T, typename Node>
  void Ask(Node* node, std::function<T()> reply,
           std::function<void(router::Router&, absl::StatusOr<T>, int64_t, router::Actions*)> take);
  void Do(router::action::CancelCall& a);
  void Do(router::action::FetchModel& a);
  void Do(router::action::FetchVocabulary& a);
  void Do(router::action::JournalCreate& a);
  void Do(router::action::JournalPrompt& a);
  void Do(router::action::JournalAppend& a);
  void Do(router::action::JournalFinish& a);
  void Do(router::action::LoadJournal& a);
  void Do(router::action::Wake& a) { woken_.push_back(a.subscriber); }
  void Do(router::action::Directive&) {}
  void Do(router::action::CloseWorker& a);

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

  Surroundings* const cluster_;
  const int index_;
  const router::RouterOptions options_;
  std::unique_ptr<router::Router> router_;
  router::Actions actions_;
  std::vector<router::SubscriberId> woken_;
  std::map<router::SubscriberId, Subscription> subscriptions_;
  std::map<router::CallId, Route> routes_;
  bool executing_ = false;
};

}  // namespace tutti::fault
