#include "services/target/engine_loop.h"

#include <pthread.h>

#include <chrono>
#include <utility>

#include "shared/base/clock.h"
#include "shared/base/floating_point.h"

namespace tutti::target {
namespace {

absl::Status Draining() { return WithReason(absl::UnavailableError("draining"), "DRAINING"); }

}  // namespace

EngineLoop::EngineLoop(std::unique_ptr<engine::Engine> engine, int max_waiting, int messages_per_s,
                       ThreadPool* pool, TargetMetrics* metrics)
    : max_waiting_(max_waiting),
      pool_(pool),
      metrics_(metrics),
      engine_(std::move(engine)),
      pacer_(messages_per_s) {
  Publish(NowUs());
  thread_ = std::thread([this] { Run(); });
}

EngineLoop::~EngineLoop() { Stop(); }

int64_t EngineLoop::NowUs() { return SteadyNowUs(); }

absl::StatusOr<engine::SequenceId> EngineLoop::Submit(engine::SequenceRequest request,
                                                      std::shared_ptr<OutputSink> sink) {
  absl::Status refusal;
  engine::SequenceId id = 0;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) {
      refusal = Draining();
    } else if (stats_.num_waiting + queued_submits_ >= max_waiting_) {
      refusal = WithReason(
          absl::ResourceExhaustedError("queue full: " + std::to_string(max_waiting_) + " wait"),
          "QUEUE_FULL");
    } else {
      id = request.id = next_id_++;
      Command& command = commands_.emplace_back();
      command.id = id;
      command.sink = std::move(sink);
      command.request = std::move(request);
      command.submit_us = NowUs();
      ++queued_submits_;
      NoteWorkLocked();
    }
  }
  if (!refusal.ok()) {
    metrics_->Refused(refusal);
    return refusal;
  }
  wake_.notify_one();
  return id;
}

void EngineLoop::Queue(Command command) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    commands_.push_back(std::move(command));
    NoteWorkLocked();
  }
  wake_.notify_one();
}

void EngineLoop::Cancel(engine::SequenceId id) {
  Command command;
  command.kind = Command::Kind::kCancel;
  command.id = id;
  Queue(std::move(command));
}

void EngineLoop::Hint(engine::SequenceId id, int32_t position, std::vector<int32_t> tokens) {
  Command command;
  command.kind = Command::Kind::kHint;
  command.id = id;
  command.position = position;
  command.tokens = std::move(tokens);
  Queue(std::move(command));
}

void EngineLoop::Confirm(engine::SequenceId id, uint64_t epoch, int32_t position,
                         std::vector<int32_t> tokens) {
  Command command;
  command.kind = Command::Kind::kConfirm;
  command.id = id;
  command.epoch = epoch;
  command.position = position;
  command.tokens = std::move(tokens);
  Queue(std::move(command));
}

void EngineLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

engine::EngineStats EngineLoop::stats() const {
  std::lock_guard lock(mutex_);
  engine::EngineStats stats = stats_;
  stats.num_waiting += queued_submits_;
  return stats;
}

double EngineLoop::tokens_per_s() const {
  std::lock_guard lock(mutex_);
  return tokens_per_s_;
}

void EngineLoop::Run() {
  pthread_setname_np(pthread_self(), "engine");
  SetStrictFloatingPoint();
  Progress progress(&watch_);
  SetProgressListener(&progress);
  std::vector<Command> commands;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (!engine_->HasWork()) {
        tokens_per_s_ = 0;
        asleep_ = commands_.empty();
        if (asleep_) watch_.Idle();
        wake_.wait(lock, [&] { return stopping_ || !commands_.empty(); });
        asleep_ = false;
      }
      if (stopping_) break;
      commands.swap(commands_);
      queued_submits_ = 0;
    }
    Execute(&commands);
    watch_.Note(NowUs());
    if (engine_->HasWork()) {
      auto outputs = engine_->Step(NowUs());
      const int64_t now_us = NowUs();
      // Freed pages and the shorter queue show before the clients hear of it.
      Publish(now_us);
      Deliver(&outputs, now_us);
      watch_.EndStep();
    } else {
      Publish(NowUs());
    }
  }
  // Commands that came with the stop, and everything live.
  {
    std::lock_guard lock(mutex_);
    commands.swap(commands_);
    queued_submits_ = 0;
  }
  const absl::Status status = Draining();
  for (Command& command : commands) {
    if (command.kind == Command::Kind::kSubmit) {
      command.sink->OnRefused(status);
    } else if (command.kind == Command::Kind::kCancel) {
      live_.erase(command.id);
    }
  }
  for (auto& [id, live] : live_) {
    engine_->Cancel(id);
    live.sink->OnRefused(status);
  }
  live_.clear();
}

void EngineLoop::Execute(std::vector<Command>* commands) {
  for (Command& command : *commands) {
    switch (command.kind) {
      case Command::Kind::kCancel:
        engine_->Cancel(command.id);
        if (live_.erase(command.id) > 0) metrics_->Cancelled();
        continue;
      case Command::Kind::kHint:
        engine_->Hint(command.id, command.position, command.tokens);
        continue;
      case Command::Kind::kConfirm:
        engine_->Confirm(command.id, command.epoch, command.position, command.tokens);
        continue;
      case Command::Kind::kSubmit:
        break;
    }
    Live live{std::move(command.sink), {}};
    live.times.submit_us = command.submit_us;
    absl::Status status = engine_->Submit(std::move(command.request), NowUs());
    if (status.ok()) {
      live_.emplace(command.id, std::move(live));
    } else {
      metrics_->Refused(status);
      live.sink->OnRefused(std::move(status));
    }
  }
  commands->clear();
}

void EngineLoop::Deliver(std::vector<engine::SequenceOutput>* outputs, int64_t now_us) {
  const uint64_t prefilled = stats_.prefill_tokens;  // written by this thread alone
  const bool due = pacer_.Due(now_us, static_cast<int64_t>(live_.size()), prefilled != prefilled_);
  prefilled_ = prefilled;
  std::vector<std::shared_ptr<OutputSink>> ready;
  for (engine::SequenceOutput& output : *outputs) {
    const auto it = live_.find(output.id);
    if (it == live_.end()) continue;
    Live& live = it->second;
    metrics_->Observe(output, now_us, &live.times);
    const bool ends = output.finish != engine::FinishReason::kNone;
    const bool urgent = ends || output.first_index == 0;
    if (urgent) ready.push_back(live.sink);
    live.holding = !urgent;
    const auto sink = live.sink;
    if (ends) live_.erase(it);
    sink->OnOutput(std::move(output));
  }
  if (due) {
    for (auto& [id, live] : live_) {
      if (std::exchange(live.holding, false)) ready.push_back(live.sink);
    }
  }
  if (ready.empty()) return;
  pool_->Post([ready = std::move(ready)] {
    for (const auto& sink : ready) sink->Flush();
  });
}

void EngineLoop::Publish(int64_t now_us) {
  const engine::EngineStats stats = engine_->Stats();
  metrics_->Publish(stats);
  std::lock_guard lock(mutex_);
  stats_ = stats;
  constexpr int64_t kWindowUs = 1000000;
  if (now_us - rate_since_us_ >= kWindowUs) {
    const double seconds = static_cast<double>(now_us - rate_since_us_) * 1e-6;
    // After a pause the window is long; the rate over it would say nothing about now.
    tokens_per_s_ =
        seconds < 3 ? static_cast<double>(stats.decode_tokens - rate_tokens_) / seconds : 0;
    rate_since_us_ = now_us;
    rate_tokens_ = stats.decode_tokens;
  }
}

}  // namespace tutti::target
