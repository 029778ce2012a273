// Is the engine's thread getting on? Reports carry the answer to routers, which leave a target
// whose engine hangs while its other threads live; a watchdog ends the process.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "shared/base/progress.h"

namespace tutti::target {

// Written by the engine's thread, read by any. Time is passed in.
//
// What is normal is measured: the limit is 8 times the longest gap between two signs of progress
// seen lately, at least 1 s. In the first steps, when weights are read from disk, it is 30 s.
class StepWatch {
 public:
  struct View {
    int64_t age_us = 0;    // since the last sign of progress while there is work; 0 without work
    int64_t limit_us = 0;  // an older sign means that the engine hangs
    uint64_t signs = 0;    // so far
    bool hung() const { return age_us > limit_us; }
  };

  // There is work now. Also from a thread that hands work to a sleeping engine.
  void Begin(int64_t now_us);
  void Note(int64_t now_us);
  void EndStep() { steps_.fetch_add(1, std::memory_order_relaxed); }
  void Idle() { last_us_.store(0, std::memory_order_relaxed); }

  View Look(int64_t now_us) const;

 private:
  static constexpr uint64_t kFirstSteps = 3;
  static constexpr int64_t kLeastUs = 1'000'000, kFirstUs = 30'000'000, kGaps = 8;
  std::atomic<int64_t> last_us_{0};  // 0: no work
  std::atomic<int64_t> longest_us_{0};
  std::atomic<uint64_t> steps_{0}, signs_{0};
};

// Counts time in looks, not by the clock: a process that was stopped as a whole did not look.
class HangCounter {
 public:
  // True when in looks that are `between_us` apart nothing moved for as long as `after_us` and
  // twice the view's limit.
  bool Look(const StepWatch::View& view, int64_t between_us, int64_t after_us);

 private:
  uint64_t signs_ = 0;
  int64_t still_us_ = 0;
};

// A thread that looks at the watch 4 times a second.
class Watchdog {
 public:
  // `watch` is borrowed. `on_look` gets every view; `on_hang` is called once, when the engine hangs
  // for `exit_after_us` (0: never).
  Watchdog(const StepWatch* watch, int64_t exit_after_us,
           std::function<void(const StepWatch::View&)> on_look,
           std::function<void(const StepWatch::View&)> on_hang);
  ~Watchdog();

 private:
  void Run();

  const StepWatch* const watch_;
  const int64_t exit_after_us_;
  const std::function<void(const StepWatch::View&)> on_look_, on_hang_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tutti::target
