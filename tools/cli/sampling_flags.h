// The sampling flags that generate and chat share, and where they send their requests.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tools/cli/generation.h"
#include "tools/cli/local_model.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// Flags for spec->sampling, stop strings and seed. Values that `spec` holds already are the
// defaults. After the parse, `Finish()` carries over what cannot be bound directly.
class SamplingFlags {
 public:
  void Add(CLI::App* app, router::RequestSpec* spec);
  // REQUIRES: spec->prompt is set; it decides whether text of special tokens is read (see
  // GenerateRequest.parse_special).
  // Errors: INVALID_ARGUMENT naming the flag
  absl::Status Finish();

 private:
  router::RequestSpec* spec_ = nullptr;
  CLI::App* app_ = nullptr;
  std::vector<std::string> logit_bias_;
};

// --model (in this process), --address, or the cluster of --state-dir.
struct WhereOptions {
  LocalModelOptions local;
  std::string address, state_dir;
};
void AddWhereFlags(CLI::App* app, WhereOptions* options);
// Errors: NOT_FOUND  none was given and no cluster runs
absl::StatusOr<std::unique_ptr<Generator>> MakeGenerator(const WhereOptions& options);
// The router's address. Errors: as above
absl::StatusOr<std::string> RouterAddress(const WhereOptions& options);

// A prompt from --prompt, a file ("-": stdin), or stdin when it is no terminal. Errors:
// INVALID_ARGUMENT
absl::StatusOr<std::string> ReadPrompt(const std::string& text, bool has_text,
                                       const std::string& file);
// "1 2 3" or "1,2,3". Errors: INVALID_ARGUMENT naming the flag and the word
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text, const char* flag);

}  // namespace tutti::cli
