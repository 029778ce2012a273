// engine_bench: what the engine adds to a forward pass. Sampling alone, then whole steps over a
// model that computes nothing, then (with --model) the share of a real step.
//
//   build/bin/engine_bench [--vocab 49152] [--model FILE --threads 2]
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "shared/base/hash.h"
#include "shared/base/philox.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"
#include "shared/sampling/sampler.h"

namespace tutti {
namespace {

double NowUs() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The least of several runs: what it costs when nobody disturbs it.
double MinUs(int runs, const std::function<void()>& body) {
  double best = 1e18;
  for (int i = 0; i < runs; ++i) {
    const double start = NowUs();
    body();
    best = std::min(best, NowUs() - start);
  }
  return best;
}

// Logits of a language model's shape: most tokens far below a few good ones.
std::vector<float> SomeLogits(int vocab, uint32_t salt) {
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (uint32_t i = 0; i < logits.size(); ++i) {
    const auto r = Philox4x32(7, {i, salt, 0, 0});
    float sum = 0;
    for (uint32_t bits : r) sum += UnitUniform(bits);
    logits[i] = 6.0f * (sum - 2.0f) + (r[0] % 997 == 0 ? 9.0f : 0.0f);
  }
  return logits;
}

// A model whose forward pass is free: the logits of the last step stay where they are.
class FreeModel : public model::DecoderModel {
 public:
  explicit FreeModel(int vocab) {
    info_.vocab_size = vocab;
    info_.context_tokens = 4096;
    info_.kv = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .v_head_dim = 2};
  }
  const model::ModelInfo& info() const override { return info_; }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool&,
                       model::StepOutput* out) override {
    const double start = NowUs();
    size_t rows = 0;
    for (const auto& slice : slices) rows += static_cast<size_t>(slice.num_logits);
    const size_t size = rows * static_cast<size_t>(info_.vocab_size);
    if (out->logits.size() < size) {
      out->logits.clear();
      for (size_t r = 0; r < rows; ++r) {
        const auto row = SomeLogits(info_.vocab_size, static_cast<uint32_t>(r));
        out->logits.insert(out->logits.end(), row.begin(), row.end());
      }
    }
    out->logits.resize(size);
    out->slice_status.assign(slices.size(), absl::OkStatus());
    forward_us += NowUs() - start;
    return absl::OkStatus();
  }
  double forward_us = 0;

 private:
  model::ModelInfo info_;
};

// Counts the time inside the forward passes of another model.
class TimedModel : public model::DecoderModel {
 public:
  explicit TimedModel(model::DecoderModel* model) : model_(model) {}
  const model::ModelInfo& info() const override { return model_->info(); }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override {
    const double start = NowUs();
    const absl::Status status = model_->Forward(slices, pool, out);
    forward_us += NowUs() - start;
    return status;
  }
  double forward_us = 0;

 private:
  model::DecoderModel* model_;
};

