#include "shared/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "shared/rpc/cluster_auth.h"
#include "shared/rpc/process.h"
#include "shared/rpc/tls.h"

namespace tutti::rpc {

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address,
                                                           const ChannelOptions& options) {
  InitGrpc();
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_ms);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout_ms);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // also the time one attempt may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // a ping per message burst is waste on small messages
  args.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
  args.SetMaxReceiveMessageSize(options.max_message_bytes);
  args.SetMaxSendMessageSize(-1);
  if (options.own_connection) args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!options.tls.server_name.empty()) {
    args.SetSslTargetNameOverride(options.tls.server_name);
  }
  TUTTI_ASSIGN_OR_RETURN(auto credentials, ClientCredentials(address, options.tls));
  if (!options.tls.cluster_token.empty() && address.rfind("unix:", 0) != 0) {
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptors;
    interceptors.push_back(TokenInterceptor(options.tls.cluster_token));
    return grpc::experimental::CreateCustomChannelWithInterceptors(address, credentials, args,
                                                                   std::move(interceptors));
  }
  return grpc::CreateCustomChannel(address, credentials, args);
}

KeepConnected::KeepConnected(std::shared_ptr<grpc::Channel> channel)
    : thread_([this, channel = std::move(channel)] {
        while (!stop_.load()) {
          const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
          channel->WaitForStateChange(
              state, std::chrono::system_clock::now() + std::chrono::milliseconds(100));
        }
      }) {}

KeepConnected::~KeepConnected() {
  stop_.store(true);
  thread_.join();
}

void SetDeadlineMs(grpc::ClientContext* context, int64_t ms) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(ms));
}

int64_t RemainingUs(std::chrono::system_clock::time_point deadline) {
  if (deadline == std::chrono::system_clock::time_point::max()) {
    return std::numeric_limits<int64_t>::max();
  }
  const auto now = std::chrono::system_clock::now();
  if (deadline <= now) return 0;
  // A century is none: the difference of far-away time points may overflow in nanoseconds.
  if (deadline.time_since_epoch() > std::chrono::hours(24 * 36500)) {
    return std::numeric_limits<int64_t>::max();
  }
  return std::chrono::duration_cast<std::chrono::microseconds>(deadline - now).count();
}

void PropagateDeadline(std::chrono::system_clock::time_point deadline, int64_t max_ms,
                       grpc::ClientContext* context) {
  int64_t us = RemainingUs(deadline);
  if (us != std::numeric_limits<int64_t>::max()) us -= std::min<int64_t>(us / 20, 20000);
  if (max_ms > 0) us = std::min(us, max_ms * 1000);
  if (us == std::numeric_limits<int64_t>::max()) return;
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::microseconds(us));
}

}  // namespace tutti::rpc
