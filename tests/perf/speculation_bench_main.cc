// speculation_bench: n-gram drafts against none over one model in one process.
//
//   build/bin/speculation_bench --model FILE [--threads 2] [--pairs 5] [--tokens 160] [--json]
//
// Tasks whose answer repeats its input (quote, summarise, summarise by extracts, edit code) at
// batch 1, several texts of each, and creative text, which nothing foretells, at batch 1 to 16.
// One engine with guesses and one without serve all of it, as a service does: what guesses cost and
// how often they are right is learned once. What was answered before is not looked at, because the
// same questions come again. Every pair must give the same digests; the figures are tokens per
// second of decoding (after the first token), medians, and the median of the ratios within each
// pair, whose two engines take turns step by step. --steps also tells what the steps of the last
// run with guesses took, by the number of their rows, and --text what was said. Last come the means
// of each kind of task.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/thread_pool.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"
#include "shared/tokenizer/text_model.h"
#include "tests/perf/speculation_texts.h"

namespace tutti {
namespace {

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

// The geometric mean of ratios, and the least of them.
void Summary(const std::string& kind, const std::vector<double>& ratios, bool json) {
  if (ratios.empty()) return;
  double logs = 0;
  for (double r : ratios) logs += std::log(r);
  const double mean = std::exp(logs / static_cast<double>(ratios.size()));
  const double least = *std::min_element(ratios.begin(), ratios.end());
  std::printf(json ? "{\"kind\": \"%s\", \"mean_ratio\": %.4f, \"least\": %.4f}\n"
                   : "%-16s mean ratio %.3f, least %.3f\n",
              kind.c_str(), mean, least);
}

struct Task {
  std::string name;                   // kind, and which
  std::vector<std::string> messages;  // one for each sequence
  sampling::SamplingParams params;
};

std::vector<Task> MakeTasks(int tokens) {
  const sampling::SamplingParams greedy = {.temperature = 0, .max_tokens = tokens};
  std::vector<Task> tasks;
  // One text says little: how far an answer repeats its input differs from text to text.
  const auto add = [&](const char* kind, const char* name, const std::string& prompt) {
    tasks.push_back({std::string(kind) + " " + name, {prompt}, greedy});
  };
  for (const auto& [name, text] : {std::pair("article", kArticle), std::pair("news", kNews),
                                   std::pair("letter", kLetter), std::pair("science", kScience),
                                   std::pair("recipe", kRecipe), std::pair("minutes", kMinutes),
                                   std::pair("manual", kManual), std::pair("history", kHistory)}) {
    add("quote", name, std::string("Repeat the following text word for word:\n\n") + text);
    add("summarise", name,
        std::string("Summarise the following text in its own words and sentences:\n\n") + text);
    add("extract", name,
        std::string("Summarise the following text by repeating its most important sentences word "
                    "for word:\n\n") +
            text);
  }
  const auto edit = [&](const char* name, const char* what, const char* language,
                        const char* code) {
    add("edit", name,
        std::string(what) + " in this program and print the whole program:\n\n```" + language +
            "\n" + code + "```");
  };
  edit("python", "Rename the variable `total` to `amount`", "python", kPython);
  edit("c++", "Rename the function `Mean` to `Average`", "c++", kCpp);
  edit("sql", "Rename the column `city` to `town`", "sql", kSql);
  edit("javascript", "Rename the function `loadUser` to `getUser`", "javascript", kJavaScript);
  edit("java", "Rename the method `withdraw` to `take`", "java", kJava);
  edit("go", "Rename the function `largest` to `maximum`", "go", kGo);
  edit("html", "Change the label `City` to `Town`", "html", kHtml);
  edit("shell", "Rename the variable `target` to `backups`", "bash", kShell);
  const char* subjects[] = {
      "a fox who learns to sail",  "the last train of the night", "a garden on the moon",
      "two brothers and a violin", "a letter that came late",     "the baker who could not sleep",
      "an island of clocks",       "a robot's first winter",      "the map with no roads",
      "a bridge made of books",    "the girl who drew maps",      "a whale in the harbour",
      "the colour of thunder",     "a chess game by post",        "the house with nine doors",
      "a song nobody remembers"};
  for (const size_t batch : {1, 4, 8, 16}) {
    Task task{"creative x " + std::to_string(batch), {}, greedy};
    task.params.temperature = 0.9f;
    task.params.ignore_eos = true;
    for (size_t i = 0; i < batch; ++i)
      task.messages.push_back(std::string("Write a short story about ") + subjects[i] + ".");
    tasks.push_back(std::move(task));
  }
  return tasks;
}

struct Run {
  double tokens_per_s = 0;
  int64_t us = 0;  // of the steps that said `tokens`
  int64_t tokens = 0, proposed = 0, accepted = 0, slices = 0;
  std::map<size_t, uint64_t> digests;  // by sequence of the task
  struct Steps {
    std::vector<double> us, ratios;  // ratios: to the other engine's last step
    int64_t tokens = 0;
  };
  std::map<int64_t, Steps> steps;  // by rows
  std::vector<int32_t> said;       // by the first sequence
};

std::unique_ptr<engine::Engine> MakeEngine(model::DecoderModel* model, ThreadPool* pool, bool ngram,
                                           int always) {
  engine::EngineOptions options;
  options.num_pages = 1024;
  options.prefix_cache = false;
  options.recent_output_tokens = 0;
  options.pool = pool;
  options.clock_us = SteadyNowUs;
  options.ngram_drafts = ngram;
  if (always > 0) options.max_draft_tokens = always;
  options.adapt_drafts = always == 0;
  if (!ngram) options.max_draft_tokens = 0;
  return engine::Engine::Create(model, options).value();
}

// A task in one engine, step by step.
class TaskRun {
 public:
  TaskRun(engine::Engine* engine, const Task& task,
          const std::vector<std::vector<int32_t>>& prompts)
      : engine_(engine), num_sequences_(prompts.size()), at_start_(engine->Stats()) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      engine::SequenceRequest request{.id = i + 1, .prompt = prompts[i], .params = task.params};
      request.params.seed = 1000 + i;
      if (const auto status = engine->Submit(std::move(request), SteadyNowUs()); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
  }

