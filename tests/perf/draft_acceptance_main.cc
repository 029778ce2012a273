// draft_acceptance: how often a draft model would be right, against what any draft could be.
//
//   build/bin/draft_acceptance --target FILE --draft FILE[@LAYERS] [--draft ...]
//                              [--samples 4] [--tokens 64] [--temperature 0 0.7 1]
//
// The target answers the golden prompts (tests/data), each `samples` times; along its own outputs
// both models' distributions p and q are compared at every position, in one process. Printed as a
// table of markdown:
//
//   shared noise      the draft's own draw, with the noise of the position, is the target's
//   optimum           1 - TV(p, q): no two draws from p and q can agree more often
//   rejection         a draw from q, independent of the target's, is accepted by min(1, p/q)
//                     (arXiv:2211.17192); its expectation is the optimum
//   independent       two draws that share nothing agree
//   tokens per step   of a step that verifies k guesses of shared noise, one after the other as in
//   a
//                     lock-step; and of one that is always right up to k
//   cost              processor time of a draft's decode step over one of the target's, batch of 1
//
// LAYERS: layers of the draft that are left out (shared/model/skip_layers.h).
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"
#include "shared/model/single_sequence.h"
#include "shared/sampling/sampler.h"
#include "shared/tokenizer/text_model.h"

