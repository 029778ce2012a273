// Load from many clients at once, and what they saw.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "tools/cli/local_model.h"
#include "tools/cli/where.h"

namespace tutti::cli {

struct BenchOptions {
  Endpoint endpoint;
  std::string model;  // "": the first one that the address lists
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

// What one request saw.
struct RequestFigures {
  int64_t prompt_tokens = 0, output_tokens = 0;
  struct Arrival {
    double at_s = 0;  // since the request began
    int tokens = 0;   // that came with this message; 0: the server does not say how many
  };
  std::vector<Arrival> arrivals;  // of each message with new tokens
  double end_s = 0;
};

// The time per token after the first message, one value for each token. The tokens of a message
// share the time since the message before it: k tokens after a gap g are k values g / k. Where the
// server does not say how many tokens a message has, each token has the mean of its request.
std::vector<double> TokenGaps(const RequestFigures& figures);

struct BenchReport {
  int completed = 0, failed = 0;
  std::string first_error;
  int64_t prompt_tokens = 0, output_tokens = 0;
  double seconds = 0;
  Percentiles first_token_s, inter_token_s, end_to_end_s;
};

// Gathers requests into a report.
class BenchTally {
 public:
  void Add(const absl::StatusOr<RequestFigures>& figures);
  int done() const { return report_.completed + report_.failed; }
  BenchReport Finish(double seconds);

 private:
  BenchReport report_;
  std::vector<double> first_, inter_, total_;
};

// `on_progress` gets requests done so far; Ctrl-C ends the run early through `stop`.
absl::StatusOr<BenchReport> RunBench(const BenchOptions& options,
                                     const std::function<void(int done)>& on_progress,
                                     const std::atomic<bool>& stop);

// The same load on a model in this process, without services: what they are to be compared with.
// `address` and `model` of the options are not used.
absl::StatusOr<BenchReport> RunLocalBench(const BenchOptions& options,
                                          const LocalModelOptions& local,
                                          const std::function<void(int done)>& on_progress,
                                          const std::atomic<bool>& stop);

// The load over gRPC, one thread for all clients (bench_grpc.cc).
// Errors: INVALID_ARGUMENT  the address; what goes wrong with a request is in the tally
absl::Status RunGrpcLoad(const BenchOptions& options, BenchTally* tally,
                         const std::function<void(int done)>& on_progress,
                         const std::atomic<bool>& stop);

// The prompt of request `index`: `words` words, a function of seed and index alone.
std::string BenchPrompt(const BenchOptions& options, int index);

}  // namespace tutti::cli
