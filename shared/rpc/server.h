// Starts and stops a gRPC server the way all services do: addresses, TLS, health, reflection,
// drain.
//
//   int main(...) {
//     BlockShutdownSignals();                      // first of all, before any thread
//     ... parse options ...
//     auto server = Server::Start(options, {&my_service});
//     ... load ...; (*server)->SetServing(true);
//     (*server)->RunUntilSignal();                 // SIGTERM or SIGINT: drains, then returns
//   }
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/rpc/options.h"

namespace grpc {
class Server;
class ServerBuilder;
class Service;
}  // namespace grpc

namespace tutti::rpc {

class HealthService;

struct ServerLimits {
  int max_message_bytes = 16 << 20;  // received; a larger one is RESOURCE_EXHAUSTED
  int max_streams_per_connection = 4096;
  // Bytes that gRPC may hold for connections and streams of all callers together; when they are
  // used up it reads no further and drops idle connections. 0: no bound.
  int64_t memory_bytes = 0;
};

// Called once before the server starts; for completion queues of services with an asynchronous
// method.
using BuilderHook = std::function<void(grpc::ServerBuilder*)>;

// Thread-safe.
class Server {
 public:
  // Listens and answers at once; health says NOT_SERVING until SetServing(true). `services` are
  // borrowed and must outlive the server. Errors: INVALID_ARGUMENT  options (names the flag);
  // UNAVAILABLE  an address is taken or not ours
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServiceOptions& options,
                                                       const std::vector<grpc::Service*>& services,
                                                       const ServerLimits& limits = {},
                                                       const BuilderHook& configure = {});
  ~Server();  // cancels what still runs

  void SetServing(bool serving);
  HealthService& health() { return *health_; }

  // As others dial them, in the order of --listen, with the real port: "127.0.0.1:4711",
  // "unix:/run/t".
  const std::vector<std::string>& addresses() const { return addresses_; }
  // --advertise, or the first address.
  std::string advertised() const;

  // Called, in order of registration, when the drain begins: report DRAINING, refuse new work, end
  // streams that would never end by themselves.
  void OnDrain(std::function<void()> callback);

  // Health says NOT_SERVING, the OnDrain callbacks run, no new calls are taken, running ones get
  // --drain-grace seconds, then they are cancelled. Returns when the last call is done.
  void Drain();
  // Like Drain with no grace and without callbacks.
  void StopNow();

  // Waits for SIGTERM or SIGINT (which must be blocked in all threads), then drains; a second
  // signal exits at once (status 128 + signal). Returns the first signal's number.
  int RunUntilSignal();

 private:
  Server();
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::unique_ptr<HealthService> health_;
  std::vector<std::string> addresses_;
};

// Ends the process at once, after flushing stdio: for the end of main, when the drain is done.
// Library threads (the metrics endpoint takes two seconds to stop) are not waited for; all state is
// soft.
[[noreturn]] void ExitNow(int code);

// Blocks SIGTERM and SIGINT in this thread and those it starts later, and ignores SIGPIPE.
void BlockShutdownSignals();

}  // namespace tutti::rpc
