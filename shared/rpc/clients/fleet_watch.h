// Asks routers which expert shards there are and who holds what, from a thread of its own.
#pragma once

#include <grpcpp/channel.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shared/exchange/placement.h"
#include "shared/wire/expert.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::rpc {

// Thread safety: Take from one thread.
class FleetWatch {
 public:
  // Asks every 100 ms. Shards count from every router, the placement from the first of them that
  // has one: several routers decide each for itself, and shards obey the first, too.
  FleetWatch(const std::vector<std::shared_ptr<grpc::Channel>>& routers,
             const wire::ExpertShape& shape);
  ~FleetWatch();

  struct News {
    std::set<std::string> shards;  // addresses of those that are ready
    exchange::Holders holders;     // by Hash64 of the address; empty: as before
    std::set<uint64_t> suspects;   // processes of shards that some target found wrong
  };
  // False: nothing new since the last call.
  bool Take(News* news);

 private:
  void Run();
  // True when a router answered.
  bool Ask(News* news);
  exchange::Holders HoldersIn(const fleet::v1::GetFleetResponse& response);

  const wire::ExpertShape shape_;
  std::vector<std::unique_ptr<fleet::v1::FleetService::Stub>> stubs_;
  uint64_t placement_epoch_ = 0;  // of the holders we have
  std::mutex mutex_;              // guards what follows
  std::condition_variable wake_;
  bool stop_ = false;
  News news_;
  std::atomic<bool> changed_{false};
  std::thread thread_;
};

}  // namespace tutti::rpc
