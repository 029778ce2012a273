#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tools/cli/bench.h"
#include "tools/cli/commands.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"
#include "tools/cli/where.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

struct Options {
  BenchOptions bench;
  WhereOptions where;
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
  WhereOptions& where = o->where;
  const bool in_process = !where.local.model.empty();
  if (where.address.empty() && o->http && !in_process) {
    TUTTI_ASSIGN_OR_RETURN(const ClusterState state, RunningCluster(where.state_dir));
    where.address = "http://" + state.http;
  }
  if (!in_process) {
    TUTTI_ASSIGN_OR_RETURN(b.endpoint, ClusterEndpoint(where));
  }
  // The same prompts a second time would be found in prefix caches.
  if (!o->has_seed) b.seed = static_cast<uint64_t>(NowUs()) & 0xFFFFFFFF;
  InterruptFlag interrupt;
  Progress progress("bench", static_cast<uint64_t>(b.requests));
  const auto on_progress = [&](int done) { progress.Update(static_cast<uint64_t>(done)); };
  TUTTI_ASSIGN_OR_RETURN(const BenchReport r,
                         in_process
                             ? RunLocalBench(b, where.local, on_progress, InterruptFlag::flag())
                             : RunBench(b, on_progress, InterruptFlag::flag()));
  if (o->json) {
    const json out = {{"address", in_process ? "in process" : b.endpoint.address},
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
      "or\n"
      "https:// address is taken for an OpenAI API (any server's), others for a tutti router. "
      "Prompts differ,\n"
      "so that no prefix cache helps; OPENAI_API_KEY is sent over HTTP when it is set. Tokens that "
      "come in\n"
      "one message share the time since the message before it.\n"
      "Examples:\n"
      "  tutti bench --clients 8 --requests 64\n"
      "  tutti bench --http --clients 8\n"
      "  tutti bench --model model.gguf --clients 8        the same load without services\n"
      "  tutti bench --address http://127.0.0.1:8000 --max-tokens 128 --json");
  sub->add_flag("--http", o->http,
                "Without --address: the running cluster's OpenAI API, not its gRPC");
  sub->add_option("--model-name", b.model,
                  "Name of the model to ask for; the address's first one when not given");
  AddWhereFlags(sub, &o->where);
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
