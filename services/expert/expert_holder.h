// Loads what a router assigned to this shard, in a thread beside the one that computes.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "services/expert/expert_store.h"

namespace tutti::expert {

// Thread-safe.
class ExpertHolder {
 public:
  // `on_change` is called, now and then while it loads and once it is done, from its thread.
  explicit ExpertHolder(std::function<void()> on_change);
  ~ExpertHolder() { Stop(); }

  // Once the files are open; what was assigned before is remembered.
  void SetStore(ExpertStore* store);
  void Assign(placement::ExpertAssignment assignment);
  void Stop();

 private:
  void Run();

  const std::function<void()> on_change_;
  std::mutex mutex_;
  std::condition_variable wake_;
  ExpertStore* store_ = nullptr;
  std::optional<placement::ExpertAssignment> assignment_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tutti::expert
