#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/cores.h"
#include "shared/base/hash.h"
#include "shared/base/mapped_file.h"
#include "shared/base/strings.h"
#include "shared/quantize/quantize_model.h"
#include "shared/weights/inspect.h"
#include "tools/cli/commands.h"
#include "tools/cli/compare_models.h"
#include "tools/cli/local_model.h"
#include "tools/cli/report_text.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::ordered_json;
using quantize::QuantizeResult;

constexpr int kWindow = 512;  // tokens of one context in the comparison

struct Options {
  std::string model, type, out, embedding, texts;
  int threads = 0, tokens = 2048;
  bool no_report = false, json = false;
};

// Tensors of one role that changed in the same way: all layers' attn_q, say.
struct Group {
  std::string name;
  DType from, to;
  int num_tensors = 0;
  uint64_t bytes = 0;
  double squares = 0, squared_error = 0;
  double RelativeError() const { return squares > 0 ? std::sqrt(squared_error / squares) : 0; }
};

// "blk.12.attn_q.weight" is "attn_q".
std::string RoleName(std::string_view name) {
  if (name.starts_with("blk.")) {
    const size_t dot = name.find('.', 4);
    if (dot != name.npos) name.remove_prefix(dot + 1);
  }
  if (name.ends_with(".weight")) name.remove_suffix(7);
  return Printable(name);
}

std::vector<Group> GroupTensors(const QuantizeResult& result) {
  std::vector<Group> groups;
  for (const quantize::TensorResult& t : result.tensors) {
    const std::string name = RoleName(t.name);
    auto it = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
      return g.name == name && g.from == t.from && g.to == t.to;
    });
    if (it == groups.end()) it = groups.insert(it, Group{name, t.from, t.to});
    ++it->num_tensors;
    it->bytes += t.bytes;
    it->squares += t.squares;
    it->squared_error += t.squared_error;
  }
  return groups;
}

// Tensors whose rows do not fit the type that they should have had.
struct Fallback {
  DType wanted, to;
  int num_tensors = 0;
};
std::vector<Fallback> Fallbacks(const QuantizeResult& result) {
  std::vector<Fallback> out;
  for (const quantize::TensorResult& t : result.tensors) {
    if (t.wanted == t.to) continue;
    auto it = std::find_if(out.begin(), out.end(),
                           [&](const Fallback& f) { return f.wanted == t.wanted && f.to == t.to; });
    if (it == out.end()) it = out.insert(it, Fallback{t.wanted, t.to});
    ++it->num_tensors;
  }
  return out;
}

