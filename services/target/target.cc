#include "services/target/target.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <optional>
#include <thread>

#include "kernels/kernels.h"
#include "services/target/decoder_service.h"
#include "services/target/engine_loop.h"
#include "services/target/paced_model.h"
#include "shared/base/hash.h"
#include "shared/model/file_experts.h"
#include "shared/model/load.h"
#include "shared/model/model_weights.h"
#include "shared/rpc/clients/fleet_reporter.h"
#include "shared/speculation/mapped_model.h"
#include "shared/telemetry/log.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::target {
namespace {

// 0 when there is none: weights alone can be served by token ids.
struct TokenizerIdentity {
  uint64_t fingerprint = 0;
  std::string digest;
};

TokenizerIdentity ReadTokenizer(const std::string& path) {
  const auto tokenizer = tokenizer::LoadTokenizer(path);
  if (tokenizer.ok()) {
    const tokenizer::Tokenizer& t = **tokenizer;
    return {t.fingerprint(), tokenizer::VocabularyDigest(*t.decoder(), t.bos_id(), t.eos_id())};
  }
  telemetry::Log(telemetry::Level::kWarning, "target/no-tokenizer",
                 {{"error", tokenizer.status().ToString()}});
  return {};
}

absl::StatusOr<std::unique_ptr<rpc::RpcExperts>> ConnectExperts(const TargetOptions& options,
                                                                fleet::v1::ExpertShape* shape) {
  TUTTI_ASSIGN_OR_RETURN(const model::ExpertFiles files,
                         model::OpenExperts(options.model, options.ffn_slices));
  const model::ExpertDescription& e = files.experts;
  shape->set_fingerprint(e.fingerprint);
  shape->set_num_layers(static_cast<uint32_t>(e.num_layers));
  shape->set_experts_per_layer(static_cast<uint32_t>(e.experts_per_layer));
  rpc::RpcExpertsOptions o;
  o.shape = {.fingerprint = e.fingerprint,
             .hidden = e.hidden,
             .num_layers = e.num_layers,
             .experts_per_layer = e.experts_per_layer,
             .reads_f32 = e.reads_f32};
  for (const std::string& address : options.experts) {
    if (address == "router") {
      o.routers = options.worker.routers;
    } else {
      o.addresses.push_back(address);
    }
  }
  o.tls = options.worker.service.tls;
  if (options.expert_double_check > 0) {  // what settles a mismatch
    const auto own = std::make_shared<model::FileExperts>(files);
    o.own_experts = [own](const moe::ExpertBatch& batch, float* out) {
      return own->Run(batch, out);
    };
  }
  o.exchange.double_every = static_cast<uint32_t>(options.expert_double_check);
  o.exchange.deadline_us = int64_t{options.expert_deadline_ms} * 1000;
  o.exchange.hedge_min_us = options.expert_hedge_us;
  if (options.expert_hedge_us == 0) o.exchange.hedge_factor = 0;
  o.warm_cores = options.expert_warm_cores >= 0 ? options.expert_warm_cores : options.threads;
  o.overlap_rows = options.expert_overlap_rows;
  o.overlap_rows_shm = options.expert_overlap_rows_shm;
  return rpc::RpcExperts::Create(o);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const TargetOptions& options, ThreadPool* pool) {
  std::optional<speculation::DraftPair> pair;
  if (!options.draft_for.empty()) {
    auto found = speculation::PairWithTarget(options.draft_for, options.model);
    if (!found.ok()) return Annotate(found.status(), "--for");
    pair = *std::move(found);
  }
  auto tokenizer = std::async(std::launch::async, ReadTokenizer, options.model);
  model::LoadOptions load;
  TUTTI_ASSIGN_OR_RETURN(load.kv_dtype, model::KvTypeFromName(options.kv_type));
  load.pool = pool;
  load.ffn_slices = options.ffn_slices;
  load.skip_layers = options.skip_layers;
  LoadedModel out;
  if (!options.experts.empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.experts, ConnectExperts(options, &out.expert_shape.emplace()));
    load.experts = out.experts.get();
    load.local_experts = options.local_experts;
  }
  auto model = model::LoadDecoder(options.model, load);
  TokenizerIdentity own = tokenizer.get();
  out.tokenizer_fingerprint = own.fingerprint;
  out.vocabulary_digest = std::move(own.digest);
  if (!model.ok()) return model.status();
  out.model = *std::move(model);
  if (pair.has_value()) {
    // It speaks its target's ids, so it counts as one of its vocabulary.
    out.tokenizer_fingerprint = pair->tokenizer_fingerprint;
    out.vocabulary_digest.clear();  // a draft's own vocabulary is nobody's
    if (pair->map != nullptr) {
      telemetry::Log(telemetry::Level::kInfo, "draft/vocabulary",
                     {{"shared_tokens", std::to_string(pair->map->num_shared())},
                      {"target_tokens", std::to_string(pair->map->num_tokens())}});
      out.model = std::make_unique<speculation::MappedModel>(std::move(out.model), *pair);
    }
  }
  return out;
}

