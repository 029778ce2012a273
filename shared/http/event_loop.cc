#include "shared/http/event_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "shared/base/check.h"

namespace tutti::http {

EventLoop::EventLoop()
    : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  TUTTI_CHECK(epoll_fd_ >= 0 && wake_fd_ >= 0);
  epoll_event e{};
  e.events = EPOLLIN;
  e.data.ptr = nullptr;
  TUTTI_CHECK(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &e) == 0);
}

EventLoop::~EventLoop() {
  close(epoll_fd_);
  close(wake_fd_);
}

void EventLoop::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof one);
}

void EventLoop::Stop() {
  stop_ = true;
  Wake();
}

void EventLoop::Post(Work work) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
    wake = !std::exchange(woken_, true);
  }
  if (wake) Wake();
}

void EventLoop::At(Clock::time_point when, Work work) {
  bool wake;
  {
    std::lock_guard lock(mutex_);
    wake = (timers_.empty() || when < timers_.top().when) && !std::exchange(woken_, true);
    timers_.push({when, num_timers_++, std::move(work)});
  }
  if (wake) Wake();
}

bool EventLoop::Watch(int fd, uint32_t events, Watcher* watcher) {
  epoll_event e{};
  e.events = events;
  e.data.ptr = watcher;
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &e) == 0;
}

bool EventLoop::Change(int fd, uint32_t events, Watcher* watcher) {
  epoll_event e{};
  e.events = events;
  e.data.ptr = watcher;
  return epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &e) == 0;
}

void EventLoop::Unwatch(int fd) { epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr); }

int EventLoop::RunDue() {
  std::vector<Work> due;
  int wait = -1;
  {
    std::lock_guard lock(mutex_);
    woken_ = false;
    due.swap(posted_);
    while (!timers_.empty() && timers_.top().when <= now_) {
      due.push_back(std::move(timers_.top().work));
      timers_.pop();
    }
  }
  for (const Work& work : due) work();
  due.clear();  // what the work held may post more
  std::lock_guard lock(mutex_);
  if (!posted_.empty()) {
    wait = 0;
  } else if (!timers_.empty()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(timers_.top().when - Clock::now()).count();
    wait = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }
  return wait;
}

void EventLoop::Run() {
  constexpr int kEvents = 256;
  epoll_event events[kEvents];
  for (;;) {
    now_ = Clock::now();
    const int wait = RunDue();
    kept_.clear();
    if (stop_) return;
    const int n = epoll_wait(epoll_fd_, events, kEvents, wait);
    now_ = Clock::now();
    for (int i = 0; i < n; ++i) {
      if (events[i].data.ptr == nullptr) {
        uint64_t count;
        (void)!read(wake_fd_, &count, sizeof count);
      } else {
        static_cast<Watcher*>(events[i].data.ptr)->OnEvents(events[i].events);
      }
    }
    kept_.clear();
  }
}

}  // namespace tutti::http
