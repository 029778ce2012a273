// tutti-gateway: the HTTP API in front of a router.
#include <csignal>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <future>

#include "services/gateway/options.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/server.h"
#include "shared/telemetry/log.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "tutti-gateway: %s\n", std::string(status.message()).c_str());
  return 1;
}

int WaitForSignal(const sigset_t& set) {
  int number = 0;
  sigwait(&set, &number);
  return number;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace tutti;
  rpc::BlockShutdownSignals();
  gateway::Options options;
  CLI::App app("HTTP gateway of Tutti: OpenAI-compatible API, server-sent events, web page.",
               "tutti-gateway");
  gateway::AddFlags(&app, &options);
  CLI11_PARSE(app, argc, argv);
  if (const absl::Status status = gateway::Finish(&options); !status.ok()) return Fail(status);
  rpc::ServiceOptions log;
  log.log_level = options.log_level;
  log.log_json = options.log_json;
  if (const absl::Status status = rpc::InitLogFromOptions("gateway", log); !status.ok())
    return Fail(status);

  telemetry::Metrics metrics;
  if (!options.metrics.empty()) {
    if (const absl::Status status = metrics.Serve(options.metrics); !status.ok())
      return Fail(status);
  }
  auto channel = rpc::OpenChannel(options.router, {.tls = options.router_tls});
  if (!channel.ok()) return Fail(channel.status());
  // Connects now, not with the first request, and again as soon as a lost router is back.
  const rpc::KeepConnected keep_connected(*channel);

  gateway::Gateway gateway(options.gateway, generation::v1::GenerationService::NewStub(*channel),
                           &metrics);
  const auto server = gateway.MakeServer(options.limits);
  if (const absl::Status status = server->Bind(options.http, options.https); !status.ok())
    return Fail(Annotate(status, "--http"));
  server->Start();
  telemetry::Log(
      telemetry::Level::kInfo, "gateway/ready",
      {{"http", server->address()}, {"router", options.router}, {"metrics", metrics.address()}});

  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  const int number = WaitForSignal(set);
  telemetry::Log(telemetry::Level::kInfo, "gateway/drain", {{"signal", std::to_string(number)}});
  gateway.Drain();
  std::promise<void> stopped;
  auto done = stopped.get_future();
  std::thread stop([&] {
    server->Stop();
    stopped.set_value();
  });
  if (done.wait_for(std::chrono::duration<double>(options.drain_grace_s)) !=
      std::future_status::ready) {
    gateway.CancelAll();
  }
  stop.join();
  return 0;
}
