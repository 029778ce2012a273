// The one thread that owns the engine: takes commands, steps, hands out what came.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "services/target/emission_pacer.h"
#include "services/target/step_watch.h"
#include "services/target/target_metrics.h"
#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"

namespace tutti::target {

// Where the output of one sequence goes. Called from the engine's thread, which must not wait
// there, but for Flush.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // Gathers; what is there goes out at the next Flush, which comes after the step, or when
  // EmissionPacer says so. Nothing comes after an output with `finish` set but its Flush.
  virtual void OnOutput(engine::SequenceOutput output) = 0;
  // From a thread of the pool, beside the next step and so beside its OnOutput: a write wakes the
  // reader, which should not take the core of the engine's thread.
  virtual void Flush() = 0;
  // The sequence was not taken, or the loop stopped under it. The last call.
  virtual void OnRefused(absl::Status status) = 0;
};

// Sleeps when there is no work. Thread-safe.
class EngineLoop {
 public:
  // `max_waiting`: the engine's own bound; what is on its way to the engine counts against it too.
  // `messages_per_s`: see EmissionPacer. `pool`, which flushes the sinks, and `metrics` are
  // borrowed and must outlive the loop; so must the sinks' carriers outlive the pool's jobs.
  EngineLoop(std::unique_ptr<engine::Engine> engine, int max_waiting, int messages_per_s,
             ThreadPool* pool, TargetMetrics* metrics);
  ~EngineLoop();  // Stop()

  // Takes a sequence (its id is set here) and returns its id. What Engine::Submit says against it
  // comes to the sink, from the engine's thread. Errors: RESOURCE_EXHAUSTED, reason QUEUE_FULL: at
  // once, when too many are queued already
  //         UNAVAILABLE, reason DRAINING: after Stop
  absl::StatusOr<engine::SequenceId> Submit(engine::SequenceRequest request,
                                            std::shared_ptr<OutputSink> sink);

  // Before the next step; see Engine. Ids that are gone are ignored.
  void Hint(engine::SequenceId id, int32_t position, std::vector<int32_t> tokens);
  void Confirm(engine::SequenceId id, uint64_t epoch, int32_t position,
               std::vector<int32_t> tokens);

  // Frees the sequence's pages before the next step. The sink gets no further call, except one that
  // is under way now. Ids that are gone are ignored.
  void Cancel(engine::SequenceId id);

  // Refuses what is live with UNAVAILABLE and ends the thread.
  void Stop();

  // As of the last step, plus what is queued for the engine.
  engine::EngineStats stats() const;
  double tokens_per_s() const;  // output tokens over about the last second
  const StepWatch& watch() const { return watch_; }

  static int64_t NowUs();  // the clock of deadlines: steady, µs

 private:
  struct Command {
    enum class Kind { kSubmit, kCancel, kHint, kConfirm } kind = Kind::kSubmit;
    engine::SequenceId id = 0;
    std::shared_ptr<OutputSink> sink;  // of a submit
    engine::SequenceRequest request;
    int64_t submit_us = 0;
    uint64_t epoch = 0;  // of a confirm
    int32_t position = 0;
    std::vector<int32_t> tokens;
  };
  void Queue(Command command);
  // Somebody is to wake up: from now on it is the engine's turn. With the mutex held.
  void NoteWorkLocked() {
    if (asleep_) watch_.Begin(NowUs());
    asleep_ = false;
  }
  class Progress final : public ProgressListener {
   public:
    explicit Progress(StepWatch* watch) : watch_(watch) {}
    void OnProgress() override { watch_->Note(NowUs()); }

   private:
    StepWatch* const watch_;
  };
  struct Live {
    std::shared_ptr<OutputSink> sink;
    SequenceTimes times;
    bool holding = false;  // the sink has tokens that no Flush followed
  };

  void Run();
  void Execute(std::vector<Command>* commands);
  void Deliver(std::vector<engine::SequenceOutput>* outputs, int64_t now_us);
  void Publish(int64_t now_us);

  const int max_waiting_;
  ThreadPool* const pool_;
  TargetMetrics* const metrics_;

  StepWatch watch_;

  // The engine thread's own.
  std::unique_ptr<engine::Engine> engine_;
  std::unordered_map<engine::SequenceId, Live> live_;
  EmissionPacer pacer_;
  uint64_t prefilled_ = 0;  // rows of prefill up to the last step
  int64_t rate_since_us_ = 0;
  uint64_t rate_tokens_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Command> commands_;
  engine::EngineStats stats_;
  int queued_submits_ = 0;
  engine::SequenceId next_id_ = 1;
  double tokens_per_s_ = 0;
  bool stopping_ = false;
  bool asleep_ = false;  // the engine's thread has nothing to do
  std::thread thread_;
};

}  // namespace tutti::target
