#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "shared/base/strings.h"
#include "tools/cli/commands.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

constexpr char kAbout[] =
    "Tutti serves large language models from a cluster of small services.\n"
    "The same request and seed give the same tokens, whatever runs them.\n";

constexpr char kExamples[] =
    "Examples:\n"
    "  tutti up --model models/SmolLM2-135M-Instruct.Q4_1.gguf --detach\n"
    "  tutti chat\n"
    "  tutti generate --prompt \"The sea is\" --seed 7 --max-tokens 20\n"
    "  tutti status\n"
    "  tutti down\n"
    "  tutti COMMAND --help explains a command.\n";

}  // namespace

int Main(int argc, char** argv) {
  CLI::App app(kAbout, "tutti");
  app.footer(kExamples);
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Explain every command");
  Action action;
  AddUp(&app, &action);
  AddStatus(&app, &action);
  AddDown(&app, &action);
  AddChat(&app, &action);
  AddGenerate(&app, &action);
  AddTokenize(&app, &action);
  AddLogits(&app, &action);
  AddPerplexity(&app, &action);
  AddPack(&app, &action);
  AddInspect(&app, &action);
  AddQuantize(&app, &action);
  AddUpcycle(&app, &action);
  AddScale(&app, &action);
  AddExperts(&app, &action);
  AddBench(&app, &action);
  AddVersion(&app, &action);

  std::string command = "tutti";
  if (argc > 1 && argv[1][0] != '-') {
    bool known = false;
    std::string names;
    for (const CLI::App* sub : app.get_subcommands(nullptr)) {
      known |= sub->get_name() == argv[1];
      names += " " + sub->get_name();
    }
    if (!known) {
      std::fprintf(stderr, "tutti: no command \"%s\"; there are:%s\n", Printable(argv[1]).c_str(),
                   names.c_str());
      return 2;
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const auto chosen = app.get_subcommands();
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    if (!chosen.empty()) command += " " + chosen[0]->get_name();
    std::fprintf(stderr, "%s: %s\n'%s --help' shows what is right.\n", command.c_str(), e.what(),
                 command.c_str());
    return 2;
  }
  command += " " + app.get_subcommands()[0]->get_name();

  const absl::Status status = action();
  if (status.ok()) return 0;
  if (status.code() == absl::StatusCode::kCancelled) return 130;
  std::fprintf(stderr, "%s%s: error:%s %s\n", Style(2, "\033[1;31m"), command.c_str(),
               Style(2, "\033[0m"), std::string(status.message()).c_str());
  return 1;
}

}  // namespace tutti::cli
