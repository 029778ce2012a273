#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tools/cli/bench.h"
#include "tools/cli/commands.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

struct Options {
  BenchOptions bench;
  LocalModelOptions local;
  std::string state_dir;
  bool http = false, json = false, has_seed = false;
};

json ToJson(const Percentiles& p) {
  return {{"mean", p.mean}, {"p50", p.p50}, {"p95", p.p95}, {"p99", p.p99}, {"max", p.max}};
}

void PrintText(const BenchOptions& o, const BenchReport& r) {
  std::printf("%d clients, %d requests done, %d failed, %.2f s, seed %llu\n", o.clients,
              r.completed, r.failed, r.seconds, static_cast<unsigned long long>(o.seed));
  std::printf("throughput   %8.1f output tok/s   %8.1f tok/s with prompts   %6.2f requests/s\n",
              static_cast<double>(r.output_tokens) / r.seconds,
              static_cast<double>(r.output_tokens + r.prompt_tokens) / r.seconds,
              r.completed / r.seconds);
  std::printf("%-12s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p95", "p99", "max");
  const auto line = [](const char* name, const Percentiles& p) {
    std::printf("%-12s %10.1f %10.1f %10.1f %10.1f %10.1f\n", name, p.mean * 1e3, p.p50 * 1e3,
                p.p95 * 1e3, p.p99 * 1e3, p.max * 1e3);
  };
  line("first token", r.first_token_s);
  line("inter-token", r.inter_token_s);
  line("end to end", r.end_to_end_s);
  if (r.failed > 0) std::printf("first error: %s\n", r.first_error.c_str());
}

absl::Status Run(Options* o) {
  BenchOptions& b = o->bench;
  const bool in_process = !o->local.model.empty();
  if (b.address.empty() && !in_process) {
    TUTTI_ASSIGN_OR_RETURN(const ClusterState state, RunningCluster(o->state_dir));
    b.address = o->http ? "http://" + state.http : state.router_unix;
  }
  // The same prompts a second time would be found in prefix caches.
  if (!o->has_seed) b.seed = static_cast<uint64_t>(NowUs()) & 0xFFFFFFFF;
  if (const char* key = std::getenv("OPENAI_API_KEY"); key != nullptr) b.api_key = key;
  InterruptFlag interrupt;
  Progress progress("bench", static_cast<uint64_t>(b.requests));
  const auto on_progress = [&](int done) { progress.Update(static_cast<uint64_t>(done)); };
  TUTTI_ASSIGN_OR_RETURN(const BenchReport r,
                         in_process ? RunLocalBench(b, o->local, on_progress, InterruptFlag::flag())
                                    : RunBench(b, on_progress, InterruptFlag::flag()));
  if (o->json) {
    const json out = {{"address", in_process ? "in process" : b.address},
                      {"seed", b.seed},
                      {"clients", b.clients},
                      {"completed", r.completed},
                      {"failed", r.failed},
                      {"first_error", r.first_error},
                      {"seconds", r.seconds},
                      {"prompt_tokens", r.prompt_tokens},
                      {"output_tokens", r.output_tokens},
                      {"output_tokens_per_s", static_cast<double>(r.output_tokens) / r.seconds},
                      {"requests_per_s", r.completed / r.seconds},
                      {"first_token_s", ToJson(r.first_token_s)},
                      {"inter_token_s", ToJson(r.inter_token_s)},
                      {"end_to_end_s", ToJson(r.end_to_end_s)}};
    std::printf("%s\n", out.dump(2, ' ', false, json::error_handler_t::replace).c_str());
  } else {
    PrintText(b, r);
  }
  if (r.completed == 0) return absl::UnavailableError("no request succeeded: " + r.first_error);
  return absl::OkStatus();
}

}  // namespace

void AddBench(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  BenchOptions& b = o->bench;
  CLI::App* sub = app->add_subcommand("bench", "Measure a server under load from many clients");
  sub->footer(
      "Measures throughput, time to first token, inter-token and end-to-end latency. An http:// "
      "address is\n"
      "taken for an OpenAI API (any server's), others for a tutti router. Prompts differ, so that "
      "no prefix\n"
      "cache helps; OPENAI_API_KEY is sent over HTTP when it is set.\n"
      "Examples:\n"
      "  tutti bench --clients 8 --requests 64\n"
      "  tutti bench --http --clients 8\n"
      "  tutti bench --model model.gguf --clients 8        the same load without services\n"
      "  tutti bench --address http://127.0.0.1:8000 --max-tokens 128 --json");
  sub->add_option("--address", b.address, "http://HOST:PORT (OpenAI), or HOST:PORT (tutti gRPC)");
  AddStateDirFlag(sub, &o->state_dir);
  sub->add_flag("--http", o->http,
                "Without --address: the running cluster's OpenAI API, not its gRPC");
  sub->add_option("--model-name", b.model,
                  "Name of the model to ask for; the address's first one when not given");
  sub->add_option("--model", o->local.model, "Run this model in one process instead, to compare")
      ->excludes("--address");
  AddLocalModelFlags(sub, &o->local);
  AddDraftFlag(sub, &o->local);
  sub->add_option("--clients", b.clients, "Requests at a time")->capture_default_str();
  sub->add_option("--requests", b.requests, "Requests in all")->capture_default_str();
  sub->add_option("--prompt-words", b.prompt_words, "Words of a prompt")->capture_default_str();
  sub->add_option("--max-tokens", b.max_tokens, "Output tokens of a request")
      ->capture_default_str();
  sub->add_option("--temperature", b.temperature, "0: the likeliest token")->capture_default_str();
  sub->add_option("--seed", b.seed,
                  "Of prompts and sampling; another one each time when not given");
  sub->add_flag("--shared-prefix", b.shared_prefix, "All prompts begin with the same half");
  sub->add_flag_callback(
      "--stop-at-eos", [o] { o->bench.ignore_eos = false; },
      "Do not ask for ignore_eos (some servers refuse it)");
  sub->add_flag("--json", o->json, "One JSON object");
  sub->callback([o, sub, action] {
    o->has_seed = sub->count("--seed") > 0;
    *action = [o] { return Run(o.get()); };
  });
}

}  // namespace tutti::cli
