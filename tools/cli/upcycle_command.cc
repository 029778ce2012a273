#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/cores.h"
#include "shared/base/hash.h"
#include "shared/base/mapped_file.h"
#include "shared/base/strings.h"
#include "shared/model/transformer.h"
#include "shared/upcycle/upcycle_model.h"
#include "shared/weights/inspect.h"
#include "tools/cli/commands.h"
#include "tools/cli/compare_models.h"
#include "tools/cli/local_model.h"
#include "tools/cli/terminal.h"
#include "tools/cli/upcycle_texts.h"

namespace tutti::cli {
namespace {

using nlohmann::ordered_json;
using upcycle::LayerLoad;
using upcycle::Text;
using upcycle::UpcycleResult;

constexpr size_t kTextsMax = 256;
constexpr size_t kBytesPerToken = 64;  // more of a text than this is not even looked at
constexpr int kTableExperts = 16;      // with more of them a table would not fit a terminal

struct Options {
  std::string model, out, texts;
  int experts = 8, top_k = 2, tokens = 512, threads = 0;
  double noise = 0, capacity = 0;
  std::string second = "always";
  uint64_t seed = 0;
  bool no_report = false, json = false;

  int num_threads() const { return ThreadsOrCores(threads); }
};

// What the new file is like: its load, and how far it is from its source.
struct Report {
  std::vector<LayerLoad> loads;
  Comparison comparison;
  uint64_t fingerprint = 0;
};

// The beginning of a file, cut between characters.
absl::StatusOr<std::string> ReadBeginning(const std::string& path, size_t bytes_max) {
  TUTTI_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  const auto bytes = file->bytes();
  std::string text(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), bytes_max));
  if (bytes.size() > bytes_max) {
    size_t cut = text.size();
    for (int i = 0; i < 3 && cut > 0 && (std::to_integer<int>(bytes[cut]) & 0xC0) == 0x80; ++i)
      --cut;
    text.resize(cut);
  }
  if (size_t bad = 0; !IsValidUtf8(text, &bad))
    return absl::InvalidArgumentError(absl::StrCat(path, ": not UTF-8 at byte ", bad));
  return text;
}

// Every file of a folder is one kind of text, in the order of their names.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ReadTexts(const Options& o) {
  std::vector<std::pair<std::string, std::string>> texts;
  if (o.texts.empty()) {
    for (const NamedText& t : kUpcycleTexts) texts.emplace_back(t.name, t.text);
    return texts;
  }
  std::error_code error;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator it(o.texts, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (it->is_regular_file(ignored) && name[0] != '.') names.push_back(name);
  }
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("--texts: ", o.texts, ": ", error.message(),
                                                   "; give a folder with text files"));
  }
  if (names.empty() || names.size() > kTextsMax) {
    return absl::InvalidArgumentError(absl::StrCat("--texts: ", o.texts, ": has ", names.size(),
                                                   " files; there must be 1 to ", kTextsMax,
                                                   ", each with one kind of text"));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    auto text = ReadBeginning((std::filesystem::path(o.texts) / name).string(),
                              static_cast<size_t>(o.tokens) * kBytesPerToken);
    if (!text.ok()) return Annotate(text.status(), "--texts");
    texts.emplace_back(name, *std::move(text));
  }
  return texts;
}

absl::StatusOr<std::vector<Text>> EncodeTexts(const Options& o) {
  TUTTI_ASSIGN_OR_RETURN(const auto read, ReadTexts(o));
  const auto model = tokenizer::LoadTextModel(o.model);
  if (!model.ok())
    return Annotate(model.status(), "--model: its tokenizer is needed to read texts");
  std::vector<Text> texts;
  for (const auto& [name, text] : read) {
    Text t{name, model->tokenizer->Encode(text, {.parse_special = false, .add_special = true})};
    if (t.ids.size() < 2)
      return absl::InvalidArgumentError(absl::StrCat("--texts: ", name, ": has not 2 tokens"));
    if (t.ids.size() > static_cast<size_t>(o.tokens)) t.ids.resize(static_cast<size_t>(o.tokens));
    texts.push_back(std::move(t));
  }
  return texts;
}

