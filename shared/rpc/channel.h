// Client channels as all services open them.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "shared/base/status.h"
#include "shared/rpc/options.h"

namespace tutti::rpc {

struct ChannelOptions {
  TlsOptions tls;
  int keepalive_ms = 10000;  // ping on an idle link; a dead peer is noticed after this + timeout
  int keepalive_timeout_ms = 3000;
  int max_message_bytes = 64 << 20;  // received
  // Give this channel a connection of its own instead of sharing one per address.
  bool own_connection = false;
};

// A channel to "host:port" or "unix:path". Connects when first used; after a failure it tries again
// after 50 ms, growing to 1 s. No proxy, no retries by gRPC (callers know which calls are safe to
// retry). Errors: INVALID_ARGUMENT  a TLS file cannot be read
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address,
                                                           const ChannelOptions& options = {});

// Keeps a channel connected from a thread of its own. A connection makes progress only while
// somebody polls; a client with nothing but short synchronous calls, which fail at once while the
// peer is away, would find the peer again seconds after it came back.
class KeepConnected {
 public:
  explicit KeepConnected(std::shared_ptr<grpc::Channel> channel);
  ~KeepConnected();
  KeepConnected(const KeepConnected&) = delete;
  KeepConnected& operator=(const KeepConnected&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Sets the call's deadline to now + ms.
void SetDeadlineMs(grpc::ClientContext* context, int64_t ms);

// Time left until a deadline of a server context, in µs; INT64_MAX when it has none, never below 0.
int64_t RemainingUs(std::chrono::system_clock::time_point deadline);

// The deadline of an onward call: the caller's remaining time minus a margin (5 %, at most 20 ms)
// for the way back, and at most `max_ms` (0: no bound of our own).
void PropagateDeadline(std::chrono::system_clock::time_point deadline, int64_t max_ms,
                       grpc::ClientContext* context);

}  // namespace tutti::rpc
