// Dispatches of targets on this host, by memory that they share with the shard: one thread that
// reads them, runs all that is there as one batch, and writes the rows where the target reads them.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "services/expert/batch_runner.h"
#include "services/expert/expert_metrics.h"
#include "shared/shm/connection.h"
#include "shared/wire/expert_frame.h"

namespace tutti::expert {

class ShmLoop {
 public:
  // Listens on `path` (rpc::ShmSocketOf the address that serves gRPC). `metrics` is
  // borrowed. Errors: as shm::Listener
  // `process`: see CombineReply.process.
  static absl::StatusOr<std::unique_ptr<ShmLoop>> Start(const std::string& path, uint64_t process,
                                                        ExpertMetrics* metrics);
  ~ShmLoop();

  // Until then every dispatch is answered UNAVAILABLE. `runner` is borrowed.
  void SetReady(BatchRunner* runner) { runner_ = runner; }
  // Takes no connection any more, answers what has come, then ends the connections.
  void StartDraining();

 private:
  struct Peer {
    std::unique_ptr<shm::Connection> connection;
    bool broken = false;
  };
  struct Waiting {
    Peer* peer;
    wire::DispatchFrame frame;
    std::byte* reply = nullptr;   // the peer's room for it
    std::vector<std::byte> kept;  // or, beside others, here until the batch is done
  };

  ShmLoop(uint64_t process, ExpertMetrics* metrics) : process_(process), metrics_(metrics) {}
  void Run();
  // Runs what has come; false: nothing.
  bool Serve();
  bool Read(Peer* peer, std::vector<Waiting>* batch);
  void RunBatch(std::vector<Waiting>* batch);
  void DropBroken();
  void TakeSeat(wire::Seat seat);
  void Sleep();
  void OnSockets(int64_t timeout_us);

  const uint64_t process_;
  ExpertMetrics* const metrics_;
  std::atomic<BatchRunner*> runner_{nullptr};
  std::atomic<bool> draining_{false};
  shm::Fd doorbell_, epoll_;
  std::unique_ptr<shm::Listener> listener_;
  std::map<int, Peer> peers_;  // by socket
  int64_t looked_us_ = 0;      // when the sockets were looked at
  std::thread thread_;
};

}  // namespace tutti::expert
