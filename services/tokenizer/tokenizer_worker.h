// A tokenizer worker as one object: text model, service, and the shell around them.
#pragma once

#include <memory>
#include <string>

#include "shared/base/status.h"
#include "shared/rpc/worker.h"

namespace tutti::tokenizer_service {

struct TokenizerOptions {
  std::string model;  // GGUF file, Hugging Face folder, or tokenizer.json; required
  rpc::WorkerOptions worker;

  // Errors: INVALID_ARGUMENT naming the flag.
  absl::Status Validate() const;
};

// False when the process should end with `*exit_code` (--help, or a message was printed).
bool ParseOptions(int argc, char** argv, TokenizerOptions* options, int* exit_code);

class TokenizerWorker {
 public:
  // See rpc::Worker::Start. Until the files are read, calls get UNAVAILABLE with reason STARTING.
  static absl::StatusOr<std::unique_ptr<TokenizerWorker>> Start(const TokenizerOptions& options);
  ~TokenizerWorker();

  rpc::Worker& worker();

 private:
  struct Impl;
  explicit TokenizerWorker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tutti::tokenizer_service
