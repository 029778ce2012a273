#include "shared/rpc/worker.h"

#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <future>
#include <thread>

#include "shared/base/hash.h"
#include "shared/base/secret.h"
#include "shared/rpc/clients/fleet_reporter.h"
#include "shared/rpc/health.h"
#include "shared/telemetry/log.h"

namespace tutti::rpc {

using telemetry::Level;
using telemetry::Log;

void AddWorkerFlags(CLI::App* app, WorkerOptions* options) {
  options->service.cluster_listener = true;
  AddServiceFlags(app, &options->service);
  AddClusterFlags(app, &options->service);
  app->add_option("--join", options->routers, "router to report to; repeatable")
      ->type_name("ADDRESS");
  app->add_option("--worker-id", options->worker_id, "name in the fleet (default: made up)")
      ->type_name("NAME");
}

struct Worker::Impl {
  WorkerSpec spec;
  std::string metrics_address;
  std::unique_ptr<Server> server;
  std::unique_ptr<FleetReporter> reporter;
  fleet::v1::WorkerReport identity;
  std::promise<absl::Status> loaded;
  std::shared_future<absl::Status> loaded_future;
  std::thread loader;

  absl::Status Load();
};

absl::Status Worker::Impl::Load() {
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<WorkerSpec::Served> served = spec.load();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!served.ok()) {
    Log(Level::kError, spec.name + "/load", {{"error", served.status().ToString()}});
    return served.status();
  }
  identity.set_model(served->model);
  identity.mutable_model_aliases()->Assign(served->model_aliases.begin(),
                                           served->model_aliases.end());
  identity.set_fingerprint(served->fingerprint);
  identity.set_tokenizer_fingerprint(served->tokenizer_fingerprint);
  identity.set_vocabulary_digest(served->vocabulary_digest);
  if (served->expert_shape.has_value()) *identity.mutable_expert_shape() = *served->expert_shape;
  reporter->SetIdentity(identity);
  server->SetServing(true);
  reporter->SetState(fleet::v1::WORKER_STATE_READY);
  // A drain that began meanwhile must have the last word.
  if (!server->health().serving()) reporter->SetState(fleet::v1::WORKER_STATE_DRAINING);
  Log(Level::kInfo, spec.name + "/ready",
      {{"worker_id", identity.worker_id()},
       {"model", served->model},
       {"fingerprint", Hex64(served->fingerprint)},
       {"load_s", std::to_string(seconds)}});
  return absl::OkStatus();
}

Worker::Worker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const WorkerOptions& options,
                                                      telemetry::Metrics* metrics,
                                                      WorkerSpec spec) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>();
  Impl* const p = impl.get();
  p->spec = std::move(spec);
  if (!options.service.metrics.empty()) {
    TUTTI_RETURN_IF_ERROR(metrics->Serve(options.service.metrics));
  }
  ServiceOptions service = options.service;
  service.cluster_listener = true;  // only routers and other workers call workers
  TUTTI_ASSIGN_OR_RETURN(p->server,
                         Server::Start(service, p->spec.services, {}, p->spec.configure));
  for (const std::string& name : p->spec.health_names) p->server->health().Register(name);

  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  p->identity.set_worker_id(options.worker_id.empty() ? MakeWorkerId(p->spec.name)
                                                      : options.worker_id);
  p->identity.set_kind(p->spec.kind);
  p->identity.set_address(p->server->advertised());
  p->metrics_address = metrics->address();
  p->identity.set_metrics_address(p->metrics_address);
  p->identity.set_pid(getpid());
  p->identity.set_process_nonce(RandomBytes(16));
  p->identity.set_host(host);
  FleetReporterOptions fleet;
  fleet.routers = options.routers;
  fleet.tls = options.service.tls;
  fleet.extend = p->spec.extend_report;
  fleet.on_assign = p->spec.on_assign;
  TUTTI_ASSIGN_OR_RETURN(p->reporter,
                         FleetReporter::Start(fleet, p->identity, p->spec.report_load));
  p->server->OnDrain([p] {
    p->reporter->SetState(fleet::v1::WORKER_STATE_DRAINING);
    if (p->spec.on_drain) p->spec.on_drain();
  });
  Log(Level::kInfo, p->spec.name + "/listen",
      {{"worker_id", p->identity.worker_id()},
       {"address", p->server->advertised()},
       {"metrics", metrics->address()}});
  p->loaded_future = p->loaded.get_future().share();
  p->loader = std::thread([p] { p->loaded.set_value(p->Load()); });
  return std::unique_ptr<Worker>(new Worker(std::move(impl)));
}

Worker::~Worker() {
  impl_->loader.join();
  impl_->reporter.reset();
  impl_->server.reset();
}

absl::Status Worker::WaitReady() { return impl_->loaded_future.get(); }
Server& Worker::server() { return *impl_->server; }
std::string Worker::metrics_address() const { return impl_->metrics_address; }
void Worker::Nudge() { impl_->reporter->Nudge(); }
int Worker::num_routers_joined() const { return impl_->reporter->num_joined(); }

absl::Status Worker::Run() {
  std::thread watcher([this] {
    if (!WaitReady().ok()) kill(getpid(), SIGTERM);  // ends the wait below
  });
  impl_->server->RunUntilSignal();
  if (impl_->loaded_future.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    _exit(0);  // still loading: nothing is lost, and nobody waits for it
  }
  watcher.join();
  return WaitReady();
}

}  // namespace tutti::rpc
