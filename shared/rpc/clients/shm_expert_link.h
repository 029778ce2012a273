// A shard on the same host, by memory that is shared with it (shared/shm).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "shared/rpc/clients/expert_link.h"
#include "shared/shm/connection.h"

namespace tutti::rpc {

// Where the shard that serves gRPC at this address takes such connections: "unix:/run/e" ->
// "/run/e.shm"; "" for an address of the network.
std::string ShmSocketOf(const std::string& address);

// No part of a batch may have more pairs, or a message would not fit.
int64_t MaxPairsOfShm(const wire::ExpertShape& shape);

class ShmExpertLink;

// All of them, with one doorbell to wait for.
//
// Thread safety: one thread at a time.
class ShmExpertLinks {
 public:
  // Errors: UNAVAILABLE  the kernel has no more of what it takes
  static absl::StatusOr<std::unique_ptr<ShmExpertLinks>> Create();
  ~ShmExpertLinks();

  // nullptr: nobody takes such connections there.
  std::unique_ptr<ExpertLink> Connect(exchange::ShardId id, const std::string& address,
                                      const wire::ExpertShape& shape, ExpertLinkEvents* events);
  // Hands over what has arrived; false: nothing.
  bool Poll();
  // Something is on its way: a reply, or a connection.
  bool expects() const;
  // Sleeps until Poll has something to do, or for so long.
  void Wait(int64_t timeout_us);

 private:
  friend class ShmExpertLink;
  ShmExpertLinks() = default;
  void OnSockets(int64_t timeout_us);
  void Add(ShmExpertLink* link);
  void Remove(ShmExpertLink* link);
  void Seat();

  shm::Fd doorbell_, epoll_;
  std::map<int, ShmExpertLink*> links_;  // by socket
};

}  // namespace tutti::rpc
