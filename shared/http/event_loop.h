// One thread's loop over sockets, timers and work posted from other threads (epoll).
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <vector>

namespace tutti::http {

class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using Work = std::function<void()>;

  class Watcher {
   public:
    virtual ~Watcher() = default;
    virtual void OnEvents(uint32_t events) = 0;  // EPOLLIN, EPOLLOUT, ...
  };

  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs in the calling thread until Stop. What was posted before Stop is still done.
  void Run();
  void Stop();

  // From any thread: `work` runs in the loop's thread, in the order of the calls; At and After when
  // their time has come. Never inside the call. After Stop, work is dropped.
  void Post(Work work);
  void At(Clock::time_point when, Work work);
  void After(int64_t ms, Work work) {
    At(Clock::now() + std::chrono::milliseconds(ms), std::move(work));
  }

  // In the loop's thread alone. `watcher` must stay until Unwatch and the end of the round of
  // events in which Unwatch was called (KeepUntilRoundEnd). False: the system refused.
  bool Watch(int fd, uint32_t events, Watcher* watcher);
  bool Change(int fd, uint32_t events, Watcher* watcher);
  void Unwatch(int fd);
  // Objects that events of this round may still name.
  void KeepUntilRoundEnd(std::shared_ptr<void> object) { kept_.push_back(std::move(object)); }

  // The time at the start of this round, good enough for deadlines. In the loop's thread alone.
  Clock::time_point now() const { return now_; }

 private:
  struct Timer {
    Clock::time_point when;
    uint64_t number;
    mutable Work work;
    bool operator>(const Timer& o) const {
      return when != o.when ? when > o.when : number > o.number;
    }
  };

  void Wake();
  int RunDue();  // returns the ms until the next timer, -1: none

  const int epoll_fd_, wake_fd_;
  std::atomic<bool> stop_{false};
  Clock::time_point now_ = Clock::now();
  std::vector<std::shared_ptr<void>> kept_;
  std::mutex mutex_;  // guards what follows
  std::vector<Work> posted_;
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
  uint64_t num_timers_ = 0;
  bool woken_ = false;
};

}  // namespace tutti::http
