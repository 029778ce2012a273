#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "shared/base/cores.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/model/pack.h"
#include "shared/weights/inspect.h"
#include "tools/cli/commands.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

struct Options {
  std::string model, out, verify;
  bool force = false;
  int threads = 0;
};

void Print(const char* what, const std::string& path, const model::PackedSummary& s,
           int64_t elapsed_us) {
  std::printf("%s %s: %s, fingerprint %s, %zu ranges, %zu tensors, %s in %.2f s\n", what,
              Printable(path, 1000).c_str(), Printable(s.name).c_str(),
              Hex64(s.fingerprint).c_str(), s.num_ranges, s.num_tensors,
              weights::HumanBytes(s.data_bytes).c_str(), static_cast<double>(elapsed_us) / 1e6);
}

absl::Status Run(const Options& o) {
  if (o.verify.empty() == o.model.empty())
    return absl::InvalidArgumentError("give either --model with --out, or --verify");
  if (o.model.empty() != o.out.empty()) return absl::InvalidArgumentError("--out: needs --model");
  if (o.force && o.out.empty()) return absl::InvalidArgumentError("--force: needs --out");
  ThreadPool pool({.num_threads = ThreadsOrCores(o.threads)});
  const int64_t start = NowUs();
  Progress progress(o.verify.empty() ? "packing" : "verifying", 1000);
  const auto on_progress = [&](size_t done, size_t total) {
    progress.Update(total > 0 ? done * 1000 / total : 0, weights::HumanBytes(total));
  };
  if (!o.verify.empty()) {
    TUTTI_ASSIGN_OR_RETURN(
        const auto summary,
        model::VerifyPackedModel(o.verify, {.pool = &pool, .on_progress = on_progress}));
    Print("whole", o.verify, summary, NowUs() - start);
    return absl::OkStatus();
  }
  const InterruptFlag interrupt;
  const auto summary = model::PackModel({.source = o.model,
                                         .out = o.out,
                                         .replace = o.force,
                                         .pool = &pool,
                                         .on_progress = on_progress,
                                         .cancelled = [&] { return interrupt.raised(); }});
  if (absl::IsAlreadyExists(summary.status()))
    return absl::AlreadyExistsError(
        absl::StrCat("--out: ", std::string(summary.status().message()), "; --force replaces it"));
  TUTTI_RETURN_IF_ERROR(summary.status());
  Print("packed", o.out, *summary, NowUs() - start);
  return absl::OkStatus();
}

}  // namespace

void AddPack(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub =
      app->add_subcommand("pack", "Write a model as a directory that loads at once and is shared");
  sub->footer(
      "Loading a model file rearranges its weights into memory of each process. A packed directory "
      "holds\n"
      "them rearranged: processes map it read-only and share one copy of it in memory. It works "
      "wherever\n"
      "--model does, with the source's fingerprint and bits; the source is not needed any more.\n"
      "Every load compares the checksums; --verify compares those of all tensors too.\n"
      "Examples:\n"
      "  tutti pack --model model.gguf --out model.packed\n"
      "  tutti up --model model.packed --targets 2\n"
      "  tutti pack --verify model.packed\n"
      "  tutti pack --model some-hub-folder/ --out model.packed --force");
  sub->add_option("--model", o->model, "A .gguf file or a model folder");
  sub->add_option("--out", o->out, "The directory to write; it appears when it is whole");
  sub->add_flag("--force", o->force, "Replace a packed directory that is there (and only that)");
  sub->add_option("--verify", o->verify, "Check every byte of a packed directory");
  sub->add_option("--threads", o->threads, "Threads; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->callback([o, action] { *action = [o] { return Run(*o); }; });
}

}  // namespace tutti::cli