void BenchSampling(int vocab) {
  const std::vector<float> logits = SomeLogits(vocab, 0);
  sampling::Scratch scratch;
  uint32_t salt = 0;
  const auto line = [&](const char* name, const sampling::SamplingParams& params, int num_output) {
    sampling::TokenHistory history(params, std::vector<int32_t>(200, 5));
    for (int i = 0; i < num_output; ++i) history.Append(i * 97 % vocab);
    const double us = MinUs(200, [&] {
      sampling::SamplingParams p = params;
      p.seed = ++salt;
      sampling::SampleToken(p, history, {}, logits, &scratch);
    });
    std::printf("  %-44s %8.1f us\n", name, us);
  };
  std::printf("one token of %d:\n", vocab);
  line("greedy", {.temperature = 0}, 200);
  line("temperature 0.8, all tokens", {.temperature = 0.8f}, 200);
  line("temperature 0.8, top_k 40", {.temperature = 0.8f, .top_k = 40}, 200);
  line("temperature 0.8, top_k 2000", {.temperature = 0.8f, .top_k = 2000}, 200);
  line("temperature 0.8, top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f}, 200);
  line("temperature 0.8, min_p 0.05", {.temperature = 0.8f, .min_p = 0.05f}, 200);
  line("temperature 0.8, typical_p 0.9", {.temperature = 0.8f, .typical_p = 0.9f}, 200);
  line("greedy, three penalties",
       {.temperature = 0,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.2f,
        .frequency_penalty = 0.1f},
       200);
  line("greedy, no_repeat_ngram_size 3", {.temperature = 0, .no_repeat_ngram_size = 3}, 2000);
  std::printf("  %-44s %8.1f us\n", "logprob and 5 alternatives",
              MinUs(200, [&] { sampling::ComputeLogprobs(logits, 3, 5); }));
  uint64_t digest = 0;
  std::printf("  %-44s %8.1f us\n", "digest",
              MinUs(200, [&] { digest = ExtendDigest(digest, logits); }));
}

// Microseconds per step and in the forward pass, at `streams` decoding sequences.
template <typename Timed>
void BenchSteps(Timed* model, const char* what, int streams, const sampling::SamplingParams& params,
                int steps) {
  auto engine = engine::Engine::Create(model, {.num_pages = 4096}).value();
  for (int i = 0; i < streams; ++i) {
    engine::SequenceRequest request{.id = static_cast<uint64_t>(i) + 1, .params = params};
    request.params.max_tokens = 100000;
    request.params.ignore_eos = true;
    request.params.seed = static_cast<uint64_t>(i);
    for (int t = 0; t < 64; ++t) request.prompt.push_back((t * 31 + i) % model->info().vocab_size);
    if (const auto status = engine->Submit(std::move(request), 0); !status.ok()) {
      std::printf("%s\n", status.ToString().c_str());
      return;
    }
  }
  for (int i = 0; i < streams / 4 + 8; ++i) engine->Step(i);  // prompts
  model->forward_us = 0;
  const double start = NowUs();
  for (int i = 0; i < steps; ++i) engine->Step(i);
  const double all = (NowUs() - start) / steps, forward = model->forward_us / steps;
  std::printf(
      "  %2d streams, %-28s step %9.1f us, forward %9.1f us, engine %7.1f us = %5.1f us a token, "
      "%5.2f %%\n",
      streams, what, all, forward, all - forward, (all - forward) / streams,
      100 * (all - forward) / all);
}

int Main(int argc, char** argv) {
  CLI::App app("What the decode engine adds to a forward pass.");
  int vocab = 49152, threads = 2;
  std::string path;
  app.add_option("--vocab", vocab, "vocabulary of the free model")->check(CLI::Range(16, 1 << 20));
  app.add_option("--model", path, "a model to run real steps of");
  app.add_option("--threads", threads, "threads of its forward pass")->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);

  BenchSampling(vocab);
  std::printf("steps over a model that computes nothing, %d tokens:\n", vocab);
  FreeModel free_model(vocab);
  for (int streams : {1, 8, 32}) {
    BenchSteps(&free_model, "greedy", streams, {.temperature = 0}, 200);
    BenchSteps(&free_model, "temperature 0.8, top_p 0.95", streams,
               {.temperature = 0.8f, .top_p = 0.95f}, 200);
  }
  FreeModel small(64);
  BenchSteps(&small, "vocabulary 64 (scheduler)", 32, {.temperature = 0}, 1000);
  if (path.empty()) return 0;
  ThreadPool pool({.num_threads = threads});
  auto model = model::LoadDecoder(path, {.pool = &pool});
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
    return 1;
  }
  TimedModel timed(model->get());
  std::printf("steps of %s:\n", (*model)->info().name.c_str());
  for (int streams : {1, 8}) {
    BenchSteps(&timed, "greedy", streams, {.temperature = 0}, 40);
    BenchSteps(&timed, "temperature 0.8, top_p 0.95", streams,
               {.temperature = 0.8f, .top_p = 0.95f}, 40);
  }
  return 0;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
