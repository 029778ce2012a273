// The sampling flags that generate and chat share, and how commands read text and ids.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/generation.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// Flags for spec->sampling, stop strings and seed. Values that `spec` holds already are the
// defaults. After the parse, `Finish()` carries over what cannot be bound directly.
class SamplingFlags {
 public:
  void Add(CLI::App* app, router::RequestSpec* spec);
  // Text of special tokens becomes those tokens if spec->prompt is text by now, unless a flag says
  // otherwise: call it when the prompt is set, or the prompts will be chats.
  // Errors: INVALID_ARGUMENT naming the flag
  absl::Status Finish();

 private:
  router::RequestSpec* spec_ = nullptr;
  CLI::App* app_ = nullptr;
  std::vector<std::string> logit_bias_;
};

// A prompt from --prompt, a file ("-": stdin), or stdin when it is no terminal. Errors:
// INVALID_ARGUMENT
absl::StatusOr<std::string> ReadPrompt(const std::string& text, bool has_text,
                                       const std::string& file);
// "1 2 3" or "1,2,3". Errors: INVALID_ARGUMENT naming the flag and the word
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text, const char* flag);

}  // namespace tutti::cli
