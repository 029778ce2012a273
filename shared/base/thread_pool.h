// A fixed set of threads for one kind of work: a loop over independent outputs.
#pragma once

#include <climits>
#include <cstdint>
#include <functional>
#include <memory>

namespace tutti {

// The caller is one of the threads, so a pool of 1 starts none. Between loops the workers spin for
// a short while (`spin_us`) and then sleep, because services share cores.
//
// Determinism: the pool divides outputs, never a reduction (docs/determinism.md, G3), so the number
// of threads cannot show in a result. Thread safety: one ParallelFor at a time, from one thread;
// not re-entrant.
class ThreadPool {
 public:
  struct Options {
    int num_threads = 1;  // including the caller; >= 1
    int spin_us = 50;     // busy wait before sleeping; 0 sleeps at once
    bool pin = false;     // bind worker i to the i-th core this process may use
  };
  explicit ThreadPool(const Options& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Where the share of thread `thread` of `num_threads` begins in a loop; that of the next thread
  // is its end.
  static constexpr int64_t ShareBegin(int64_t num_tasks, int64_t thread, int64_t num_threads) {
    return num_tasks * thread / num_threads;
  }

  // Calls body(task, thread) once for every task in [0, num_tasks), thread in [0, num_threads()),
  // and returns when all are done. A thread begins with the tasks of its share, in ascending order;
  // who is done with his own takes the last ones of others. So tasks that are neighbours should
  // read what is neighbouring. `body` must not throw. `max_threads` (>= 1): no more of the threads
  // take tasks, the first ones. REQUIRES: num_tasks < 2^24.
  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task, int thread)>& body,
                   int max_threads = INT_MAX);

  // Until the next loop the workers sleep instead of spinning: for a caller that is about to wait
  // for other processes, which may want the cores (see WarmCores). From the thread that runs the
  // loops.
  void GiveWay();

  // Runs `job` once on a worker, beside the loops: whoever posts it goes on, and a loop that starts
  // meanwhile is done by the other threads. For short work that others wait for, such as a write to
  // a socket: the process which that wakes tends to run on the core of the thread that wrote. A
  // pool of 1 runs it here and now. The job must not throw, nor wait for a loop; it has run when
  // the pool is gone. From the thread that runs the loops.
  void Post(std::function<void()> job);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti
