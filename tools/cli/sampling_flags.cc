#include "tools/cli/sampling_flags.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "shared/base/limits.h"
#include "shared/base/strings.h"
#include "shared/sampling/ranges.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

constexpr size_t kPromptBytesMax = limits::kMaxTextBytes;

absl::StatusOr<std::string> ReadAll(std::istream& in, const std::string& name) {
  std::string text;
  char buffer[65536];
  while (in.read(buffer, sizeof(buffer)) || in.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(in.gcount()));
    if (text.size() > kPromptBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": more than ", kPromptBytesMax, " bytes"));
    }
  }
  if (size_t bad = 0; !IsValidUtf8(text, &bad)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not UTF-8 at byte ", bad));
  }
  return text;
}

}  // namespace

void SamplingFlags::Add(CLI::App* app, router::RequestSpec* spec) {
  spec_ = spec;
  app_ = app;
  sampling::SamplingParams& p = spec->sampling;
  const auto option = [&](const char* name, auto& value, const char* help) {
    return app->add_option(name, value, help)->capture_default_str()->group("Sampling");
  };
  app->add_option_function<std::string>(
         "--seed",
         [&p](const std::string& text) {
           const auto seed = sampling::SeedFromText(text);
           if (!seed.ok())
             throw CLI::ValidationError("--seed", std::string(seed.status().message()));
           p.seed = *seed;
         },
         "The same seed gives the same tokens: an integer, also negative; a random one when not "
         "given, and reported")
      ->type_name("INT")
      ->group("Sampling");
  app->add_option("--choice", spec->first_choice,
                  "Generate this choice of a request that asked for several (n) under the seed")
      ->group("Sampling");
  option("--temperature", p.temperature, "0: always the likeliest token");
  option("--top-k", p.top_k, "Only the k likeliest; 0: all");
  option("--top-p", p.top_p, "Only the likeliest that reach this probability together");
  option("--min-p", p.min_p,
         "Only those with at least this share of the likeliest one's probability");
  option("--typical-p", p.typical_p, "Locally typical sampling");
  option("--repetition-penalty", p.repetition_penalty,
         "Above 1: tokens of prompt and output become less likely");
  option("--presence-penalty", p.presence_penalty,
         "Subtracted from logits of tokens in the output");
  option("--frequency-penalty", p.frequency_penalty,
         "Subtracted once per occurrence in the output");
  option("--no-repeat-ngram", p.no_repeat_ngram_size,
         "No run of that many tokens comes twice; 0: off");
  app->add_option("--logit-bias", logit_bias_,
                  "ID:BIAS, added to that token's logit; may be given again")
      ->group("Sampling");
  option("--max-tokens", p.max_tokens, "At most that many output tokens");
  option("--min-tokens", p.min_tokens, "No end before that many");
  app->add_flag("--ignore-eos", p.ignore_eos, "Go on after the model's end token")
      ->group("Sampling");
  app->add_option("--stop", spec->stop, "End before this text; may be given again")
      ->group("Sampling");
  app->add_option("--stop-id", p.stop_ids, "End after this token id; may be given again")
      ->group("Sampling");
  app->add_flag("--include-stop", spec->include_stop, "Keep the stop text in the output")
      ->group("Sampling");
  app->add_flag_callback(
         "--keep-special", [spec] { spec->skip_special = false; },
         "Show special tokens in the text")
      ->group("Sampling");
  app->add_flag(
         "--parse-special,!--no-parse-special", spec->parse_special,
         "Text of special tokens in the prompt becomes those tokens (default of generate) or "
         "stays text (default of chat)")
      ->group("Sampling");
}

absl::Status SamplingFlags::Finish() {
  spec_->has_seed = app_->count("--seed") > 0;
  if (app_->count("--parse-special") == 0)
    spec_->parse_special = std::holds_alternative<std::string>(spec_->prompt);
  spec_->has_max_tokens = true;
  for (const std::string& entry : logit_bias_) {
    const size_t colon = entry.find(':');
    int32_t id = 0;
    char* end = nullptr;
    bool ok = colon != entry.npos && colon + 1 < entry.size();
    if (ok) {
      const auto r = std::from_chars(entry.data(), entry.data() + colon, id);
      ok = r.ec == std::errc() && r.ptr == entry.data() + colon;
    }
    const float bias = ok ? std::strtof(entry.c_str() + colon + 1, &end) : 0;
    if (!ok || *end != 0) {
      return absl::InvalidArgumentError("--logit-bias: \"" + Printable(entry) +
                                        "\" is not ID:BIAS, like 42:-5");
    }
    spec_->sampling.logit_bias.emplace_back(id, bias);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadPrompt(const std::string& text, bool has_text,
                                       const std::string& file) {
  if (has_text && !file.empty())
    return absl::InvalidArgumentError("the prompt is given twice: as an argument and with -f");
  if (has_text) {
    if (size_t bad = 0; !IsValidUtf8(text, &bad))
      return absl::InvalidArgumentError(absl::StrCat("--prompt: not UTF-8 at byte ", bad));
    return text;
  }
  if (!file.empty() && file != "-") {
    std::ifstream in(file, std::ios::binary);
    if (!in) return absl::NotFoundError("-f: " + file + ": cannot be opened");
    return ReadAll(in, file);
  }
  if (file.empty() && IsTerminal(0))
    return absl::InvalidArgumentError("no prompt: give --prompt TEXT, -f FILE, or pipe one in");
  return ReadAll(std::cin, "stdin");
}

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text, const char* flag) {
  std::vector<int32_t> ids;
  const char *p = text.data(), *end = p + text.size();
  while (p != end) {
    if (*p == ' ' || *p == ',' || *p == '\n' || *p == '\t') {
      ++p;
      continue;
    }
    int32_t id = 0;
    const auto r = std::from_chars(p, end, id);
    if (r.ec != std::errc()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, ": \"", Printable({p, static_cast<size_t>(end - p)}, 20),
                       "\" is not a token id; give them like \"1 2 3\""));
    }
    ids.push_back(id);
    p = r.ptr;
  }
  if (ids.empty())
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": no token ids; give them like \"1 2 3\""));
  return ids;
}

}  // namespace tutti::cli
