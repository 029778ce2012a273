// Load from many clients at once, and what they saw.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::cli {

struct BenchOptions {
  std::string address;  // http://HOST:PORT (OpenAI), or HOST:PORT / unix:PATH (tutti gRPC)
  std::string model;    // "": the first one that the address lists
  std::string api_key;  // sent as a bearer token over HTTP when not empty
  int clients = 8;
  int requests = 32;  // in all
  int prompt_words = 64;
  int max_tokens = 64;
  double temperature = 0;
  uint64_t seed = 1;  // of the prompts and of sampling
  bool ignore_eos = true;
  bool shared_prefix = false;  // all prompts begin with the same half

  // Errors: INVALID_ARGUMENT naming the flag
  absl::Status Validate() const;
};

struct Percentiles {
  double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;
};
// Of any numbers; zeros when there are none. A percentile is the smallest value with at least that
// share at or below it.
Percentiles Summarise(std::vector<double> values);

struct BenchReport {
  int completed = 0, failed = 0;
  std::string first_error;
  int64_t prompt_tokens = 0, output_tokens = 0;
  double seconds = 0;
  Percentiles first_token_s, inter_token_s, end_to_end_s;
};

// `on_progress` gets requests done so far; Ctrl-C ends the run early through `stop`.
absl::StatusOr<BenchReport> RunBench(const BenchOptions& options,
                                     const std::function<void(int done)>& on_progress,
                                     const std::atomic<bool>& stop);

// The prompt of request `index`: `words` words, a function of seed and index alone.
std::string BenchPrompt(const BenchOptions& options, int index);

}  // namespace tutti::cli