// Members end in reverse order: the server before what its calls use.
struct Target::Impl {
  TargetOptions options;
  Loader loader;
  telemetry::Metrics metrics;
  TargetMetrics target_metrics{&metrics};
  std::unique_ptr<ThreadPool> pool;
  std::optional<rpc::ExpertStats> expert_stats;  // with experts on shards
  std::unique_ptr<rpc::RpcExperts> experts;
  std::unique_ptr<model::DecoderModel> model;
  std::unique_ptr<EngineLoop> loop;
  std::atomic<const EngineLoop*> loop_to_ask{nullptr};  // for reports, once `loop` is there
  std::atomic<const rpc::RpcExperts*> experts_to_report{nullptr};
  std::atomic<rpc::Worker*> worker_to_nudge{nullptr};
  std::unique_ptr<Watchdog> watchdog;
  DecoderServiceImpl service;
  std::unique_ptr<rpc::Worker> worker;

  absl::StatusOr<rpc::WorkerSpec::Served> Load();
  fleet::v1::WorkerLoad ReportLoad() const;
  void ExtendReport(fleet::v1::WorkerReport* report) const;
  void Drain();
  void Watch();
};

// A thread that hangs can be neither ended nor trusted: the process ends, whoever started it starts
// it again, and routers go on elsewhere with what ran here.
void Target::Impl::Watch() {
  auto& age = metrics.Gauge("tutti_target_step_age_seconds",
                            "Since the engine's last sign of progress; 0 without work");
  watchdog = std::make_unique<Watchdog>(
      &loop->watch(), static_cast<int64_t>(options.hang_exit_s * 1e6),
      [&age](const StepWatch::View& view) { age.Set(static_cast<double>(view.age_us) * 1e-6); },
      [](const StepWatch::View& view) {
        telemetry::Log(telemetry::Level::kError, "target/hang",
                       {{"error", "the engine's thread has not moved; the process ends"},
                        {"age_ms", std::to_string(view.age_us / 1000)},
                        {"limit_ms", std::to_string(view.limit_us / 1000)}});
        std::_Exit(70);
      });
}

absl::StatusOr<rpc::WorkerSpec::Served> Target::Impl::Load() {
  TUTTI_RETURN_IF_ERROR(kernels::SelectIsa(options.isa));
  pool = std::make_unique<ThreadPool>(ThreadPool::Options{
      .num_threads = options.threads, .spin_us = options.spin_us, .pin = options.pin});
  TUTTI_ASSIGN_OR_RETURN(LoadedModel loaded, loader(options, pool.get()));
  experts = std::move(loaded.experts);
  if (experts != nullptr) {
    experts->Count(&expert_stats.emplace(&metrics));
    experts->OnQuarantine([this] {
      if (rpc::Worker* const w = worker_to_nudge; w != nullptr) w->Nudge();
    });
    experts_to_report = experts.get();
  }
  model = std::move(loaded.model);
  if (options.forward_us_min > 0)
    model = std::make_unique<PacedModel>(std::move(model), options.forward_us_min);
  const model::ModelInfo& info = model->info();
  engine::EngineOptions engine_options = options.engine;
  engine_options.start_within_us = static_cast<int64_t>(options.start_within_s * 1e6);
  engine_options.max_queue_us = static_cast<int64_t>(options.queue_wait_s * 1e6);
  engine_options.clock_us = EngineLoop::NowUs;
  engine_options.pool = pool.get();
  TUTTI_ASSIGN_OR_RETURN(auto engine, engine::Engine::Create(model.get(), engine_options));

  const engine::EngineStats stats = engine->Stats();
  const std::string isa(kernels::IsaName(kernels::Kernels().isa));
  target_metrics.SetCacheConfig(stats, options.kv_type, options.engine.prefix_cache);
  target_metrics.SetModel(info.name, info.fingerprint, isa);
  loop = std::make_unique<EngineLoop>(std::move(engine), options.engine.max_waiting,
                                      options.messages_per_s, pool.get(), &target_metrics);
  loop_to_ask = loop.get();
  Watch();

  wire::DecoderInfo out;
  out.name = info.name;
  out.architecture = info.architecture;
  out.isa = isa;
  out.fingerprint = info.fingerprint;
  out.tokenizer_fingerprint = loaded.tokenizer_fingerprint;
  out.vocab_size = info.vocab_size;
  // A context that the pages cannot hold is none: the router refuses or caps by this one.
  out.context_tokens = static_cast<int32_t>(
      std::min<int64_t>(info.context_tokens, int64_t{stats.num_pages} * kv_cache::kPageTokens));
  out.num_pages = stats.num_pages;
  out.page_tokens = kv_cache::kPageTokens;
  out.threads = options.threads;
  out.eos_ids = info.eos_ids;
  service.SetReady(loop.get(), info, out, options.is_draft);
  rpc::WorkerSpec::Served served{.model = info.name,
                                 .fingerprint = info.fingerprint,
                                 .tokenizer_fingerprint = loaded.tokenizer_fingerprint,
                                 .vocabulary_digest = std::move(loaded.vocabulary_digest),
                                 .expert_shape = loaded.expert_shape};
  if (const auto& names = options.served_names; !names.empty()) {
    served.model = names[0];
    served.model_aliases.assign(names.begin() + 1, names.end());
  }
  return served;
}