absl::StatusOr<UpcycleResult> Make(const Options& o, const weights::ModelFiles& files,
                                   std::span<const Text> texts, const InterruptFlag& interrupt) {
  ThreadPool pool({.num_threads = o.num_threads()});
  std::optional<Progress> progress;
  std::string shown;
  upcycle::UpcycleOptions options{.num_experts = o.experts,
                                  .top_k = o.top_k,
                                  .noise = o.noise,
                                  .random_second = o.second == "random",
                                  .capacity_factor = o.capacity,
                                  .seed = o.seed,
                                  .texts = texts,
                                  .pool = &pool};
  options.on_progress = [&](std::string_view stage, uint64_t done, uint64_t total) {
    if (shown != stage) {
      shown = stage;
      progress.reset();
      progress.emplace(shown, 1000);
    }
    const bool bytes = stage == "writing";
    progress->Update(total > 0 ? done * 1000 / total : 1000,
                     bytes ? weights::HumanBytes(total) : "");
    return !interrupt.raised();
  };
  return upcycle::UpcycleModel(files, o.out, options);
}

absl::StatusOr<Report> MakeReport(const Options& o, const std::vector<Text>& texts,
                                  const InterruptFlag& interrupt) {
  Report report;
  {
    ThreadPool pool({.num_threads = o.num_threads()});
    TUTTI_ASSIGN_OR_RETURN(const auto made, model::LoadTransformer(o.out, {.pool = &pool}));
    report.fingerprint = made->info().fingerprint;
    Progress progress("measuring load", 1000);
    TUTTI_ASSIGN_OR_RETURN(
        report.loads, upcycle::MeasureLoad(made.get(), texts, [&](int64_t done, int64_t total) {
          progress.Update(static_cast<uint64_t>(done * 1000 / total));
          return !interrupt.raised();
        }));
  }
  LocalModelOptions local{.model = o.model, .threads = o.threads};
  TUTTI_ASSIGN_OR_RETURN(const auto source, LoadLocalModel(local));
  local.model = o.out;
  TUTTI_ASSIGN_OR_RETURN(const auto made, LoadLocalModel(local));
  std::vector<int32_t> ids;
  for (const Text& t : texts) ids.insert(ids.end(), t.ids.begin(), t.ids.end());
  Progress progress("comparing", ids.size());
  TUTTI_ASSIGN_OR_RETURN(report.comparison,
                         CompareModels(*source, *made, ids, upcycle::kWindowTokens, [&](int done) {
                           progress.Update(static_cast<uint64_t>(done));
                           return !interrupt.raised();
                         }));
  return report;
}

void PrintLoads(const std::vector<LayerLoad>& loads) {
  const auto experts = loads[0].share.size();
  const bool table = experts <= kTableExperts;
  std::printf("\nshare of the load in %%, by layer\n%5s", "layer");
  for (size_t e = 0; table && e < experts; ++e) std::printf(" %5s", absl::StrCat("e", e).c_str());
  std::printf("  %6s %6s %8s %6s\n", "least", "most", "aux.loss", "told");
  double told = 0, loss = 0, least = 1, most = 0;
  for (const LayerLoad& l : loads) {
    const auto [low, high] = std::minmax_element(l.share.begin(), l.share.end());
    std::printf("%5d", l.layer);
    for (size_t e = 0; table && e < experts; ++e) std::printf(" %5.1f", 100 * l.share[e]);
    std::printf("  %6.1f %6.1f %8.3f %5.0f%%\n", 100 * *low, 100 * *high, l.balancing_loss,
                100 * l.told);
    told += l.told / static_cast<double>(loads.size());
    loss += l.balancing_loss / static_cast<double>(loads.size());
    least = std::min(least, *low);
    most = std::max(most, *high);
  }
  std::printf("%5s", "all");
  if (table) std::printf("%*s", static_cast<int>(6 * experts), "");
  std::printf("  %6.1f %6.1f %8.3f %5.0f%%\n", 100 * least, 100 * most, loss, 100 * told);
  double dropped = 0;
  for (const LayerLoad& l : loads) dropped += l.dropped / static_cast<double>(loads.size());
  if (dropped > 0) std::printf("left out: %.1f %% of all choices\n", 100 * dropped);
  std::printf(
      "aux.loss: Switch's load balancing loss, top_k when the load is even.\n"
      "told: how much a row's best expert says about the kind of its text.\n");
}

