#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "kernels/kernels.h"
#include "tools/cli/commands.h"

namespace tutti::cli {

void AddVersion(CLI::App* app, Action* action) {
  auto json = std::make_shared<bool>(false);
  CLI::App* sub =
      app->add_subcommand("version", "Show the version of the program and of its numerics");
  sub->add_flag("--json", *json, "One JSON object");
  sub->callback([json, action] {
    *action = [json] {
      std::printf(*json ? "{\"version\": \"%s\", \"numerics\": \"%s\", \"compiler\": \"%s\"}\n"
                        : "tutti %s, numerics %s, built with %s\n",
                  TUTTI_VERSION, kernels::kNumericsVersion.data(), __VERSION__);
      return absl::OkStatus();
    };
  });
}

}  // namespace tutti::cli
