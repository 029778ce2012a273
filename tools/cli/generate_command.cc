#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "tools/cli/commands.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/terminal.h"
#include "tools/cli/where.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

json LogprobsJson(const std::vector<store::Token>& tokens) {
  json out = json::array();
  for (const store::Token& t : tokens) {
    json top = json::array();
    for (const auto& alternative : t.top)
      top.push_back({{"token_id", alternative.token_id}, {"logprob", alternative.logprob}});
    out.push_back({{"token_id", t.id},
                   {"logprob", std::isfinite(t.logprob) ? json(t.logprob) : json(nullptr)},
                   {"top", top}});
  }
  return out;
}

json ResultJson(const GenerateResult& r, const sampling::SamplingParams& params) {
  json ids = json::array(), beams = json::array();
  for (const store::Token& t : r.tokens) ids.push_back(t.id);
  for (const store::Beam& b : r.beams)
    beams.push_back({{"token_ids", b.token_ids}, {"score", b.score}, {"text", b.text}});
  if (r.tokens.empty() && !r.beams.empty()) ids = r.beams[0].token_ids;
  json out = {{"text", r.text},
              {"token_ids", ids},
              {"prompt_token_ids", r.prompt_ids},
              {"seed", r.seed},
              {"digest", Hex64(r.digest)},
              {"fingerprint", Hex64(r.fingerprint)},
              {"model", r.model},
              {"finish_reason", FinishName(r.finish)},
              {"usage",
               {{"prompt_tokens", r.usage.prompt_tokens},
                {"output_tokens", r.usage.output_tokens},
                {"total_tokens", r.usage.prompt_tokens + r.usage.output_tokens},
                {"cached_tokens", r.usage.cached_tokens},
                {"proposed_tokens", r.usage.proposed_tokens},
                {"accepted_tokens", r.usage.accepted_tokens}}},
              {"times",
               {{"first_token_s", static_cast<double>(r.first_token_us) / 1e6},
                {"total_s", static_cast<double>(r.total_us) / 1e6}}}};
  if (!r.request_id.empty()) out["request_id"] = r.request_id;
  if (!r.matched_stop.empty()) out["matched_stop"] = r.matched_stop;
  if (params.logprobs >= 0) out["logprobs"] = LogprobsJson(r.tokens);
  if (params.prompt_logprobs >= 0) out["prompt_logprobs"] = LogprobsJson(r.prompt_tokens);
  if (!r.beams.empty()) out["beams"] = beams;
  return out;
}

struct Options {
  WhereOptions where;
  router::RequestSpec spec;
  SamplingFlags sampling;
  std::string prompt, file, ids, system;
  bool chat = false, json = false;
};

absl::Status MakePrompt(const CLI::App& app, Options* o) {
  if (!o->ids.empty()) {
    if (o->chat || app.count("--prompt") > 0 || !o->file.empty()) {
      return absl::InvalidArgumentError("--ids: cannot be used with another prompt");
    }
    TUTTI_ASSIGN_OR_RETURN(o->spec.prompt, ParseIds(o->ids, "--ids"));
    return absl::OkStatus();
  }
  TUTTI_ASSIGN_OR_RETURN(const std::string text,
                         ReadPrompt(o->prompt, app.count("--prompt") > 0, o->file));
  if (!o->chat) {
    if (!o->system.empty()) return absl::InvalidArgumentError("--system: needs --chat");
    o->spec.prompt = text;
    return absl::OkStatus();
  }
  json messages = json::array();
  if (!o->system.empty()) messages.push_back({{"role", "system"}, {"content", o->system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  o->spec.prompt = router::ChatPrompt{
      .messages_json = messages.dump(-1, ' ', false, json::error_handler_t::replace)};
  return absl::OkStatus();
}

absl::Status Run(const CLI::App& app, Options* o) {
  TUTTI_RETURN_IF_ERROR(MakePrompt(app, o));
  TUTTI_RETURN_IF_ERROR(o->sampling.Finish());
  TUTTI_ASSIGN_OR_RETURN(const auto generator, MakeGenerator(o->where));
  InterruptFlag interrupt;
  bool ends_in_newline = true;
  const auto on_text = [&](std::string_view piece) {
    if (o->json) return;
    PrintModelText(piece);
    ends_in_newline = piece.back() == '\n';
  };
  TUTTI_ASSIGN_OR_RETURN(const GenerateResult r,
                         generator->Generate(o->spec, on_text, &InterruptFlag::flag()));
  if (o->json) {
    std::printf("%s\n", ResultJson(r, o->spec.sampling)
                            .dump(2, ' ', false, json::error_handler_t::replace)
                            .c_str());
  } else {
    if (r.text.empty() && !o->ids.empty()) {  // a model without a tokenizer
      for (const store::Token& t : r.tokens) std::printf("%d ", t.id);
      ends_in_newline = false;
    }
    if (!ends_in_newline) std::fputc('\n', stdout);
    std::fflush(stdout);
    if (IsTerminal(2)) {
      std::fprintf(stderr, "%s%s%s\n", Style(2, "\033[2m"), SpeedLine(r).c_str(),
                   Style(2, "\033[0m"));
    }
  }
  if (r.finish == store::FinishReason::kCancelled) return absl::CancelledError("interrupted");
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  o->spec.sampling.max_tokens = 256;
  CLI::App* sub = app->add_subcommand("generate", "Continue a prompt");
  sub->footer(
      "The answer is a function of model, prompt, parameters and seed alone: the same in a cluster "
      "and\n"
      "in one process. Its digest (--json) proves it.\n"
      "Examples:\n"
      "  tutti generate \"The sea is\" --max-tokens 20\n"
      "  tutti generate --chat --prompt \"What is gravity?\" --temperature 0\n"
      "  tutti generate -f prompt.txt --seed 7 --top-p 0.9 --json\n"
      "  echo \"Once upon a time\" | tutti generate --model model.gguf --stop .");
  sub->add_option("--prompt,prompt", o->prompt, "The prompt's text");
  sub->add_option("-f,--file", o->file, "Read the prompt from a file; -: from stdin");
  sub->add_option("--ids", o->ids, "The prompt as token ids: \"1 2 3\"");
  sub->add_flag("--chat", o->chat, "The prompt is a user's message: use the model's chat template");
  sub->add_option("--system", o->system, "With --chat: the system message");
  sub->add_flag("--json", o->json,
                "One JSON object: text, token_ids, seed, digest, usage, fingerprint");
  sub->add_option("--request-id", o->spec.request_id, "Id of the request in a cluster's logs");
  o->sampling.Add(sub, &o->spec);
  auto& p = o->spec.sampling;
  sub->add_option("--logprobs", p.logprobs,
                  "With --json: logprobs, and this many alternatives (0 to 20)")
      ->group("Sampling");
  sub->add_option("--prompt-logprobs", p.prompt_logprobs, "With --json: the same for the prompt")
      ->group("Sampling");
  sub->add_option("--num-beams", p.num_beams, "Beam search with that many beams")
      ->group("Sampling");
  sub->add_option("--num-return", p.num_return, "Beams reported (--json)")->group("Sampling");
  sub->add_option("--length-penalty", p.length_penalty, "Of beam scores")->group("Sampling");
  sub->add_flag("--early-stopping", p.early_stopping,
                "End a beam search as soon as enough beams ended")
      ->group("Sampling");
  AddWhereFlags(sub, &o->where);
  sub->callback([o, sub, action] { *action = [o, sub] { return Run(*sub, o.get()); }; });
}

}  // namespace tutti::cli
