// Quick waking, for threads that hand work back and forth between processes of one machine.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace tutti {

// A thread that sleeps is woken in a few microseconds where its core is awake, and in 20 to 60
// where the core went idle and must be called back, as in a virtual machine. Threads that spin or
// yield instead keep their cores awake, but also keep them: the scheduler takes such a core for a
// busy one and puts those that have work together on another.
//
// This keeps cores awake with threads of the idle class (SCHED_IDLE), one bound to each: they run
// where nothing else would, whatever else wakes takes their core at once, and the scheduler counts
// such a core as free.
//
// Thread safety: any thread.
class WarmCores {
 public:
  // Of the cores that this process may use, so many, or all if there are fewer. Where the system
  // has no idle class, none.
  explicit WarmCores(int num_cores);
  ~WarmCores();
  WarmCores(const WarmCores&) = delete;
  WarmCores& operator=(const WarmCores&) = delete;

  // Awake for so long from now. Cheap where they are awake already.
  void KeepFor(int64_t us);

  // Threads that spin now; for tests.
  int num_awake() const { return num_awake_.load(); }

 private:
  void Work(int core);

  std::atomic<int64_t> until_us_{0};
  std::atomic<uint32_t> epoch_{0};  // changes to wake those that sleep
  std::atomic<int> num_awake_{0}, num_threads_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace tutti