void PrintText(const Options& o, const UpcycleResult& result, uint64_t source_bytes,
               const std::vector<Text>& texts, double seconds, const Report* report) {
  std::printf(
      "%s: %d experts in each of %d layers, %d of them for a token, %s (the source has %s), "
      "made in %.1f s\n",
      o.out.c_str(), o.experts, result.num_layers, o.top_k,
      weights::HumanBytes(result.file_bytes).c_str(), weights::HumanBytes(source_bytes).c_str(),
      seconds);
  std::printf("routers: from %lld rows of %d texts\n", static_cast<long long>(result.rows),
              static_cast<int>(texts.size()));
  if (o.noise > 0) {
    std::printf("experts: changed by %.2f %% (relative RMS; asked for %.2f %%)\n",
                100 * result.relative_change, 100 * o.noise);
  } else {
    std::printf("experts: copies\n");
  }
  if (report == nullptr) return;
  PrintLoads(report->loads);
  const Comparison& c = report->comparison;
  std::printf(
      "\nagainst the source, over %d tokens of the texts:\n"
      "  logits          differ by at most %.2g\n"
      "  KL divergence   mean %.2g, largest %.2g nats\n"
      "  perplexity      %.3f (source %.3f, %+.2f %%)\n"
      "  likeliest token the same at %.1f %% of positions\n",
      c.tokens, c.logit_change_max, c.kl_mean, c.kl_max, c.perplexity, c.reference_perplexity,
      100 * (c.perplexity / c.reference_perplexity - 1), 100 * c.same_top);
}

ordered_json ToJson(const Options& o, const UpcycleResult& result, uint64_t source_bytes,
                    const std::vector<Text>& texts, double seconds, const Report* report) {
  ordered_json out = {{"out", o.out},
                      {"experts", o.experts},
                      {"top_k", o.top_k},
                      {"layers", result.num_layers},
                      {"noise", o.noise},
                      {"relative_change", result.relative_change},
                      {"seed", o.seed},
                      {"rows", result.rows},
                      {"file_bytes", result.file_bytes},
                      {"source_bytes", source_bytes},
                      {"seconds", seconds}};
  if (report == nullptr) return out;
  out["fingerprint"] = Hex64(report->fingerprint);
  ordered_json loads = ordered_json::array();
  for (const LayerLoad& l : report->loads) {
    ordered_json by_text;
    for (size_t t = 0; t < texts.size(); ++t) by_text[texts[t].name] = l.text_share[t];
    loads.push_back({{"layer", l.layer},
                     {"share", l.share},
                     {"balancing_loss", l.balancing_loss},
                     {"told", l.told},
                     {"dropped", l.dropped},
                     {"share_by_text", by_text}});
  }
  out["load"] = loads;
  const Comparison& c = report->comparison;
  out["comparison"] = {{"tokens", c.tokens},         {"logit_change_max", c.logit_change_max},
                       {"kl_mean", c.kl_mean},       {"kl_max", c.kl_max},
                       {"perplexity", c.perplexity}, {"source_perplexity", c.reference_perplexity},
                       {"same_top", c.same_top}};
  return out;
}

absl::Status Run(const Options& o) {
  if (o.top_k > o.experts) {
    return absl::InvalidArgumentError(absl::StrCat("--top-k: ", o.top_k,
                                                   " experts of a token, and --experts makes ",
                                                   o.experts, "; it must be at most that"));
  }
  if (o.second == "random" && o.top_k != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("--second-expert random: needs --top-k 2, which is ", o.top_k));
  }
  // What is wrong with the files is known before the long work.
  const auto files = weights::ModelFiles::Open(o.model);
  if (!files.ok()) return Annotate(files.status(), "--model");
  if (const auto s = upcycle::CheckDense(**files); !s.ok()) return Annotate(s, "--model");
  TUTTI_ASSIGN_OR_RETURN(const auto texts, EncodeTexts(o));

  InterruptFlag interrupt;
  const int64_t start = NowUs();
  TUTTI_ASSIGN_OR_RETURN(const UpcycleResult result, Make(o, **files, texts, interrupt));
  const double seconds = static_cast<double>(NowUs() - start) / 1e6;
  std::optional<Report> report;
  if (!o.no_report) {
    TUTTI_ASSIGN_OR_RETURN(report, MakeReport(o, texts, interrupt));
  }
  const Report* shown = report.has_value() ? &*report : nullptr;
  const uint64_t source_bytes = (*files)->files()[0]->bytes().size();
  if (o.json) {
    const ordered_json j = ToJson(o, result, source_bytes, texts, seconds, shown);
    std::printf("%s\n", j.dump(2, ' ', false, ordered_json::error_handler_t::replace).c_str());
  } else {
    PrintText(o, result, source_bytes, texts, seconds, shown);
  }
  return absl::OkStatus();
}

}  // namespace

