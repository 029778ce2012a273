#include "services/tokenizer/tokenizer_worker.h"

#include <CLI/CLI.hpp>

#include "services/tokenizer/tokenizer_service.h"
#include "shared/rpc/clients/fleet_reporter.h"
#include "shared/rpc/worker_program.h"
#include "shared/telemetry/log.h"

namespace tutti::tokenizer_service {

absl::Status TokenizerOptions::Validate() const {
  if (model.empty()) return absl::InvalidArgumentError("--model: needed");
  return worker.Validate();
}

bool ParseOptions(int argc, char** argv, TokenizerOptions* o, int* exit_code) {
  o->worker.service.listen = {"127.0.0.1:7072"};
  CLI::App app{
      "tutti-tokenizer: text and chats to token ids and back "
      "(tutti.tokenizer.v1.TokenizerService).",
      "tutti-tokenizer"};
  app.add_option("--model", o->model,
                 "GGUF file, Hugging Face folder, packed directory, or tokenizer.json")
      ->type_name("PATH")
      ->required();
  rpc::AddWorkerFlags(&app, &o->worker);
  return rpc::ParseFlags(
      &app, argc, argv, [o] { return o->Validate(); }, exit_code);
}

// Members end in reverse order: the worker before the service that it serves.
struct TokenizerWorker::Impl {
  TokenizerOptions options;
  telemetry::Metrics metrics;
  TokenizerServiceImpl service{&metrics};
  std::unique_ptr<rpc::Worker> worker;

  absl::StatusOr<rpc::WorkerSpec::Served> Load() {
    TUTTI_ASSIGN_OR_RETURN(auto loaded, tokenizer::LoadTextModel(options.model));
    if (!loaded.chat_template.has_value()) {
      telemetry::Log(telemetry::Level::kWarning, "tokenizer/no-template",
                     {{"error", std::string(loaded.template_status.message())}});
    }
    const auto model = std::make_shared<const tokenizer::TextModel>(std::move(loaded));
    service.SetReady(model);
    return rpc::WorkerSpec::Served{
        .model = model->name,
        .tokenizer_fingerprint = model->tokenizer->fingerprint(),
        .vocabulary_digest = tokenizer::VocabularyDigest(
            *model->tokenizer->decoder(), model->tokenizer->bos_id(), model->tokenizer->eos_id())};
  }
};

TokenizerWorker::TokenizerWorker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenizerWorker::~TokenizerWorker() = default;

absl::StatusOr<std::unique_ptr<TokenizerWorker>> TokenizerWorker::Start(
    const TokenizerOptions& options) {
  TUTTI_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>();
  Impl* const p = impl.get();
  p->options = options;
  rpc::WorkerSpec spec;
  spec.name = "tokenizer";
  spec.kind = fleet::v1::WORKER_KIND_TOKENIZER;
  spec.services = {&p->service};
  spec.health_names = {tokenizer::v1::TokenizerService::service_full_name()};
  spec.load = [p] { return p->Load(); };
  spec.report_load = [] {
    fleet::v1::WorkerLoad load;
    load.set_memory_bytes(rpc::ResidentBytes());
    return load;
  };
  TUTTI_ASSIGN_OR_RETURN(p->worker,
                         rpc::Worker::Start(options.worker, &p->metrics, std::move(spec)));
  return std::unique_ptr<TokenizerWorker>(new TokenizerWorker(std::move(impl)));
}

rpc::Worker& TokenizerWorker::worker() { return *impl_->worker; }

}  // namespace tutti::tokenizer_service
