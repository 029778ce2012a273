#include "shared/rpc/clients/fleet_watch.h"

#include <grpcpp/client_context.h>

#include <chrono>

#include "shared/rpc/channel.h"

namespace tutti::rpc {
namespace {

constexpr int kFleetMs = 100;

}  // namespace

FleetWatch::FleetWatch(const std::vector<std::shared_ptr<grpc::Channel>>& routers,
                       uint64_t fingerprint)
    : fingerprint_(fingerprint) {
  for (const auto& r : routers) stubs_.push_back(fleet::v1::FleetService::NewStub(r));
  if (!stubs_.empty()) thread_ = std::thread([this] { Run(); });
}

FleetWatch::~FleetWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool FleetWatch::Take(std::set<std::string>* addresses) {
  if (!changed_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  changed_ = false;
  *addresses = addresses_;
  return true;
}

void FleetWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    std::set<std::string> found;
    bool asked = false;
    for (const auto& stub : stubs_) {
      grpc::ClientContext context;
      SetDeadlineMs(&context, 1000);
      fleet::v1::GetFleetResponse response;
      if (!stub->GetFleet(&context, {}, &response).ok()) continue;
      asked = true;
      for (const fleet::v1::WorkerReport& w : response.workers()) {
        if (w.kind() == fleet::v1::WORKER_KIND_EXPERT && w.fingerprint() == fingerprint_ &&
            w.state() == fleet::v1::WORKER_STATE_READY) {
          found.insert(w.address());
        }
      }
    }
    lock.lock();
    if (asked && found != addresses_) {  // with no router to ask, what was known stays
      addresses_ = std::move(found);
      changed_ = true;
    }
    wake_.wait_for(lock, std::chrono::milliseconds(kFleetMs), [this] { return stop_; });
  }
}

}  // namespace tutti::rpc
