// The subcommands of `tutti`. Each adds itself to the parser; when the user picked it, the parser
// leaves what is to be done in `*action`.
#pragma once

#include <functional>

#include "shared/base/status.h"

namespace CLI {
class App;
}

namespace tutti::cli {

// Runs the command. Errors: what, where, and what would be right; main prints them.
using Action = std::function<absl::Status()>;

void AddUp(CLI::App* app, Action* action);
void AddStatus(CLI::App* app, Action* action);
void AddScale(CLI::App* app, Action* action);
void AddExperts(CLI::App* app, Action* action);
void AddDown(CLI::App* app, Action* action);
void AddChat(CLI::App* app, Action* action);
void AddGenerate(CLI::App* app, Action* action);
void AddTokenize(CLI::App* app, Action* action);
void AddLogits(CLI::App* app, Action* action);
void AddPerplexity(CLI::App* app, Action* action);
void AddBench(CLI::App* app, Action* action);
void AddPack(CLI::App* app, Action* action);
void AddInspect(CLI::App* app, Action* action);
void AddQuantize(CLI::App* app, Action* action);
void AddUpcycle(CLI::App* app, Action* action);
void AddVersion(CLI::App* app, Action* action);

// Parses and runs; returns the exit code: 0 done, 1 failed, 2 the command line is wrong, 130
// interrupted.
int Main(int argc, char** argv);

}  // namespace tutti::cli
