// One request and its answer, the same whether a cluster or this process computes it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/router/types.h"

namespace tutti::cli {

struct GenerateResult {
  std::string text;
  std::vector<store::Token> tokens;         // output
  std::vector<store::Token> prompt_tokens;  // when prompt_logprobs was asked
  std::vector<int32_t> prompt_ids;
  std::vector<store::Beam> beams;
  store::FinishReason finish = store::FinishReason::kNone;
  std::string matched_stop;
  store::Usage usage;
  uint64_t seed = 0, digest = 0, fingerprint = 0;
  std::string model, request_id;
  int64_t first_token_us = 0, total_us = 0;  // from the call, as seen here
};

// Thread safety: one Generate at a time.
class Generator {
 public:
  virtual ~Generator() = default;

  // Runs one request with one choice. `on_text` gets the text as it comes; it may be empty. When
  // `stop` (may be null) becomes true the request is cancelled and what came so far is returned,
  // with FinishReason::kCancelled. Errors: as the router's; INVALID_ARGUMENT names the field.
  virtual absl::StatusOr<GenerateResult> Generate(
      const router::RequestSpec& spec, const std::function<void(std::string_view)>& on_text,
      const std::atomic<bool>* stop) = 0;
};

struct Endpoint;
// Over gRPC, from the router at `endpoint`.
absl::StatusOr<std::unique_ptr<Generator>> MakeRemoteGenerator(const Endpoint& endpoint);
// Over the OpenAI-compatible API at `endpoint`. What another server than Tutti does not report (the
// digest, the fingerprint, token ids) is 0 or empty in the result.
absl::StatusOr<std::unique_ptr<Generator>> MakeHttpGenerator(const Endpoint& endpoint);

// How a choice ended, for people and scripts: "eos", "stop", "length", "cancelled", ...
std::string_view FinishName(store::FinishReason reason);
// "20 tokens, 41.3 tok/s, first after 0.05 s, seed 7"
std::string SpeedLine(const GenerateResult& result);
// Writes a model's text to stdout and flushes; on a terminal without its control characters.
void PrintModelText(std::string_view text);

}  // namespace tutti::cli
