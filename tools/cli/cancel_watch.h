// Ends a blocking call when a flag is raised.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace tutti::cli {

// While it lives, a thread looks at `stop` and calls `cancel` once when it is true. Without a flag
// (null) it does nothing. `cancel` must end the call from another thread.
class CancelWatch {
 public:
  CancelWatch(const std::atomic<bool>* stop, std::function<void()> cancel) {
    if (stop == nullptr) return;
    thread_ = std::thread([this, stop, cancel = std::move(cancel)] {
      std::unique_lock lock(mutex_);
      while (!done_ && !stop->load()) wake_.wait_for(lock, std::chrono::milliseconds(20));
      if (!done_) cancel();
    });
  }
  ~CancelWatch() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  CancelWatch(const CancelWatch&) = delete;
  CancelWatch& operator=(const CancelWatch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace tutti::cli
