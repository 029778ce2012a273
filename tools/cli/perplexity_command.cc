#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "tools/cli/commands.h"
#include "tools/cli/local_model.h"
#include "tools/cli/perplexity.h"
#include "tools/cli/sampling_flags.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

struct Options {
  LocalModelOptions local;
  std::string file;
  int window = 1024, stride = 512, limit = 0;
  bool no_special = false, json = false;
};

absl::Status Run(const Options& o) {
  TUTTI_ASSIGN_OR_RETURN(const std::string text, ReadPrompt("", false, o.file));
  TUTTI_ASSIGN_OR_RETURN(const auto model, LoadLocalModel(o.local));
  TUTTI_RETURN_IF_ERROR(model->text.status());
  auto ids =
      model->text->tokenizer->Encode(text, {.parse_special = false, .add_special = !o.no_special});
  if (o.limit > 0 && static_cast<int>(ids.size()) > o.limit)
    ids.resize(static_cast<size_t>(o.limit));
  InterruptFlag interrupt;
  Progress progress("perplexity", ids.size());
  const auto on_progress = [&](int scored) {
    progress.Update(static_cast<uint64_t>(scored));
    return !interrupt.raised();
  };
  const int64_t start = NowUs();
  TUTTI_ASSIGN_OR_RETURN(const Perplexity p,
                         ComputePerplexity(*model, ids, o.window, o.stride, on_progress));
  const double seconds = static_cast<double>(NowUs() - start) / 1e6;
  if (!o.json) {
    std::printf("perplexity %.4f over %d tokens (%zu windows of %d, stride %d; %.1f s)\n",
                p.perplexity, p.tokens, p.windows.size(), o.window, o.stride, seconds);
    return absl::OkStatus();
  }
  nlohmann::json windows = nlohmann::json::array();
  for (const auto& w : p.windows) {
    windows.push_back(
        {{"begin", w.begin}, {"end", w.end}, {"scored", w.scored}, {"mean_nll", w.mean_nll}});
  }
  const nlohmann::json out = {
      {"perplexity", p.perplexity}, {"tokens", p.tokens},
      {"mean_nll", p.mean_nll},     {"nll_tokens", p.nll_tokens},
      {"window", o.window},         {"stride", o.stride},
      {"windows", windows},         {"fingerprint", Hex64(model->decoder->info().fingerprint)},
      {"seconds", seconds}};
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddPerplexity(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("perplexity", "Measure how well a model predicts a text");
  sub->footer(
      "Sliding windows as in Hugging Face's guide \"Perplexity of fixed-length models\", so that "
      "figures\n"
      "compare; in one process, without services.\n"
      "Example:\n"
      "  tutti perplexity text.txt --model model.gguf --window 1024 --stride 512");
  sub->add_option("FILE", o->file, "The text; -: from stdin")->required();
  sub->add_option("--model", o->local.model, "A .gguf file, a model folder or a packed directory")
      ->required();
  sub->add_option("--window", o->window, "Tokens of one window")->capture_default_str();
  sub->add_option("--stride", o->stride, "Tokens from one window's start to the next's")
      ->capture_default_str();
  sub->add_option("--limit", o->limit, "Only the first tokens of the text; 0: all")
      ->capture_default_str();
  sub->add_flag("--no-special", o->no_special, "Add no BOS or EOS");
  sub->add_flag("--json", o->json, "One JSON object: perplexity, tokens, mean_nll, windows");
  AddLocalModelFlags(sub, &o->local);
  sub->callback([o, action] { *action = [o] { return Run(*o); }; });
}

}  // namespace tutti::cli
