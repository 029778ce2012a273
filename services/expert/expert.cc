#include "services/expert/expert.h"

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "kernels/kernels.h"
#include "services/expert/exchange_loop.h"
#include "services/expert/expert_holder.h"
#include "services/expert/shm_loop.h"
#include "shared/moe/expert_set.h"
#include "shared/rpc/clients/fleet_reporter.h"
#include "shared/rpc/clients/shm_expert_link.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/log.h"
#include "shared/wire/fleet.h"

namespace tutti::expert {
namespace {

constexpr int64_t kDrainMs = 5000;  // for others to load what this shard held

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

// Not 0, which stands for none.
uint64_t DrawProcess() {
  std::random_device random;
  const uint64_t high = random(), low = random();
  return std::max<uint64_t>(1, high << 32 | low);
}

}  // namespace

// Members end in reverse order: the server before the loop, the loop before what it runs.
struct Expert::Impl {
  ExpertOptions options;
  const uint64_t process = DrawProcess();
  telemetry::Metrics metrics;
  ExpertMetrics counters{&metrics};
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<ExpertStore> store;
  std::unique_ptr<BatchRunner> runner;
  std::atomic<const ExpertStore*> store_to_report{nullptr};
  std::unique_ptr<ExpertHolder> holder;
  std::atomic<rpc::Worker*> worker_to_nudge{nullptr};
  Service service;
  std::vector<std::unique_ptr<ShmLoop>> shm_loops;  // one for each unix socket
  std::unique_ptr<ExchangeLoop> loop;
  std::unique_ptr<rpc::Worker> worker;

  absl::StatusOr<rpc::WorkerSpec::Served> Load();
  void ExtendReport(fleet::v1::WorkerReport* report) const;
  void OnAssign(const fleet::v1::ExpertAssignment& proto);
  void Drain();
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
    const auto set = moe::ExpertSet::Parse(pin, experts.num_layers, experts.experts_per_layer);
    if (!set.ok()) return Annotate(set.status(), "--pin");
    for (int l = 0; l < experts.num_layers; ++l) {
      for (int e = 0; e < experts.experts_per_layer; ++e) {
        if (set->Contains(l, e)) TUTTI_RETURN_IF_ERROR(store->Pin(l, e));
      }
    }
  }
  runner = std::make_unique<BatchRunner>(store.get(), pool.get(), options.row_fault);
  store_to_report = store.get();
  holder->SetStore(store.get());
  service.SetReady(store.get());
  loop->SetReady(runner.get());
  for (const auto& l : shm_loops) l->SetReady(runner.get());
  return rpc::WorkerSpec::Served{experts.name, experts.fingerprint, 0};
}

void Expert::Impl::ExtendReport(fleet::v1::WorkerReport* report) const {
  const ExpertStore* const s = store_to_report;
  if (s == nullptr) return;
  placement::ExpertReport experts = s->Report();
  experts.process = process;
  wire::ExpertReportToProto(experts, true, report->mutable_experts());
}

void Expert::Impl::OnAssign(const fleet::v1::ExpertAssignment& proto) {
  const ExpertStore* const s = store_to_report;
  if (s == nullptr) return;  // routers assign to shards that are ready
  const model::ExpertDescription& e = s->experts();
  auto assignment = wire::AssignmentFromProto(
      proto, static_cast<uint32_t>(e.num_layers) * static_cast<uint32_t>(e.experts_per_layer));
  if (!assignment.ok()) {
    telemetry::Log(telemetry::Level::kWarning, "expert/assign",
                   {{"error", assignment.status().ToString()}});
    return;
  }
  holder->Assign(*std::move(assignment));
}

// Until routers have given its experts to others, or that takes too long.
void Expert::Impl::Drain() {
  for (int64_t waited_ms = 0; waited_ms < kDrainMs && worker->num_routers_joined() > 0;
       waited_ms += 20) {
    const ExpertStore* const s = store_to_report;
    if (s == nullptr || s->assigned_nothing()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  loop->StartDraining();
  for (const auto& l : shm_loops) l->StartDraining();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the loop looks every 100 ms
}

Expert::Expert(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Expert>> Expert::Start(const ExpertOptions& options) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>();
  Impl* const p = impl.get();
  p->options = options;
  p->loop = std::make_unique<ExchangeLoop>(&p->service, p->process, options.queue_max,
                                           options.reply_delay_us, &p->counters);
  // Before the server: a target that finds the one must find the other.
  for (const std::string& address : options.worker.service.listen) {
    const std::string path = rpc::ShmSocketOf(address);
    if (path.empty() || !options.shared_memory) continue;
    auto shm = ShmLoop::Start(path, p->process, &p->counters);
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
  spec.extend_report = [p](fleet::v1::WorkerReport* report) { p->ExtendReport(report); };
  spec.on_assign = [p](const fleet::v1::ExpertAssignment& a) { p->OnAssign(a); };
  spec.on_drain = [p] { p->Drain(); };
  p->holder = std::make_unique<ExpertHolder>([p] {
    if (rpc::Worker* const worker = p->worker_to_nudge; worker != nullptr) worker->Nudge();
  });
  TUTTI_ASSIGN_OR_RETURN(p->worker,
                         rpc::Worker::Start(options.worker, &p->metrics, std::move(spec)));
  p->worker_to_nudge = p->worker.get();
  p->loop->Start();
  return std::unique_ptr<Expert>(new Expert(std::move(impl)));
}

Expert::~Expert() {
  if (impl_->worker == nullptr) return;
  (void)impl_->worker->WaitReady();
  impl_->holder->Stop();
  impl_->worker->server().StopNow();
  impl_->loop->Stop();
  impl_->shm_loops.clear();
  impl_->worker.reset();
}

rpc::Worker& Expert::worker() { return *impl_->worker; }

}  // namespace tutti::expert
