#include "services/expert/expert.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "kernels/kernels.h"
#include "services/expert/exchange_loop.h"
#include "services/expert/shm_loop.h"
#include "shared/rpc/clients/fleet_reporter.h"
#include "shared/rpc/clients/shm_expert_link.h"
#include "shared/rpc/status.h"

namespace tutti::expert {
namespace {

class Service final : public ExchangeLoop::AsyncService {
 public:
  void SetReady(const ExpertStore* store) { store_ = store; }

  grpc::ServerUnaryReactor* GetExperts(grpc::CallbackServerContext* context,
                                       const v1::GetExpertsRequest*,
                                       v1::GetExpertsResponse* response) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    const ExpertStore* const store = store_;
    if (store == nullptr) {
      reactor->Finish(rpc::ToGrpc(absl::UnavailableError("the shard is starting")));
      return reactor;
    }
    const model::ExpertDescription& e = store->experts();
    response->set_fingerprint(e.fingerprint);
    response->set_model(e.name);
    response->set_num_layers(e.num_layers);
    response->set_experts_per_layer(e.experts_per_layer);
    response->set_memory_bytes(store->resident_bytes());
    response->set_memory_budget_bytes(store->budget_bytes());
    for (const ExpertCounters& c : store->Counters()) {
      v1::ExpertCounters* out = response->add_experts();
      out->set_moe_layer(c.moe_layer);
      out->set_expert_id(c.expert);
      out->set_resident(c.resident);
      out->set_pinned(c.pinned);
      out->set_loads(c.loads);
      out->set_rows(c.rows);
    }
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  std::atomic<const ExpertStore*> store_{nullptr};
};

}  // namespace

// Members end in reverse order: the server before the loop, the loop before what it runs.
struct Expert::Impl {
  ExpertOptions options;
  telemetry::Metrics metrics;
  ExpertMetrics counters{&metrics};
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<ExpertStore> store;
  std::unique_ptr<BatchRunner> runner;
  Service service;
  std::vector<std::unique_ptr<ShmLoop>> shm_loops;  // one for each unix socket
  std::unique_ptr<ExchangeLoop> loop;
  std::unique_ptr<rpc::Worker> worker;

  absl::StatusOr<rpc::WorkerSpec::Served> Load();
};

absl::StatusOr<rpc::WorkerSpec::Served> Expert::Impl::Load() {
  TUTTI_RETURN_IF_ERROR(kernels::SelectIsa(options.isa));
  pool = std::make_unique<ThreadPool>(
      ThreadPool::Options{.num_threads = options.threads, .spin_us = options.spin_us});
  TUTTI_ASSIGN_OR_RETURN(model::ExpertFiles files,
                         model::OpenExperts(options.model, options.ffn_slices));
  const model::ExpertDescription experts = files.experts;
  store = std::make_unique<ExpertStore>(std::move(files), options.memory_mb << 20);
  for (const std::string& pin : options.pins) {
    TUTTI_ASSIGN_OR_RETURN(const PinRange p, ParsePin(pin));
    if (p.layer_end > experts.num_layers || p.expert_end > experts.experts_per_layer) {
      return absl::InvalidArgumentError("--pin " + pin + ": the model has " +
                                        std::to_string(experts.num_layers) + " layers of " +
                                        std::to_string(experts.experts_per_layer) + " experts");
    }
    for (int l = p.layer_begin; l < p.layer_end; ++l) {
      for (int e = p.expert_begin; e < p.expert_end; ++e) TUTTI_RETURN_IF_ERROR(store->Pin(l, e));
    }
  }
  runner = std::make_unique<BatchRunner>(store.get(), pool.get());
  service.SetReady(store.get());
  loop->SetReady(runner.get());
  for (const auto& l : shm_loops) l->SetReady(runner.get());
  return rpc::WorkerSpec::Served{experts.name, experts.fingerprint, 0};
}

Expert::Expert(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Expert>> Expert::Start(const ExpertOptions& options) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>();
  Impl* const p = impl.get();
  p->options = options;
  p->loop = std::make_unique<ExchangeLoop>(&p->service, options.queue_max, &p->counters);
  // Before the server: a target that finds the one must find the other.
  for (const std::string& address : options.worker.service.listen) {
    const std::string path = rpc::ShmSocketOf(address);
    if (path.empty() || !options.shared_memory) continue;
    auto shm = ShmLoop::Start(path, options.yield_us, &p->counters);
    if (shm.ok()) {
      p->shm_loops.push_back(*std::move(shm));
    } else {
      telemetry::Log(telemetry::Level::kWarning, "expert/no-shared-memory",
                     {{"error", shm.status().ToString()}, {"instead", "gRPC"}});
    }
  }
  rpc::WorkerSpec spec;
  spec.name = "expert";
  spec.kind = fleet::v1::WORKER_KIND_EXPERT;
  spec.services = {&p->service};
  spec.health_names = {v1::ExpertService::service_full_name()};
  spec.configure = [p](grpc::ServerBuilder* builder) { p->loop->Configure(builder); };
  spec.load = [p] { return p->Load(); };
  spec.report_load = [p] {
    fleet::v1::WorkerLoad load;
    load.set_memory_bytes(rpc::ResidentBytes());
    load.set_waiting(p->loop->queued());
    return load;
  };
  spec.on_drain = [p] {
    p->loop->StartDraining();
    for (const auto& l : p->shm_loops) l->StartDraining();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the loop looks every 100 ms
  };
  TUTTI_ASSIGN_OR_RETURN(p->worker,
                         rpc::Worker::Start(options.worker, &p->metrics, std::move(spec)));
  p->loop->Start();
  return std::unique_ptr<Expert>(new Expert(std::move(impl)));
}

Expert::~Expert() {
  if (impl_->worker == nullptr) return;
  (void)impl_->worker->WaitReady();
  impl_->worker->server().StopNow();
  impl_->loop->Stop();
  impl_->shm_loops.clear();
  impl_->worker.reset();
}

rpc::Worker& Expert::worker() { return *impl_->worker; }

}  // namespace tutti::expert