  bool HasWork() const { return engine_->HasWork(); }
  bool Begun() const { return begun_ == num_sequences_; }  // all have their first token
  int64_t num_tokens() const { return run_.tokens; }

  // `plain_us`: what a step like this took without guesses just now; 0: unknown. Returns its time.
  int64_t Step(int64_t plain_us) {
    const engine::EngineStats before = engine_->Stats();
    const int64_t begin = SteadyNowUs();
    const auto outputs = engine_->Step(begin);
    const int64_t took = SteadyNowUs() - begin;
    const engine::EngineStats after = engine_->Stats();
    const bool counts = Begun();
    if (counts) run_.us += took;
    if (after.prefill_tokens == before.prefill_tokens) {
      Run::Steps& steps =
          run_.steps[static_cast<int64_t>(after.decode_slices - before.decode_slices +
                                          after.proposed_tokens - before.proposed_tokens)];
      steps.us.push_back(static_cast<double>(took));
      if (plain_us > 0)
        steps.ratios.push_back(static_cast<double>(took) / static_cast<double>(plain_us));
      steps.tokens += static_cast<int64_t>(after.decode_tokens - before.decode_tokens);
    }
    for (const auto& o : outputs) {
      for (const auto& t : o.tokens) {
        if (o.id == 1) run_.said.push_back(t.token_id);
      }
      run_.digests[o.id - 1] = o.digest;
      begun_ += !o.tokens.empty() && o.first_index == 0 ? 1 : 0;
      if (counts) run_.tokens += static_cast<int64_t>(o.tokens.size());
    }
    return after.prefill_tokens == before.prefill_tokens ? took : 0;
  }

  Run Finish() {
    const engine::EngineStats stats = engine_->Stats();
    run_.proposed = static_cast<int64_t>(stats.proposed_tokens - at_start_.proposed_tokens);
    run_.accepted = static_cast<int64_t>(stats.accepted_tokens - at_start_.accepted_tokens);
    run_.slices = static_cast<int64_t>(stats.decode_slices - at_start_.decode_slices);
    run_.tokens_per_s = static_cast<double>(run_.tokens) * 1e6 / static_cast<double>(run_.us);
    return std::move(run_);
  }