fleet::v1::WorkerLoad Target::Impl::ReportLoad() const {
  fleet::v1::WorkerLoad load;
  load.set_memory_bytes(rpc::ResidentBytes());
  const EngineLoop* engine_loop = loop_to_ask;
  if (engine_loop == nullptr) return load;
  const engine::EngineStats stats = engine_loop->stats();
  load.set_running(stats.num_running);
  load.set_waiting(stats.num_waiting);
  load.set_pages(stats.num_pages);
  load.set_free_pages(stats.num_free_pages + stats.num_cached_pages);
  load.set_tokens_per_s(engine_loop->tokens_per_s());
  const StepWatch::View step = engine_loop->watch().Look(EngineLoop::NowUs());
  load.set_step_age_us(step.age_us);
  load.set_step_limit_us(step.limit_us);
  return load;
}

void Target::Impl::ExtendReport(fleet::v1::WorkerReport* report) const {
  constexpr size_t kMost = 64;
  const rpc::RpcExperts* const e = experts_to_report;
  if (e == nullptr) return;
  const auto all = e->quarantined();
  for (size_t i = all.size() - std::min(all.size(), kMost); i < all.size(); ++i) {
    fleet::v1::QuarantinedShard* const out = report->add_quarantined();
    out->set_process(all[i].process);
    out->set_address(all[i].address);
  }
}

// gRPC closes a connection as soon as its last stream ended here, maybe before the peer has read
// that stream's last words; so the sequences end first, and their streams get a moment.
void Target::Impl::Drain() {
  using std::chrono::steady_clock;
  service.StartDraining();
  const auto until =
      steady_clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(options.worker.service.drain_grace_s * 1e3));
  const auto busy = [this] {
    const fleet::v1::WorkerLoad load = ReportLoad();
    return load.running() + load.waiting() > 0;
  };
  while (busy() && steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

Target::Target(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Target>> Target::Start(const TargetOptions& options, Loader loader) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>();
  Impl* const p = impl.get();
  p->options = options;
  p->loader = std::move(loader);
  rpc::WorkerSpec spec;
  spec.name = options.is_draft ? "draft" : "target";
  spec.kind = options.is_draft ? fleet::v1::WORKER_KIND_DRAFT : fleet::v1::WORKER_KIND_TARGET;
  spec.services = {&p->service};
  spec.health_names = {decoder::v1::DecoderService::service_full_name()};
  spec.load = [p] { return p->Load(); };
  spec.report_load = [p] { return p->ReportLoad(); };
  spec.extend_report = [p](fleet::v1::WorkerReport* report) { p->ExtendReport(report); };
  spec.on_drain = [p] { p->Drain(); };
  TUTTI_ASSIGN_OR_RETURN(p->worker,
                         rpc::Worker::Start(options.worker, &p->metrics, std::move(spec)));
  p->worker_to_nudge = p->worker.get();
  return std::unique_ptr<Target>(new Target(std::move(impl)));
}

Target::~Target() {
  if (impl_->worker != nullptr) impl_->worker.reset();
  impl_->watchdog.reset();
  if (impl_->loop != nullptr) impl_->loop->Stop();
}

rpc::Worker& Target::worker() { return *impl_->worker; }

StepWatch::View Target::step() const {
  const EngineLoop* loop = impl_->loop_to_ask;
  return loop == nullptr ? StepWatch::View() : loop->watch().Look(EngineLoop::NowUs());
}

}  // namespace tutti::target
