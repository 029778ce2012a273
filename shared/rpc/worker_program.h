// What the programs around a Worker have in common: flags, log, start, serve, end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "shared/base/status.h"
#include "shared/rpc/server.h"
#include "shared/rpc/worker.h"

namespace CLI {
class App;
}

namespace tutti::rpc {

// Errors: INVALID_ARGUMENT  the value of `flag` is not in [low, high]
absl::Status FlagInRange(const char* flag, int64_t value, int64_t low, int64_t high);

// Parses, then asks `check`. False: the program ends with *exit_code (--help, or a fault that was
// said on stderr).
bool ParseFlags(CLI::App* app, int argc, char** argv, const std::function<absl::Status()>& check,
                int* exit_code);

// Says on stderr what is wrong with the program `name`; returns `exit_code`.
int FailProgram(const std::string& name, const absl::Status& status, int exit_code);

// main() of a worker W with W::Start(options) and worker(). `options` holds the defaults;
// `parse` is its ParseOptions.
template <typename W, typename Options>
int RunWorkerProgram(int argc, char** argv, const std::string& name, Options options,
                     bool (*parse)(int, char**, Options*, int*)) {
  BlockShutdownSignals();
  int exit_code = 0;
  if (!parse(argc, argv, &options, &exit_code)) return exit_code;
  if (absl::Status s = InitLogFromOptions(name, options.worker.service); !s.ok())
    return FailProgram(name, s, 2);
  auto worker = W::Start(options);
  if (!worker.ok()) return FailProgram(name, worker.status(), 1);
  const absl::Status ended = (*worker)->worker().Run();
  ExitNow(ended.ok() ? 0 : FailProgram(name, Annotate(ended, options.model), 1));
}

}  // namespace tutti::rpc
