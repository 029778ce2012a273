// tutti-router: conducts requests over tokenizers and targets.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <thread>
#include <tuple>

#include "services/router/core.h"
#include "services/router/fleet_service.h"
#include "services/router/generation_service.h"
#include "services/router/kserve_service.h"
#include "shared/rpc/cluster_auth.h"
#include "shared/rpc/health.h"
#include "shared/rpc/server.h"
#include "shared/telemetry/log.h"

namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "tutti-router: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  tutti::rpc::BlockShutdownSignals();
  tutti::rpc::ServiceOptions service;
  service.listen = {"127.0.0.1:7100"};
  tutti::rpc::ServiceOptions cluster;  // the listener of workers and operators
  tutti::router::CoreOptions core_options;
  tutti::store::JournalOptions journal;
  std::string store = "memory";
  double journal_ttl_s = 600, worker_wait_s = 10;
  int client_memory_mb = 512;
  int64_t journal_mb = 256;

  CLI::App app(
      "Serves clients tutti.generation.v1 and the Open Inference Protocol (--listen), over the "
      "workers that join by tutti.fleet.v1 (--cluster-listen).");
  tutti::rpc::AddServiceFlags(&app, &service);
  app.add_option("--cluster-listen", cluster.listen,
                 "address that workers join and operators ask: unix:path, or host:port with "
                 "--cluster-token-file or --cluster-tls-*; never one of clients; repeatable")
      ->type_name("ADDRESS")
      ->required();
  tutti::rpc::AddClusterFlags(&app, &cluster);
  for (const auto& [flag, file, help] :
       {std::tuple("--cluster-tls-cert", &cluster.tls.cert_file,
                   "PEM certificate that the router shows workers (with --cluster-tls-key)"),
        std::tuple("--cluster-tls-key", &cluster.tls.key_file, "PEM private key"),
        std::tuple(
            "--cluster-tls-ca", &cluster.tls.ca_file,
            "PEM authority of workers: they must have a certificate of it (mTLS). Not the one "
            "of clients, or clients could join"),
        std::tuple("--cluster-tls-server-name", &cluster.tls.server_name,
                   "name to expect in workers' certificates, if not their host")}) {
    app.add_option(flag, *file, help);
  }
  auto& limits = core_options.router;
  limits.exam_tokens = 8;
  app.add_option("--store", store, "where the journal of requests is: memory")
      ->capture_default_str();
  app.add_option("--journal-ttl", journal_ttl_s,
                 "seconds that a request can be resumed after its last token")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  app.add_option("--journal-requests-max", journal.max_requests, "requests in the journal")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  app.add_option("--journal-mb-max", journal_mb, "megabytes of the in-memory journal")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--requests-max", limits.max_live_requests,
                 "requests at a time; more are RESOURCE_EXHAUSTED")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--choices-max", limits.max_live_choices, "choices (n) of all requests at a time")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option(
         "--client-memory-mb", client_memory_mb,
         "megabytes that connections and streams of clients may hold in gRPC; then it reads "
         "no further")
      ->check(CLI::Range(16, 1'000'000))
      ->capture_default_str();
  app.add_option("--worker-wait", worker_wait_s,
                 "seconds that a request waits for a tokenizer or target to be there")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option(
         "--exam-tokens", limits.exam_tokens,
         "tokens that a target which joins computes, and another one of its model too, before "
         "it gets work. 0: it is not examined")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  app.add_option("--audit", limits.audit_rate,
                 "share of finished answers that another target computes again and compares; a "
                 "target that is found wrong gets no more work. 0: none")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--draft-lookahead", limits.draft_lookahead,
                 "tokens that a draft may run ahead of its target; 0: drafts are not asked")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option(
         "--draft-trial", limits.draft_trial_tokens,
         "tokens of each choice that are timed with a draft's hints and without; where they "
         "come no sooner the draft is not asked for a while. 0: not timed")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_option("--draft-share-min", limits.draft_least_share,
                 "share of tokens that a draft must have hinted right; a draft with less is not "
                 "asked for a while. 0: any share will do")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  if (const absl::Status s = service.Validate(); !s.ok()) return Fail(s);
  if (store != "memory") {
    return Fail(absl::InvalidArgumentError("--store: \"" + store + "\"; this version has memory"));
  }
  journal.ttl_us = static_cast<int64_t>(journal_ttl_s * 1e6);
  journal.max_bytes = journal_mb << 20;
  limits.worker_wait_us = static_cast<int64_t>(worker_wait_s * 1e6);
  cluster.cluster_listener = true;
  // Workers' streams outlive clients' ones in a drain: the requests that still run need them.
  cluster.drain_grace_s = std::min(service.drain_grace_s + 5, 3600.0);
  if (const absl::Status s = tutti::rpc::CheckClusterListener(cluster, "--cluster-listen"); !s.ok())
    return Fail(s);
  if (const absl::Status s = cluster.Validate(); !s.ok())
    return Fail(tutti::Annotate(s, "of the cluster's listener"));
  core_options.tls = cluster.tls;
  if (const absl::Status s = tutti::rpc::InitLogFromOptions("router", service); !s.ok())
    return Fail(s);

  tutti::telemetry::Metrics metrics;
  if (!service.metrics.empty()) {
    if (const absl::Status s = metrics.Serve(service.metrics); !s.ok()) return Fail(s);
  }
  tutti::router::RouterMetrics router_metrics(&metrics);
  tutti::router::Core core(core_options, tutti::store::MakeMemoryJournal(journal), &router_metrics);
  tutti::router::GenerationService generation(&core);
  tutti::router::FleetService fleet(&core);
  tutti::router::KserveService kserve(&core);
  auto for_cluster = tutti::rpc::Server::Start(cluster, {&fleet});
  if (!for_cluster.ok()) return Fail(tutti::Annotate(for_cluster.status(), "--cluster-listen"));
  (*for_cluster)->health().Register(tutti::fleet::v1::FleetService::service_full_name());
  (*for_cluster)->SetServing(true);
  tutti::rpc::ServerLimits client_limits;
  client_limits.memory_bytes = int64_t{client_memory_mb} << 20;
  auto server = tutti::rpc::Server::Start(service, {&generation, &kserve}, client_limits);
  if (!server.ok()) return Fail(server.status());
  for (const char* name : {tutti::generation::v1::GenerationService::service_full_name(),
                           inference::GRPCInferenceService::service_full_name()}) {
    (*server)->health().Register(name);
  }
  // Both listeners close at once, so that the next router can have their addresses.
  std::thread cluster_drain;
  (*server)->OnDrain([&] {
    core.Drain();
    cluster_drain = std::thread([&] { (*for_cluster)->Drain(); });
  });
  (*server)->SetServing(true);
  tutti::telemetry::Log(tutti::telemetry::Level::kInfo, "router/serving",
                        {{"address", (*server)->addresses().front()},
                         {"cluster_address", (*for_cluster)->addresses().front()},
                         {"metrics", metrics.address()}});
  (*server)->RunUntilSignal();
  core.CloseWorkers();
  cluster_drain.join();
  return 0;
}
