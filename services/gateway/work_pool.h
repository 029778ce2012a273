// Threads for what must not block the io threads: parsing bodies, writing large texts.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "shared/http/exchange.h"

namespace tutti::gateway {

// Work waits in a queue that is bounded in number and in time.
// Thread safety: all methods.
class WorkPool {
 public:
  struct Options {
    int threads = 4;
    int queue = 1024;    // requests that may wait
    int wait_ms = 5000;  // how long one may wait
  };
  using Work = std::function<void(const std::shared_ptr<http::Exchange>&)>;

  // `refuse` answers a request that is not done: the queue is full, or it waited too long.
  WorkPool(const Options& options, Work refuse);
  ~WorkPool();  // does what waits

  // Work whose client has gone is dropped.
  void Submit(std::shared_ptr<http::Exchange> exchange, Work work);

 private:
  struct Job {
    std::shared_ptr<http::Exchange> exchange;
    Work work;
    std::chrono::steady_clock::time_point since;
  };
  void Run();

  const Options options_;
  const Work refuse_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::vector<std::thread> threads_;
  bool stop_ = false;
};

}  // namespace tutti::gateway
