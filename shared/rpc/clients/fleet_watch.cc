#include "shared/rpc/clients/fleet_watch.h"

#include <chrono>

#include "shared/base/hash.h"
#include "shared/rpc/channel.h"
#include "shared/telemetry/log.h"
#include "shared/wire/fleet.h"

namespace tutti::rpc {
namespace {

constexpr std::chrono::milliseconds kInterval{100};
constexpr int kDeadlineMs = 1000;

}  // namespace

FleetWatch::FleetWatch(const std::vector<std::shared_ptr<grpc::Channel>>& routers,
                       const wire::ExpertShape& shape)
    : shape_(shape) {
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

bool FleetWatch::Take(News* news) {
  if (!changed_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  changed_ = false;
  news->shards = news_.shards;
  news->suspects = news_.suspects;
  news->holders = std::move(news_.holders);
  news_.holders.clear();
  return true;
}

void FleetWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    News found;
    const bool asked = Ask(&found);
    lock.lock();
    // With no router to ask, what was known stays.
    if (asked && (found.shards != news_.shards || found.suspects != news_.suspects)) {
      news_.shards = std::move(found.shards);
      news_.suspects = std::move(found.suspects);
      changed_ = true;
    }
    if (!found.holders.empty()) {
      news_.holders = std::move(found.holders);
      changed_ = true;
    }
    wake_.wait_for(lock, kInterval, [this] { return stop_; });
  }
}

bool FleetWatch::Ask(News* news) {
  bool asked = false, placed = false;
  for (const auto& stub : stubs_) {
    grpc::ClientContext context;
    SetDeadlineMs(&context, kDeadlineMs);
    fleet::v1::GetFleetRequest request;
    request.set_placement_epoch(placement_epoch_);
    fleet::v1::GetFleetResponse response;
    if (!stub->GetFleet(&context, request, &response).ok()) continue;
    bool shards = false;
    for (const fleet::v1::WorkerReport& w : response.workers()) {
      if (w.kind() != fleet::v1::WORKER_KIND_EXPERT || w.fingerprint() != shape_.fingerprint)
        continue;
      shards = true;
      if (w.state() == fleet::v1::WORKER_STATE_READY) news->shards.insert(w.address());
      if (!w.quarantined_by().empty()) news->suspects.insert(w.experts().process());
    }
    // The first router that knows shards is the one whose placement counts, also when it has no
    // news.
    if (shards && !placed) news->holders = HoldersIn(response);
    placed |= shards;
    asked = true;
  }
  return asked;
}

exchange::Holders FleetWatch::HoldersIn(const fleet::v1::GetFleetResponse& response) {
  exchange::Holders holders;
  for (const fleet::v1::ExpertPlacement& proto : response.placements()) {
    if (proto.fingerprint() != shape_.fingerprint) continue;
    const auto p = wire::PlacementFromProto(proto);
    if (!p.ok() || p->num_layers != static_cast<uint32_t>(shape_.num_layers) ||
        p->experts_per_layer != static_cast<uint32_t>(shape_.experts_per_layer)) {
      telemetry::Log(telemetry::Level::kWarning, "experts/placement",
                     {{"error", p.ok() ? "of another shape" : p.status().ToString()}});
      continue;
    }
    std::vector<uint64_t> keys;
    for (const std::string& address : p->shards) keys.push_back(Hash64(address));
    for (const auto& copies : p->copies) {
      auto& of_expert = holders.emplace_back();
      for (const uint32_t shard : copies) of_expert.push_back(keys[shard]);
    }
    placement_epoch_ = p->epoch;
  }
  return holders;
}

}  // namespace tutti::rpc