namespace tutti {
namespace {

using model::DecoderModel;

// What the target says: prompt and output, by the engine.
struct Path {
  std::vector<int32_t> ids;
  size_t num_prompt = 0;
  sampling::SamplingParams params;
};

absl::StatusOr<Path> Answer(DecoderModel* model, ThreadPool* pool, std::vector<int32_t> prompt,
                            const sampling::SamplingParams& params) {
  engine::EngineOptions options;
  options.num_pages = 256;
  options.pool = pool;
  TUTTI_ASSIGN_OR_RETURN(auto engine, engine::Engine::Create(model, options));
  Path path{prompt, prompt.size(), params};
  TUTTI_RETURN_IF_ERROR(
      engine->Submit({.id = 1, .prompt = std::move(prompt), .params = params}, SteadyNowUs()));
  while (engine->HasWork()) {
    for (const auto& o : engine->Step(SteadyNowUs())) {
      TUTTI_RETURN_IF_ERROR(o.status);
      for (const auto& t : o.tokens) path.ids.push_back(t.token_id);
    }
  }
  return path;
}

struct Sums {
  int64_t positions = 0, agreed = 0, accepted = 0;
  double optimum = 0, independent = 0;
  std::vector<std::vector<bool>> runs;  // of each path: was the draft's token the target's
};

// Along the path, from its first output token on.
absl::Status Compare(DecoderModel* target, DecoderModel* draft, const Path& path,
                     std::mt19937_64* random, Sums* sums) {
  const auto ids = std::span(path.ids).first(path.ids.size() - 1);
  TUTTI_ASSIGN_OR_RETURN(const std::vector<float> of_target, model::PromptLogits(target, ids));
  TUTTI_ASSIGN_OR_RETURN(const std::vector<float> of_draft, model::PromptLogits(draft, ids));
  const auto vocab = static_cast<size_t>(target->info().vocab_size);
  const auto& eos = target->info().eos_ids;
  sampling::TokenHistory history(path.params, std::span(path.ids).first(path.num_prompt));
  sampling::Scratch scratch;
  std::uniform_real_distribution<double> uniform(0, 1);
  auto& run = sums->runs.emplace_back();
  for (size_t at = path.num_prompt; at < path.ids.size(); ++at) {
    const auto row = [&](const std::vector<float>& logits) {
      return std::span(logits).subspan((at - 1) * vocab, vocab);
    };
    const int32_t token = sampling::SampleToken(path.params, history, eos, row(of_draft), &scratch);
    const std::vector<double> p =
        sampling::Probabilities(path.params, history, eos, row(of_target));
    const std::vector<double> q = sampling::Probabilities(path.params, history, eos, row(of_draft));
    double u = uniform(*random);
    size_t guess = vocab;
    for (size_t i = 0; i < vocab; ++i) {
      sums->optimum += std::min(p[i], q[i]);
      sums->independent += p[i] * q[i];
      if (guess == vocab && (u -= q[i]) < 0) guess = i;
    }
    if (guess == vocab) guess = static_cast<size_t>(token);  // the sum of q rounds below 1
    sums->accepted += uniform(*random) * q[guess] < p[guess] ? 1 : 0;
    run.push_back(token == path.ids[at]);
    sums->agreed += run.back() ? 1 : 0;
    ++sums->positions;
    history.Append(path.ids[at]);
  }
  return absl::OkStatus();
}

// Steps of 1 + k rows over the runs: what they yield, the last one's share taken off.
double TokensPerStep(const Sums& sums, int k) {
  int64_t tokens = 0, steps = 0;
  for (const std::vector<bool>& run : sums.runs) {
    for (size_t at = 0; at < run.size();) {
      size_t right = 0;
      while (right < static_cast<size_t>(k) && at + right < run.size() && run[at + right]) ++right;
      if (at + right >= run.size()) break;
      at += right + 1;
      tokens += static_cast<int64_t>(right) + 1;
      ++steps;
    }
  }
  return static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(steps, 1));
}

double ProcessorSeconds() {
  timespec t;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Processor seconds of one decode step: others on the machine move it less than time.
absl::StatusOr<double> StepSeconds(DecoderModel* model, const std::vector<int32_t>& ids) {
  TUTTI_ASSIGN_OR_RETURN(auto sequence, model::SingleSequence::Create(model, 160));
  const auto first = std::span(ids).first(std::min<size_t>(ids.size(), 64));
  TUTTI_RETURN_IF_ERROR(sequence->Append(first, 1).status());
  std::vector<double> seconds;
  for (int i = 0; i < 60; ++i) {
    const double start = ProcessorSeconds();
    TUTTI_RETURN_IF_ERROR(sequence->Append(first.first(1), 1).status());
    seconds.push_back(ProcessorSeconds() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

struct Options {
  std::string target;
  std::vector<std::string> drafts;
  std::vector<double> temperatures = {0, 0.7, 1};
  std::string prompts = "tests/data/models/smollm2/references.json";
  int samples = 4, tokens = 64, threads = 1;
};

absl::Status Run(const Options& o) {
  ThreadPool pool({.num_threads = o.threads});
  TUTTI_ASSIGN_OR_RETURN(const auto target, model::LoadDecoder(o.target, {.pool = &pool}));
  TUTTI_ASSIGN_OR_RETURN(const auto text, tokenizer::LoadTextModel(o.target));
  std::ifstream file(o.prompts);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object() || !json["prompts"].is_array())
    return absl::InvalidArgumentError(o.prompts + ": no prompts; run it in the source tree");
  std::vector<std::vector<Path>> paths(o.temperatures.size());
  for (size_t t = 0; t < paths.size(); ++t) {
    for (const auto& prompt : json["prompts"]) {
      const auto ids =
          text.tokenizer->Encode(prompt["text"].get<std::string>(), {.parse_special = true});
      // Greedy answers are all the same.
      for (int i = 0; i < (o.temperatures[t] > 0 ? o.samples : 1); ++i) {
        sampling::SamplingParams params;
        params.temperature = static_cast<float>(o.temperatures[t]);
        params.seed = 1000 + static_cast<uint64_t>(i);
        params.max_tokens = o.tokens;
        params.ignore_eos = true;
        TUTTI_ASSIGN_OR_RETURN(Path path, Answer(target.get(), &pool, ids, params));
        paths[t].push_back(std::move(path));
      }
    }
  }
  std::printf(
      "| draft | cost | temperature | shared noise | optimum | rejection | independent | tokens "
      "per "
      "step, k = 2 | 4 | 8 |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (const std::string& spec : o.drafts) {
    const size_t at = spec.rfind('@');
    model::LoadOptions load{.pool = &pool};
    if (at != spec.npos) load.skip_layers = spec.substr(at + 1);
    TUTTI_ASSIGN_OR_RETURN(const auto draft, model::LoadDecoder(spec.substr(0, at), load));
    if (draft->info().vocab_size != target->info().vocab_size)
      return absl::InvalidArgumentError(spec + ": another vocabulary");
    std::vector<double> costs;
    for (int i = 0; i < 5; ++i) {
      TUTTI_ASSIGN_OR_RETURN(const double d, StepSeconds(draft.get(), paths[0][0].ids));
      TUTTI_ASSIGN_OR_RETURN(const double t, StepSeconds(target.get(), paths[0][0].ids));
      costs.push_back(d / t);
    }
    std::sort(costs.begin(), costs.end());
    std::string name = spec.substr(0, at);
    name = name.substr(name.rfind('/') + 1);
    if (at != spec.npos) name += " without " + load.skip_layers;
    for (size_t t = 0; t < paths.size(); ++t) {
      Sums sums;
      std::mt19937_64 random(7);
      for (const Path& path : paths[t])
        TUTTI_RETURN_IF_ERROR(Compare(target.get(), draft.get(), path, &random, &sums));
      const auto n = static_cast<double>(sums.positions);
      std::printf("| %s | %.2f | %.1f | %.3f | %.3f | %.3f | %.3f | %.2f | %.2f | %.2f |\n",
                  name.c_str(), costs[2], o.temperatures[t], static_cast<double>(sums.agreed) / n,
                  sums.optimum / n, static_cast<double>(sums.accepted) / n, sums.independent / n,
                  TokensPerStep(sums, 2), TokensPerStep(sums, 4), TokensPerStep(sums, 8));
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("How often a draft model would be right, against what any draft could be.");
  Options o;
  app.add_option("--target", o.target, "GGUF file or folder with a chat template")->required();
  app.add_option("--draft", o.drafts, "a model of the same vocabulary; FILE@LAYERS leaves some out")
      ->required();
  app.add_option("--temperature", o.temperatures);
  app.add_option("--prompts", o.prompts, "JSON with prompts[].text")->capture_default_str();
  app.add_option("--samples", o.samples, "answers to each prompt, of other seeds")
      ->check(CLI::Range(1, 1000));
  app.add_option("--tokens", o.tokens, "output tokens at most")->check(CLI::Range(4, 1024));
  app.add_option("--threads", o.threads)->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(o);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