void AddUpcycle(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("upcycle", "Make a mixture of experts out of a dense model");
  sub->footer(
      "Sparse upcycling (Komatsuzaki et al., 2022): every layer's feed-forward network becomes "
      "--experts\n"
      "copies behind a router that picks --top-k of them for each token. Nothing is trained: the "
      "router\n"
      "compares a token's hidden state with the centers of a clustering of the states that the "
      "texts give,\n"
      "so experts get kinds of tokens, and unequal shares of them.\n"
      "Without noise the experts are copies and the mixture answers as the source does (bit for "
      "bit "
      "with\n"
      "--top-k 1). --noise X changes every weight by X times the RMS of its row, so that the "
      "experts differ;\n"
      "they are stored in the source's type, which rounds small noise away: below about 0.05 Q4 "
      "types keep\n"
      "little of it, and the report says what is left. At 0.1 the answers get worse.\n"
      "The file is a GGUF of the architecture llama with expert_count, as Mixtral has it; its "
      "feed-forward\n"
      "part is --experts times as large. `tutti up --experts N` serves it with experts on shards.\n"
      "The report runs the new model over the texts: load of each expert, and the distance from "
      "the source.\n"
      "The same source, texts, seed and options give the same file, byte for byte.\n"
      "Examples:\n"
      "  tutti upcycle --model model.gguf --out model.moe8.gguf\n"
      "  tutti upcycle --model model.gguf --experts 16 --top-k 4 --noise 0.1 --out big.gguf\n"
      "  tutti upcycle --model model.gguf --texts kinds/ --out mine.gguf   # kinds/law.txt, "
      "kinds/code.txt");
  sub->add_option("--model", o->model, "The dense source: a llama .gguf file")->required();
  sub->add_option("--out", o->out, "The .gguf file to write; it appears when it is complete")
      ->required();
  sub->add_option("--experts", o->experts, "Experts of a layer")
      ->check(CLI::Range(1, upcycle::kExpertsMax))
      ->capture_default_str();
  sub->add_option("--top-k", o->top_k, "Experts of a token")
      ->check(CLI::Range(1, upcycle::kExpertsMax))
      ->capture_default_str();
  sub->add_option("--noise", o->noise, "How much experts differ, relative to the weights; 0: not")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub->add_option("--second-expert", o->second,
                  "random: a token's second expert is asked with twice its weight as probability,\n"
                  "by the request's seed (GShard); changes the answer")
      ->check(CLI::IsMember({"always", "random"}))
      ->capture_default_str();
  sub->add_option("--capacity", o->capacity,
                  "Of 16 positions of a sequence an expert takes at most so many times its even\n"
                  "share (GShard); 0: all; changes the answer. Neighbours want the same experts, "
                  "and a model\n"
                  "not trained with a limit loses its sense: for trying the machinery")
      ->check(CLI::Range(0.0, 256.0))
      ->capture_default_str();
  sub->add_option("--seed", o->seed, "Of the clustering and the noise")->capture_default_str();
  sub->add_option("--texts", o->texts,
                  "A folder of text files, each one kind of text; default: eight built-in kinds");
  sub->add_option("--tokens", o->tokens, "Tokens of each text that are read")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  sub->add_flag("--no-report", o->no_report, "Do not run the new model");
  sub->add_option("--threads", o->threads, "Threads; 0: all cores; changes only speed")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->add_flag("--json", o->json,
                "One JSON object: file_bytes, relative_change, load, comparison, fingerprint");
  sub->callback([o, action] { *action = [o] { return Run(*o); }; });
}

}  // namespace tutti::cli
