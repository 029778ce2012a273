// A target as one object: model, engine, service, and the shell around them. main() and tests start
// it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "services/target/options.h"
#include "services/target/step_watch.h"
#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/model/decoder_model.h"
#include "shared/rpc/clients/expert_client.h"
#include "shared/rpc/worker.h"

namespace tutti::target {

struct LoadedModel {
  std::unique_ptr<rpc::RpcExperts> experts;  // elsewhere, or nullptr; the model borrows it
  std::unique_ptr<model::DecoderModel> model;
  uint64_t tokenizer_fingerprint = 0;  // 0: the model has no tokenizer with it
  std::string vocabulary_digest;       // of that tokenizer (tokenizer::VocabularyDigest)
  std::optional<fleet::v1::ExpertShape> expert_shape{};  // with experts on shards
};
// From options.model, over a pool of options.threads.
absl::StatusOr<LoadedModel> LoadModel(const TargetOptions& options, ThreadPool* pool);

class Target {
 public:
  using Loader =
      std::function<absl::StatusOr<LoadedModel>(const TargetOptions& options, ThreadPool* pool)>;

  // See rpc::Worker::Start. Until the model is there, calls get UNAVAILABLE with reason STARTING.
  static absl::StatusOr<std::unique_ptr<Target>> Start(const TargetOptions& options,
                                                       Loader loader = LoadModel);
  ~Target();

  rpc::Worker& worker();
  // How the engine's thread gets on; all 0 before the model is loaded.
  StepWatch::View step() const;

 private:
  struct Impl;
  explicit Target(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti::target
