#include "services/gateway/work_pool.h"

#include <utility>

namespace tutti::gateway {

WorkPool::WorkPool(const Options& options, Work refuse)
    : options_(options), refuse_(std::move(refuse)) {
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void WorkPool::Submit(std::shared_ptr<http::Exchange> exchange, Work work) {
  {
    std::lock_guard lock(mutex_);
    if (jobs_.size() < static_cast<size_t>(options_.queue)) {
      jobs_.push_back({std::move(exchange), std::move(work), std::chrono::steady_clock::now()});
      exchange = nullptr;
    }
  }
  if (exchange != nullptr) return refuse_(exchange);
  wake_.notify_one();
}

void WorkPool::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    const auto waited = std::chrono::steady_clock::now() - job.since;
    if (job.exchange->gone()) {
    } else if (waited > std::chrono::milliseconds(options_.wait_ms)) {
      refuse_(job.exchange);
    } else {
      job.work(job.exchange);
    }
    job = {};
    lock.lock();
  }
}

}  // namespace tutti::gateway
