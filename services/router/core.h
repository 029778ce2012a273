// The shell around router::Router: a lock, the calls to workers, the journal, the clock.
//
// gRPC's threads bring events in through Run; the state machine's actions are done before the lock
// is let go, in order. Nothing done under the lock blocks: calls are started, journal writes go to
// memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "services/router/metrics.h"
#include "shared/router/router.h"
#include "shared/rpc/clients/decoder_client.h"
#include "shared/rpc/clients/tokenizer_client.h"
#include "shared/store/journal.h"

namespace tutti::router {

// One client stream.
class Sink {
 public:
  virtual ~Sink() = default;
  // There may be something to send. With the core's lock held: the stream takes what it will write
  // from NextLocked and asks for Perform (Core::PerformLater), at most one at a time.
  virtual void OnWake() = 0;
  // Starts the write, or the end, that was prepared. Without the lock: it may cost a system call.
  virtual void Perform() = 0;
};

// One Join stream.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void Send(const action::Directive& directive) = 0;
  virtual void Close(const absl::Status& status) = 0;
};

struct CoreOptions {
  RouterOptions router;
  rpc::TlsOptions tls;  // of the calls to workers
  int64_t encode_deadline_us = 10'000'000;
  int64_t model_deadline_us = 5'000'000;
  int64_t vocabulary_deadline_us = 30'000'000;
};

class Core {
 public:
  // `metrics` is borrowed.
  Core(const CoreOptions& options, std::unique_ptr<store::Journal> journal, RouterMetrics* metrics);
  ~Core();

  // Calls fn(router, now_us, actions) under the lock, then does the actions.
  template <typename F>
  auto Run(F&& fn) {
    Outbox outbox;
    std::lock_guard<std::mutex> lock(mu_);
    if constexpr (std::is_void_v<decltype(fn(router_, int64_t{}, &actions_))>) {
      fn(router_, NowUs(), &actions_);
      Execute();
      outbox.sinks.swap(ready_);
    } else {
      auto result = fn(router_, NowUs(), &actions_);
      Execute();
      outbox.sinks.swap(ready_);
      return result;
    }
  }
  // The same for what changes nothing.
  template <typename F>
  auto Read(F&& fn) {
    std::lock_guard<std::mutex> lock(mu_);
    return fn(static_cast<const Router&>(router_));
  }

  // Requests of a model so far.
  ModelCounts CountsOf(const std::string& model) {
    std::lock_guard<std::mutex> lock(mu_);
    return metrics_->CountsOf(model);
  }

  // With the lock held (inside Run, or in Sink::OnWake).
  SubscriberId AddSinkLocked(Sink* sink);
  void RemoveSinkLocked(SubscriberId id);
  WorkerHandle AddWorkerLocked(WorkerLink* link);
  void RemoveWorkerLocked(WorkerHandle handle);
  void PerformLater(Sink* sink) { ready_.push_back(sink); }
  std::optional<Message> NextLocked(SubscriberId id) { return router_.Next(id); }

  // A client of some tokenizer for this model; null: none is there.
  std::shared_ptr<rpc::TokenizerClient> TokenizerFor(uint64_t tokenizer_fingerprint);

  // Abort wherever the request is: running, or parked in the journal. Errors: NOT_FOUND (also with
  // a resume_token that is not its own)
  absl::Status Abort(const std::string& request_id, const std::string& resume_token);

  // Refuses new requests; those that run go on with the workers that are there (Router::Drain).
  void Drain();
  // Ends the workers' streams: nothing runs any more.
  void CloseWorkers();

  int64_t started_unix_s() const { return started_unix_s_; }
  static int64_t NowUs();
  static int64_t UnixUs();

 private:
  // Lets the streams write once the lock is gone.
  using Sinks = absl::InlinedVector<Sink*, 8>;
  struct Outbox {
    ~Outbox() {
      for (Sink* sink : sinks) sink->Perform();
    }
    Sinks sinks;
  };
  class Listener;
  struct WorkerClients {
    std::string address;
    std::unique_ptr<rpc::DecoderClient> decoder;
    std::shared_ptr<rpc::TokenizerClient> tokenizer;
  };

  void Execute();
  void Do(action::Encode& a);
  void Do(action::OpenDecode& a);
  void Do(action::Hint& a);
  void Do(action::Confirm& a);
  void Do(action::CancelCall& a);
  void Do(action::FetchModel& a);
  void Do(action::FetchVocabulary& a);
  void Do(action::JournalCreate& a);
  void Do(action::JournalPrompt& a);
  void Do(action::JournalAppend& a);
  void Do(action::JournalFinish& a);
  void Do(action::LoadJournal& a);
  void Do(action::Wake& a);
  void Do(action::Directive& a);
  void Do(action::CloseWorker& a);
  void NoteJournal(const std::string& request_id, const absl::Status& status);

  absl::StatusOr<rpc::DecoderClient*> Decoder(WorkerHandle handle, const std::string& address,
                                              const char* kind = "target");
  absl::StatusOr<std::shared_ptr<rpc::TokenizerClient>> Tokenizer(WorkerHandle handle,
                                                                  const std::string& address);
  std::string WorkerName(const char* kind, WorkerHandle handle) const;
  void TickLoop();

  const CoreOptions options_;
  const int64_t started_unix_s_ = UnixUs() / 1'000'000;
  const std::unique_ptr<store::Journal> journal_;
  RouterMetrics* const metrics_;

  std::mutex mu_;
  Router router_;
  Actions actions_;
  std::vector<SubscriberId> woken_;
  Sinks ready_;
  std::unordered_map<SubscriberId, Sink*> sinks_;
  std::map<WorkerHandle, WorkerLink*> links_;
  std::map<WorkerHandle, WorkerClients> clients_;
  std::unordered_map<CallId, std::shared_ptr<rpc::DecodeStream>> streams_;
  uint64_t last_id_ = 0;
  // Calls that may still come back to us; the destructor waits for them.
  int64_t outstanding_ = 0;
  std::condition_variable quiet_;

  bool stopping_ = false;
  std::condition_variable stop_;
  std::thread ticker_;
};

}  // namespace tutti::router
