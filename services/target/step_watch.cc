#include "services/target/step_watch.h"

#include <algorithm>
#include <chrono>

#include "shared/base/clock.h"

namespace tutti::target {

void StepWatch::Begin(int64_t now_us) { last_us_.store(now_us, std::memory_order_relaxed); }

void StepWatch::Note(int64_t now_us) {
  const int64_t last = last_us_.load(std::memory_order_relaxed);
  const int64_t longest = longest_us_.load(std::memory_order_relaxed);
  const int64_t gap = last == 0 ? 0 : now_us - last;
  longest_us_.store(std::max(gap, longest - longest / 256), std::memory_order_relaxed);
  last_us_.store(now_us, std::memory_order_relaxed);
  signs_.fetch_add(1, std::memory_order_relaxed);
}

StepWatch::View StepWatch::Look(int64_t now_us) const {
  View view;
  view.signs = signs_.load(std::memory_order_relaxed);
  const bool first = steps_.load(std::memory_order_relaxed) < kFirstSteps;
  view.limit_us =
      first ? kFirstUs : std::max(kLeastUs, kGaps * longest_us_.load(std::memory_order_relaxed));
  const int64_t last = last_us_.load(std::memory_order_relaxed);
  if (last != 0) view.age_us = std::max<int64_t>(0, now_us - last);
  return view;
}

bool HangCounter::Look(const StepWatch::View& view, int64_t between_us, int64_t after_us) {
  const bool still = view.age_us > 0 && view.signs == signs_;
  still_us_ = still ? still_us_ + between_us : 0;
  signs_ = view.signs;
  return still_us_ > std::max(after_us, 2 * view.limit_us);
}

Watchdog::Watchdog(const StepWatch* watch, int64_t exit_after_us,
                   std::function<void(const StepWatch::View&)> on_look,
                   std::function<void(const StepWatch::View&)> on_hang)
    : watch_(watch),
      exit_after_us_(exit_after_us),
      on_look_(std::move(on_look)),
      on_hang_(std::move(on_hang)),
      thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void Watchdog::Run() {
  constexpr int64_t kBetweenUs = 250'000;
  HangCounter counter;
  bool told = false;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    stop_.wait_for(lock, std::chrono::microseconds(kBetweenUs));
    if (stopping_) return;
    const StepWatch::View view = watch_->Look(SteadyNowUs());
    on_look_(view);
    if (exit_after_us_ > 0 && !told && counter.Look(view, kBetweenUs, exit_after_us_)) {
      told = true;
      on_hang_(view);
    }
  }
}

}  // namespace tutti::target