double BitsPerWeight(const QuantizeResult& result) {
  uint64_t bytes = 0, elements = 0;
  for (const quantize::TensorResult& t : result.tensors) {
    bytes += t.bytes;
    elements += t.num_elements;
  }
  return elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

// What the new file is like beside its source.
struct Report {
  std::string text_name;
  absl::StatusOr<Comparison> comparison = absl::UnknownError("");
  uint64_t fingerprint = 0;
};

absl::StatusOr<Comparison> Compare(const Options& o, const std::string& text,
                                   const InterruptFlag& interrupt, uint64_t* fingerprint) {
  LocalModelOptions local{.model = o.model, .threads = o.threads};
  TUTTI_ASSIGN_OR_RETURN(const auto source, LoadLocalModel(local));
  local.model = o.out;
  TUTTI_ASSIGN_OR_RETURN(const auto made, LoadLocalModel(local));
  *fingerprint = made->decoder->info().fingerprint;
  TUTTI_RETURN_IF_ERROR(source->text.status());
  auto ids = source->text->tokenizer->Encode(text, {.parse_special = false, .add_special = true});
  if (o.tokens > 0 && static_cast<int>(ids.size()) > o.tokens) ids.resize(o.tokens);
  Progress progress("comparing", ids.size());
  return CompareModels(*source, *made, ids, kWindow, [&](int done) {
    progress.Update(static_cast<uint64_t>(done));
    return !interrupt.raised();
  });
}

void PrintText(const Options& o, const weights::ModelFiles& files, const QuantizeResult& result,
               double seconds, const Report* report) {
  std::printf("%s: %s, %s (the source has %s), %.2f bits per weight, made in %.1f s\n\n",
              o.out.c_str(), o.type.c_str(), weights::HumanBytes(result.file_bytes).c_str(),
              weights::HumanBytes(files.files()[0]->bytes().size()).c_str(), BitsPerWeight(result),
              seconds);
  std::printf("%-22s %-14s %8s %10s   %s\n", "weights", "type", "tensors", "size",
              "relative RMS error");
  for (const Group& g : GroupTensors(result)) {
    const std::string from(Traits(g.from).name), to(Traits(g.to).name);
    std::printf(
        "%-22s %-14s %8d %10s   %s\n", g.name.c_str(),
        (g.from == g.to ? to : from + " -> " + to).c_str(), g.num_tensors,
        weights::HumanBytes(g.bytes).c_str(),
        g.from == g.to ? "copied" : absl::StrFormat("%.3f %%", 100 * g.RelativeError()).c_str());
  }
  for (const Fallback& f : Fallbacks(result)) {
    const DTypeTraits &wanted = Traits(f.wanted), &to = Traits(f.to);
    std::printf("%d tensors have rows that are no multiple of %d, which %s needs: %s instead\n",
                f.num_tensors, wanted.block_elements, std::string(wanted.name).c_str(),
                std::string(to.name).c_str());
  }
  if (report == nullptr) return;
  if (!report->comparison.ok()) {
    std::printf("\nnot compared with the source: %s\n",
                std::string(report->comparison.status().message()).c_str());
    return;
  }
  const Comparison& c = *report->comparison;
  std::printf(
      "\nagainst the source, over %d tokens of %s:\n"
      "  KL divergence   mean %.5f, 99 %% of positions below %.5f, largest %.5f nats\n"
      "  perplexity      %.3f (source %.3f, %+.2f %%)\n"
      "  likeliest token the same at %.1f %% of positions\n",
      c.tokens, report->text_name.c_str(), c.kl_mean, c.kl_p99, c.kl_max, c.perplexity,
      c.reference_perplexity, 100 * (c.perplexity / c.reference_perplexity - 1), 100 * c.same_top);
}

ordered_json ToJson(const Options& o, const weights::ModelFiles& files,
                    const QuantizeResult& result, double seconds, const Report* report) {
  ordered_json groups = ordered_json::array(), fallbacks = ordered_json::array();
  for (const Group& g : GroupTensors(result)) {
    groups.push_back({{"name", g.name},
                      {"from", Traits(g.from).name},
                      {"to", Traits(g.to).name},
                      {"tensors", g.num_tensors},
                      {"bytes", g.bytes},
                      {"relative_rms_error", g.RelativeError()}});
  }
  for (const Fallback& f : Fallbacks(result)) {
    fallbacks.push_back(
        {{"wanted", Traits(f.wanted).name}, {"to", Traits(f.to).name}, {"tensors", f.num_tensors}});
  }
  ordered_json out = {{"out", o.out},
                      {"type", o.type},
                      {"file_bytes", result.file_bytes},
                      {"source_bytes", files.files()[0]->bytes().size()},
                      {"bits_per_weight", BitsPerWeight(result)},
                      {"seconds", seconds},
                      {"weights", groups},
                      {"fallbacks", fallbacks}};
  if (report == nullptr) return out;
  if (report->fingerprint != 0) out["fingerprint"] = Hex64(report->fingerprint);
  out["comparison"] = nullptr;
  if (!report->comparison.ok()) {
    out["not_compared"] = std::string(report->comparison.status().message());
    return out;
  }
  const Comparison& c = *report->comparison;
  out["comparison"] = {{"text", report->text_name},
                       {"tokens", c.tokens},
                       {"kl_mean", c.kl_mean},
                       {"kl_p99", c.kl_p99},
                       {"kl_max", c.kl_max},
                       {"perplexity", c.perplexity},
                       {"source_perplexity", c.reference_perplexity},
                       {"same_top", c.same_top}};
  return out;
}

absl::StatusOr<DType> TypeFlag(const char* flag, std::string* text) {
  const auto type = quantize::ParseDType(*text);
  if (!type.has_value()) {
    std::string names;
    for (int i = 0; i < kNumDTypes; ++i)
      absl::StrAppend(&names, " ", ToAbsl(Traits(static_cast<DType>(i)).name));
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": no type \"", Printable(*text), "\"; there are", names));
  }
  *text = Traits(*type).name;
  return *type;
}

