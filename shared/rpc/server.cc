#include "shared/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <thread>

#include "shared/base/strings.h"
#include "shared/rpc/channelz.h"
#include "shared/rpc/cluster_auth.h"
#include "shared/rpc/health.h"
#include "shared/rpc/process.h"
#include "shared/rpc/reflection.h"
#include "shared/rpc/tls.h"
#include "shared/telemetry/log.h"

namespace tutti::rpc {
namespace {

bool IsUnix(const std::string& address) { return address.rfind("unix:", 0) == 0; }

// "unix:///run/x" and "unix:/run/x" -> "/run/x".
std::string UnixPath(const std::string& address) {
  std::string path = address.substr(5);
  if (path.rfind("//", 0) == 0) path = path.substr(2);
  return path;
}

absl::Status CheckUnixPath(const std::string& address) {
  const std::string path = UnixPath(address);
  if (path.empty() || path.size() > 107) {  // sockaddr_un
    return absl::InvalidArgumentError("--listen: the path of \"" + Printable(address) + "\" has " +
                                      std::to_string(path.size()) +
                                      " bytes; 1 to 107 fit into a socket address");
  }
  return absl::OkStatus();
}

void SetArguments(const ServerLimits& limits, grpc::ServerBuilder* builder) {
  // Two servers on one port would share its connections silently.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping idle links every few seconds (channel.h); that is no abuse.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 2000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 20);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_streams_per_connection);
  if (limits.memory_bytes > 0) {
    builder->SetResourceQuota(
        grpc::ResourceQuota("server").Resize(static_cast<size_t>(limits.memory_bytes)));
  }
  builder->SetMaxReceiveMessageSize(limits.max_message_bytes);
  builder->SetMaxSendMessageSize(-1);
}

}  // namespace

struct Server::Impl {
  ServiceOptions options;
  ChannelzService channelz;
  std::unique_ptr<grpc::Server> server;
  std::mutex mutex;  // guards on_drain
  std::vector<std::function<void()>> on_drain;
  std::atomic<bool> draining{false};
};

Server::Server() : impl_(std::make_unique<Impl>()), health_(std::make_unique<HealthService>()) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServiceOptions& options,
                                                      const std::vector<grpc::Service*>& services,
                                                      const ServerLimits& limits,
                                                      const BuilderHook& configure) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  InitGrpc();
  // Plugins and defaults are process-wide and take effect at the first builder.
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(false);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    InitReflectionV1();
  });

  std::unique_ptr<Server> out(new Server);
  out->impl_->options = options;
  grpc::ServerBuilder builder;
  SetArguments(limits, &builder);
  std::vector<int> ports(options.listen.size(), -1);
  for (size_t i = 0; i < options.listen.size(); ++i) {
    const std::string& address = options.listen[i];
    if (IsUnix(address)) TUTTI_RETURN_IF_ERROR(CheckUnixPath(address));
    TUTTI_ASSIGN_OR_RETURN(auto credentials, ServerCredentials(address, options.tls));
    if (options.cluster_listener && !IsUnix(address) && !options.tls.cluster_token.empty()) {
      if (options.tls.AsServer()) {
        RequireToken(options.tls.cluster_token, credentials.get());
      } else {
        credentials = TokenServerCredentials(options.tls.cluster_token);
      }
    }
    builder.AddListeningPort(IsUnix(address) ? "unix:" + UnixPath(address) : address, credentials,
                             &ports[i]);
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.RegisterService(out->health_.get());
  if (options.cluster_listener) builder.RegisterService(&out->impl_->channelz);
  if (configure) configure(&builder);
  out->impl_->server = builder.BuildAndStart();

  for (size_t i = 0; i < options.listen.size(); ++i) {
    const std::string& address = options.listen[i];
    if (out->impl_->server == nullptr || ports[i] <= 0) {
      std::string all;
      for (const std::string& a : options.listen) all.append(all.empty() ? "" : ", ").append(a);
      return absl::UnavailableError("--listen: cannot listen on " + Printable(all, 300) +
                                    " (is an address taken, or not of this machine?)");
    }
    // Before any other user knows the address; the socket's folder is private all the same.
    if (options.cluster_listener && IsUnix(address)) ::chmod(UnixPath(address).c_str(), 0600);
    out->addresses_.push_back(IsUnix(address) ? "unix:" + UnixPath(address)
                                              : address.substr(0, address.rfind(':') + 1) +
                                                    std::to_string(ports[i]));
  }
  return out;
}

Server::~Server() {
  if (impl_->server != nullptr) StopNow();
}

void Server::SetServing(bool serving) { health_->SetServing(serving && !impl_->draining); }

std::string Server::advertised() const {
  return impl_->options.advertise.empty() ? addresses_.front() : impl_->options.advertise;
}

void Server::OnDrain(std::function<void()> callback) {
  std::lock_guard lock(impl_->mutex);
  impl_->on_drain.push_back(std::move(callback));
}

void Server::Drain() {
  if (!impl_->draining.exchange(true)) {
    health_->Shutdown();
    std::vector<std::function<void()>> callbacks;
    {
      std::lock_guard lock(impl_->mutex);
      callbacks = impl_->on_drain;
    }
    for (const auto& callback : callbacks) callback();
  }
  const auto grace =
      std::chrono::microseconds(static_cast<int64_t>(impl_->options.drain_grace_s * 1e6));
  impl_->server->Shutdown(std::chrono::system_clock::now() + grace);
  impl_->server->Wait();
}

void Server::StopNow() {
  impl_->draining = true;
  health_->Shutdown();
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
}

int Server::RunUntilSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  int first = 0;
  while (sigwait(&set, &first) != 0) {
  }
  telemetry::Log(telemetry::Level::kInfo, "drain",
                 {{"signal", std::to_string(first)},
                  {"grace_s", std::to_string(impl_->options.drain_grace_s)}});
  std::atomic<bool> done{false};
  std::thread drain([&] {
    Drain();
    done = true;
    kill(getpid(), SIGTERM);  // wakes the wait below
  });
  int second = 0;
  while (sigwait(&set, &second) != 0) {
  }
  // gRPC takes one shutdown deadline only, so a second signal ends the process; all state is soft.
  if (!done) {
    telemetry::Log(telemetry::Level::kWarning, "drain/aborted",
                   {{"signal", std::to_string(second)}});
    _exit(128 + second);
  }
  drain.join();
  return first;
}

void ExitNow(int code) {
  fflush(nullptr);
  _exit(code);
}

void BlockShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace tutti::rpc
