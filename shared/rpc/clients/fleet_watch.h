// Which shards of a model are there, as the routers' fleets tell.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::rpc {

// Asks the routers every 100 ms, from a thread of its own.
//
// Thread safety: Take from one thread.
class FleetWatch {
 public:
  // Of shards with this fingerprint. With no routers it never finds any.
  FleetWatch(const std::vector<std::shared_ptr<grpc::Channel>>& routers, uint64_t fingerprint);
  ~FleetWatch();

  // The addresses of those that are ready; false: nothing new since the last call.
  bool Take(std::set<std::string>* addresses);

 private:
  void Run();

  const uint64_t fingerprint_;
  std::vector<std::unique_ptr<fleet::v1::FleetService::Stub>> stubs_;
  std::mutex mutex_;  // guards the next three
  std::condition_variable wake_;
  bool stop_ = false;
  std::set<std::string> addresses_;
  std::atomic<bool> changed_{false};
  std::thread thread_;
};

}  // namespace tutti::rpc