absl::Status Run(Options o) {
  quantize::QuantizeOptions options;
  TUTTI_ASSIGN_OR_RETURN(options.types.dtype, TypeFlag("--type", &o.type));
  if (!o.embedding.empty()) {
    TUTTI_ASSIGN_OR_RETURN(options.types.embedding, TypeFlag("--keep-embedding", &o.embedding));
  }
  // A text that cannot be read is known before the long work.
  Report report{.text_name = o.texts.empty() ? "the built-in text" : o.texts};
  std::string text = kReportText;
  if (!o.texts.empty()) {
    const auto file = MappedFile::Open(o.texts);
    if (!file.ok()) return Annotate(file.status(), "--texts");
    const auto bytes = (*file)->bytes();
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (size_t bad = 0; !IsValidUtf8(text, &bad))
      return absl::InvalidArgumentError(absl::StrCat("--texts: not UTF-8 at byte ", bad));
  }
  const auto files = weights::ModelFiles::Open(o.model);
  if (!files.ok()) return Annotate(files.status(), "--model");

  InterruptFlag interrupt;
  const int64_t start = NowUs();
  QuantizeResult result;
  {
    ThreadPool pool({.num_threads = ThreadsOrCores(o.threads)});
    Progress progress("quantizing", 1000);
    options.pool = &pool;
    options.on_progress = [&](uint64_t done, uint64_t total) {
      progress.Update(total > 0 ? done * 1000 / total : 1000, weights::HumanBytes(total));
      return !interrupt.raised();
    };
    TUTTI_ASSIGN_OR_RETURN(result, quantize::QuantizeModel(**files, o.out, options));
  }
  const double seconds = static_cast<double>(NowUs() - start) / 1e6;
  if (!o.no_report) {
    report.comparison = Compare(o, text, interrupt, &report.fingerprint);
    if (absl::IsCancelled(report.comparison.status())) return report.comparison.status();
  }
  const Report* shown = o.no_report ? nullptr : &report;
  if (o.json) {
    const ordered_json j = ToJson(o, **files, result, seconds, shown);
    std::printf("%s\n", j.dump(2, ' ', false, ordered_json::error_handler_t::replace).c_str());
  } else {
    PrintText(o, **files, result, seconds, shown);
  }
  return absl::OkStatus();
}

}  // namespace

void AddQuantize(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("quantize", "Write a model in another, smaller element type");
  sub->footer(
      "Types, by bits per weight:\n"
      "  F32 32   F16 16   BF16 16   Q8_0 8.5   Q6_K 6.6   Q5_1 6   Q5_0 5.5   Q5_K 5.5\n"
      "  Q4_1 5   Q4_0 4.5   Q4_K 4.5\n"
      "K types want rows that are a multiple of 256; other rows become Q5_0 (for Q4_K), Q5_1 "
      "(Q5_K) or\n"
      "Q8_0 (Q6_K), and the report says how many. Norms and biases are kept in F32, token "
      "embeddings\n"
      "and output rows in Q8_0 (--keep-embedding).\n"
      "Start from the most precise file that you have: what the source's own type lost stays "
      "lost.\n"
      "The report runs both models over a text. KL divergence says how far the predictions moved. "
      "On\n"
      "SmolLM2-135M 0.003 nats is what the rounding of activations does by itself, and at 0.1 "
      "every\n"
      "fifth likeliest token is another one; there try a larger type.\n"
      "The same source and types give the same file, byte for byte, with any number of threads.\n"
      "Examples:\n"
      "  tutti quantize --model model.F16.gguf --type Q4_K --out model.Q4_K.gguf\n"
      "  tutti quantize --model model.F16.gguf --type Q6_K --keep-embedding Q6_K --out small.gguf\n"
      "  tutti quantize --model model.gguf --type Q8_0 --out q8.gguf --texts mine.txt --json");
  sub->add_option("--model", o->model, "The source: a .gguf file, or a folder with one")
      ->required();
  sub->add_option("--type", o->type, "The new type, one of the list below")->required();
  sub->add_option("--out", o->out, "The .gguf file to write; it appears when it is complete")
      ->required();
  sub->add_option(
      "--keep-embedding", o->embedding,
      "Type of token embeddings and output rows; default: Q8_0, or --type where that is "
      "larger");
  sub->add_option("--texts", o->texts,
                  "Compare on the text in this file instead of the built-in one");
  sub->add_option("--tokens", o->tokens, "Compare on so many tokens of the text; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub->add_flag("--no-report", o->no_report, "Do not run the models to compare them");
  sub->add_option("--threads", o->threads, "Threads; 0: all cores; changes only speed")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->add_flag("--json", o->json,
                "One JSON object: file_bytes, weights, fallbacks, comparison, fingerprint");
  sub->callback([o, action] { *action = [o] { return Run(*o); }; });
}

}  // namespace tutti::cli