 private:
  engine::Engine* const engine_;
  const size_t num_sequences_;
  const engine::EngineStats at_start_;
  size_t begun_ = 0;
  Run run_;
};

// The task in both engines, the one that has said less always next: so both meet the machine in
// the same moods, which on shared machines change within a second. `first` begins.
std::pair<Run, Run> RunPair(engine::Engine* first, engine::Engine* second, const Task& task,
                            const std::vector<std::vector<int32_t>>& prompts) {
  TaskRun a(first, task, prompts), b(second, task, prompts);
  int64_t us_of_a = 0, us_of_b = 0;
  while (a.HasWork() || b.HasWork()) {
    if (!b.HasWork() || (a.HasWork() && a.num_tokens() <= b.num_tokens())) {
      us_of_a = a.Step(us_of_b);
    } else {
      us_of_b = b.Step(us_of_a);
    }
  }
  return {a.Finish(), b.Finish()};
}

int Main(int argc, char** argv) {
  CLI::App app("N-gram drafts against none.");
  std::string path, only;
  int threads = 2, pairs = 5, tokens = 160, always = 0;
  bool json = false, steps = false, say = false;
  app.add_option("--model", path, "GGUF file or folder with a chat template")->required();
  app.add_option("--threads", threads)->check(CLI::Range(1, 256));
  app.add_option("--pairs", pairs, "runs of each task with and without")->check(CLI::Range(1, 99));
  app.add_option("--tokens", tokens, "output tokens at most")->check(CLI::Range(8, 2048));
  app.add_option("--only", only, "tasks whose name holds this");
  app.add_option("--always", always, "guess that many tokens, whether it pays or not; 0: adapt")
      ->check(CLI::Range(0, 64));
  app.add_flag("--json", json);
  app.add_flag("--steps", steps, "what steps took, by their rows");
  app.add_flag("--text", say, "the first answer of each task");
  CLI11_PARSE(app, argc, argv);
  ThreadPool pool({.num_threads = threads});
  auto model = model::LoadDecoder(path, {.pool = &pool});
  auto text = tokenizer::LoadTextModel(path);
  if (!model.ok() || !text.ok()) {
    std::fprintf(stderr, "%s\n", (model.ok() ? text.status() : model.status()).ToString().c_str());
    return 1;
  }
  const auto with = MakeEngine(model->get(), &pool, true, always);
  const auto without = MakeEngine(model->get(), &pool, false, 0);
  std::map<std::string, std::vector<double>> kinds;  // median ratios
  for (const Task& task : MakeTasks(tokens)) {
    if (task.name.find(only) == std::string::npos) continue;
    const std::string kind = task.name.substr(0, task.name.find(' '));
    std::vector<std::vector<int32_t>> prompts;
    for (const std::string& message : task.messages) {
      tokenizer::TemplateInput input;
      input.messages = nlohmann::ordered_json::array({{{"role", "user"}, {"content", message}}});
      input.add_generation_prompt = true;
      const auto rendered = text->Render(std::move(input));
      if (!rendered.ok()) {
        std::fprintf(stderr, "%s\n", rendered.status().ToString().c_str());
        return 1;
      }
      prompts.push_back(text->tokenizer->Encode(*rendered, {.parse_special = true}));
    }
    RunPair(with.get(), without.get(), task, prompts);  // warm up
    std::vector<double> off, on, ratio;
    Run last;
    for (int pair = 0; pair < pairs; ++pair) {
      const bool first = pair % 2 == 0;
      auto [a, b] = first ? RunPair(with.get(), without.get(), task, prompts)
                          : RunPair(without.get(), with.get(), task, prompts);
      if (a.digests != b.digests) {
        std::fprintf(stderr, "%s: the digests differ\n", task.name.c_str());
        return 1;
      }
      if (!first) std::swap(a, b);
      on.push_back(a.tokens_per_s);
      off.push_back(b.tokens_per_s);
      ratio.push_back(a.tokens_per_s / b.tokens_per_s);
      last = std::move(a);
    }
    kinds[kind].push_back(Median(ratio));
    const double per_step = static_cast<double>(last.slices + last.accepted) /
                            static_cast<double>(std::max<int64_t>(last.slices, 1));
    if (json) {
      std::printf(
          "{\"task\": \"%s\", \"off\": %.2f, \"ngram\": %.2f, \"ratio\": %.4f, "
          "\"tokens_per_step\": "
          "%.3f, \"proposed\": %lld, \"accepted\": %lld}\n",
          task.name.c_str(), Median(off), Median(on), Median(ratio), per_step,
          static_cast<long long>(last.proposed), static_cast<long long>(last.accepted));
    } else {
      std::printf(
          "%-14s off %7.1f tok/s, ngram %7.1f tok/s, ratio %5.3f (%.3f to %.3f); %4.2f tokens a "
          "step, %lld of %lld guesses right\n",
          task.name.c_str(), Median(off), Median(on), Median(ratio),
          *std::min_element(ratio.begin(), ratio.end()),
          *std::max_element(ratio.begin(), ratio.end()), per_step,
          static_cast<long long>(last.accepted), static_cast<long long>(last.proposed));
    }
    for (const auto& [rows, s] : last.steps) {
      if (!steps) break;
      std::printf(
          "  %3lld rows: %4zu steps, median %6.0f us, %.2f of a step without guesses, "
          "%.2f tokens each\n",
          static_cast<long long>(rows), s.us.size(), Median(s.us), Median(s.ratios),
          static_cast<double>(s.tokens) / static_cast<double>(s.us.size()));
    }
    if (say) std::printf("%s\n", text->tokenizer->decoder()->Decode(last.said, false).c_str());
    std::fflush(stdout);
  }
  std::vector<double> grounded;
  for (const auto& [kind, ratios] : kinds) {
    if (kind != "creative") grounded.insert(grounded.end(), ratios.begin(), ratios.end());
    Summary(kind, ratios, json);
  }
  Summary("all but creative", grounded, json);
  return 0;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
