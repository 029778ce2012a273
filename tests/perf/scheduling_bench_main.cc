// scheduling_bench: what running streams feel of a long prompt that arrives, and what the prefix
// cache saves.
//
//   build/bin/scheduling_bench --model FILE [--threads 2] [--streams 4] [--long-prompt 4000]
//   [--prefix 2000]
//
// Both drive the engine from one thread, so the gaps between tokens are steps and nothing else.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <CLI/CLI.hpp>

#include "shared/base/clock.h"
#include "shared/base/philox.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"

namespace tutti {
namespace {

struct Options {
  std::string model;
  int threads = 2, streams = 4, long_prompt = 4000, prefix = 2000, runs = 3;
};

engine::SequenceRequest Request(uint64_t id, int prompt_tokens, int max_tokens, int vocab) {
  engine::SequenceRequest r{.id = id};
  for (uint32_t i = 0; i < static_cast<uint32_t>(prompt_tokens); ++i) {
    const auto random = Philox4x32(id, {i, 0, 0, 0});
    r.prompt.push_back(static_cast<int32_t>(random[0] % static_cast<uint32_t>(vocab)));
  }
  r.params.max_tokens = max_tokens;
  r.params.temperature = 0;
  r.params.ignore_eos = true;
  return r;
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

double Quantile(std::vector<int64_t> us, double q) {
  std::sort(us.begin(), us.end());
  const auto last = static_cast<double>(us.size() - 1);
  return static_cast<double>(us[static_cast<size_t>(q * last + 0.5)]) / 1000;
}

// Gaps between the tokens of running streams, from the arrival of a long prompt to its first token.
void BenchLongPrompt(const Options& o, model::DecoderModel* model, ThreadPool* pool, int chunk) {
  engine::EngineOptions options{.num_pages = 4096, .prefix_cache = false, .pool = pool};
  options.prefill_chunk_tokens = chunk;
  if (chunk == 0) options.max_batch_tokens = o.long_prompt + o.streams;
  std::vector<int64_t> gaps;
  int64_t first_token_us = 0;
  for (int run = 0; run < o.runs; ++run) {
    auto engine = engine::Engine::Create(model, options).value();
    const int vocab = model->info().vocab_size;
    for (int i = 0; i < o.streams; ++i) {
      Check(engine->Submit(Request(static_cast<uint64_t>(i) + 1, 64, 100000, vocab), 0));
    }
    for (int i = 0; i < 16; ++i) engine->Step(0);
    const uint64_t long_id = 1000;
    Check(engine->Submit(Request(long_id, o.long_prompt, 2, vocab), 0));
    const int64_t start = SteadyNowUs();
    std::unordered_map<uint64_t, int64_t> last;
    for (int i = 1; i <= o.streams; ++i) last[static_cast<uint64_t>(i)] = start;
    for (bool arrived = false; !arrived;) {
      const auto outputs = engine->Step(0);
      const int64_t now = SteadyNowUs();
      for (const auto& output : outputs) {
        if (output.id == long_id) {
          arrived = true;
          first_token_us += now - start;
        } else {
          gaps.push_back(now - last[output.id]);
          last[output.id] = now;
        }
      }
    }
  }
  char name[32];
  std::snprintf(name, sizeof(name), chunk == 0 ? "whole" : "chunks of %d", chunk);
  std::printf(
      "  %-14s %8.1f %8.1f %8.1f ms between tokens (p50, p99, longest), %7.0f ms to its first "
      "token\n",
      name, Quantile(gaps, 0.5), Quantile(gaps, 0.99), Quantile(gaps, 1.0),
      static_cast<double>(first_token_us) / o.runs / 1000);
}

// Microseconds from Submit to the first token.
int64_t FirstTokenUs(engine::Engine* engine, engine::SequenceRequest request, int* cached) {
  const int64_t start = SteadyNowUs();
  Check(engine->Submit(std::move(request), 0));
  while (true) {
    for (const auto& output : engine->Step(0)) {
      if (output.tokens.empty()) continue;
      const int64_t us = SteadyNowUs() - start;
      *cached = output.usage.cached_tokens;
      return us;
    }
  }
}

void BenchPrefix(const Options& o, model::DecoderModel* model, ThreadPool* pool) {
  const int vocab = model->info().vocab_size;
  auto engine = engine::Engine::Create(model, {.num_pages = 4096, .pool = pool}).value();
  std::vector<int64_t> first, again;
  int cached = 0;
  for (int run = 0; run < o.runs; ++run) {
    // The same beginning, other questions.
    auto request = Request(static_cast<uint64_t>(run) + 1, o.prefix, 1, vocab);
    const std::vector<int32_t> prefix = request.prompt;
    for (int question = 0; question < 2; ++question) {
      request.id = static_cast<uint64_t>(run) * 2 + static_cast<uint64_t>(question) + 1;
      request.prompt = prefix;
      for (int i = 0; i < 16; ++i) request.prompt.push_back((question * 1000 + i * 7) % vocab);
      (question == 0 ? first : again).push_back(FirstTokenUs(engine.get(), request, &cached));
    }
  }
  const double a = Quantile(first, 0.5), b = Quantile(again, 0.5);
  std::printf(
      "time to first token of a prompt of %d tokens and 16 more: %.1f ms, with the prefix cached "
      "%.1f ms "
      "= 1/%.0f (%d tokens found)\n",
      o.prefix, a, b, a / b, cached);
}

int Main(int argc, char** argv) {
  CLI::App app("What running streams feel of a long prompt, and what the prefix cache saves.");
  Options o;
  app.add_option("--model", o.model, "GGUF file, folder or packed directory")->required();
  app.add_option("--threads", o.threads, "threads of the forward pass")->check(CLI::Range(1, 256));
  app.add_option("--streams", o.streams, "running streams")->check(CLI::Range(1, 64));
  app.add_option("--long-prompt", o.long_prompt, "tokens of the prompt that arrives")
      ->check(CLI::Range(16, 100000));
  app.add_option("--prefix", o.prefix, "tokens of the repeated beginning")
      ->check(CLI::Range(16, 100000));
  app.add_option("--runs", o.runs, "runs of each")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  ThreadPool pool({.num_threads = o.threads});
  auto model = model::LoadDecoder(o.model, {.pool = &pool});
  Check(model.status());
  std::printf("%d running streams while a prompt of %d tokens arrives:\n", o.streams,
              o.long_prompt);
  for (const int chunk : {64, 256, 0}) BenchLongPrompt(o, model->get(), &pool, chunk);
  BenchPrefix(o, model->get(), &pool);
  return 0;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
