#include "services/expert/expert_holder.h"

#include <chrono>

#include "shared/base/clock.h"

namespace tutti::expert {
namespace {

constexpr int64_t kTellUs = 50'000;              // between reports while loading
constexpr std::chrono::milliseconds kLook{500};  // for room, and for what is idle

}  // namespace

ExpertHolder::ExpertHolder(std::function<void()> on_change)
    : on_change_(std::move(on_change)), thread_([this] { Run(); }) {}

void ExpertHolder::SetStore(ExpertStore* store) {
  {
    std::lock_guard lock(mutex_);
    store_ = store;
  }
  wake_.notify_all();
}

void ExpertHolder::Assign(placement::ExpertAssignment assignment) {
  {
    std::lock_guard lock(mutex_);
    assignment_ = std::move(assignment);
  }
  wake_.notify_all();
}

void ExpertHolder::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ExpertHolder::Run() {
  std::unique_lock lock(mutex_);
  int64_t told_us = 0;
  bool news = false;
  while (!stopping_) {
    ExpertStore* const store = store_;
    std::optional<placement::ExpertAssignment> assignment;
    if (store != nullptr) assignment.swap(assignment_);
    lock.unlock();
    bool loaded = false;
    if (store != nullptr) {
      if (assignment) store->Assign(*assignment);
      loaded = store->LoadNext(SteadyNowUs());
      news |= loaded || assignment.has_value();
    }
    if (const int64_t now = SteadyNowUs(); news && (!loaded || now - told_us > kTellUs)) {
      on_change_();
      told_us = now;
      news = false;
    }
    lock.lock();
    if (!loaded)
      wake_.wait_for(lock, kLook, [this] { return stopping_ || (store_ && assignment_); });
  }
}

}  // namespace tutti::expert
