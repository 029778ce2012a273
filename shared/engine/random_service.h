// Random services for property tests: requests of every kind, engines of every size. One seed, one
// service.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "shared/engine/test_harness.h"

namespace tutti::engine {

class Random {
 public:
  explicit Random(uint64_t seed) : rng_(seed) {}
  int operator()(int low, int high) {  // inclusive
    return low + static_cast<int>(rng_() % static_cast<uint64_t>(high - low + 1));
  }
  bool OneIn(int n) { return (*this)(1, n) == 1; }
  float Unit() { return static_cast<float>((*this)(0, 1000)) / 1000.0f; }

 private:
  std::mt19937_64 rng_;
};

inline sampling::SamplingParams RandomParams(Random& r) {
  sampling::SamplingParams p;
  p.seed = static_cast<uint64_t>(r(0, 1 << 30)) << 20;
  p.sample_index = static_cast<uint32_t>(r(0, 3));
  p.temperature = r.OneIn(3) ? 0.0f : 0.5f + r.Unit();
  if (r.OneIn(4)) p.top_k = r(1, 70);
  if (r.OneIn(4)) p.top_p = 0.05f + 0.95f * r.Unit();
  if (r.OneIn(6)) p.min_p = 0.3f * r.Unit();
  if (r.OneIn(6)) p.typical_p = 0.1f + 0.9f * r.Unit();
  if (r.OneIn(4)) p.repetition_penalty = 0.7f + r.Unit();
  if (r.OneIn(4)) p.presence_penalty = 2 * r.Unit() - 1;
  if (r.OneIn(4)) p.frequency_penalty = r.Unit();
  if (r.OneIn(5)) p.logit_bias = {{3, 4.0f * r.Unit()}, {1, -100.0f}};
  if (r.OneIn(6)) p.no_repeat_ngram_size = r(1, 3);
  p.max_tokens = r.OneIn(12) ? 0 : r.OneIn(2) ? r(1, 20) : r(20, 120);
  if (r.OneIn(4)) p.min_tokens = r(0, p.max_tokens);
  p.ignore_eos = r.OneIn(2);
  if (r.OneIn(4)) p.stop_ids = {r(0, 63), r(0, 63)};
  if (r.OneIn(2)) p.logprobs = r(0, 5);
  if (r.OneIn(5)) p.prompt_logprobs = r(0, 3);
  if (r.OneIn(7)) {
    p.temperature = 0;
    p.top_k = 0;
    p.top_p = p.typical_p = 1;
    p.min_p = 0;
    p.logprobs = -1;
    p.num_beams = r(2, 4);
    p.num_return = r(1, p.num_beams);
    p.length_penalty = 2 * r.Unit();
    p.early_stopping = r.OneIn(2);
    p.max_tokens = r(1, 20);
    p.min_tokens = 0;
  }
  return p;
}

inline std::vector<int32_t> RandomPrompt(Random& r) {
  // A few common beginnings, so that pages are shared and siblings meet.
  std::vector<int32_t> prompt;
  const int base = r(0, 2);
  for (int i = 0, n = r.OneIn(3) ? 0 : r(1, 70); i < n; ++i)
    prompt.push_back((i * (base + 3) + i / 5) % 64);
  for (int i = 0, n = r(1, 25); i < n; ++i) prompt.push_back(r(0, 63));
  return prompt;
}

inline std::vector<Job> RandomJobs(Random& r) {
  std::vector<Job> jobs;
  for (SequenceId id = 1, n = static_cast<SequenceId>(r(2, 14)); id <= n; ++id) {
    Job job;
    job.request = {.id = id,
                   .prompt = RandomPrompt(r),
                   .params = RandomParams(r),
                   .priority = r.OneIn(4) ? r(-1, 1) : 0,
                   .client = static_cast<uint64_t>(r(0, 2)),
                   .group = static_cast<uint64_t>(r(0, 4))};
    if (id > 1 && r.OneIn(4)) {  // n > 1: the same prompt and seed, another sample
      job.request.prompt = jobs.back().request.prompt;
      job.request.params = jobs.back().request.params;
      ++job.request.params.sample_index;
    }
    job.arrival_step = r.OneIn(2) ? 0 : r(0, 60);
    if (r.OneIn(8)) job.cancel_step = job.arrival_step + r(0, 30);
    jobs.push_back(std::move(job));
  }
  return jobs;
}

inline EngineOptions RandomOptions(Random& r) {
  static ThreadPool pool({.num_threads = 3});
  const int chunks[] = {1, 7, 64, 0};
  EngineOptions options;
  options.num_pages = r.OneIn(4) ? 200 : r(17, 22);  // one search of 4 beams may need 5 + 4 * 3
  options.max_batch_tokens = r.OneIn(3) ? r(4, 20) : r(20, 300);
  options.prefill_chunk_tokens = chunks[r(0, 3)];
  options.max_running = r.OneIn(4) ? r(1, 4) : 64;
  options.max_waiting = r.OneIn(4) ? 2 : 256;
  options.prefix_cache = !r.OneIn(3);
  options.pool = r.OneIn(2) ? &pool : nullptr;
  return options;
}

// Compares with the runs alone (of `reference`); returns the number of sequences that differ.
inline int CountDifferences(model::DecoderModel* reference, const std::vector<Job>& jobs,
                            std::map<SequenceId, Outcome>& outcomes, bool report) {
  int differences = 0;
  for (const Job& job : jobs) {
    const Outcome alone = RunAlone(reference, job.request);
    std::vector<std::string> want = BitsOf(alone), got = BitsOf(outcomes[job.request.id]);
    const bool cancelled =
        outcomes[job.request.id].finish == FinishReason::kNone && job.cancel_step >= 0;
    if (cancelled) want.resize(std::min(want.size(), got.size()));  // what it gave is a prefix
    if (got != want) {
      ++differences;
      if (report) {
        EXPECT_THAT(got, ::testing::ElementsAreArray(want))
            << "sequence " << job.request.id << " " << outcomes[job.request.id].status;
      }
    }
  }
  return differences;
}

}  // namespace tutti::engine
