#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tools/cli/commands.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {

void AddDown(CLI::App* app, Action* action) {
  struct Options {
    std::string state_dir;
    double timeout_s = 30;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("down", "Stop the cluster of a state dir");
  sub->footer("Running requests get the cluster's grace time ('tutti up --grace').");
  AddStateDirFlag(sub, &o->state_dir);
  sub->add_option("--timeout", o->timeout_s, "Seconds to wait for its end")->capture_default_str();
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_ASSIGN_OR_RETURN(const auto state, RunningCluster(o->state_dir));
      TUTTI_RETURN_IF_ERROR(SignalSupervisor(o->state_dir, state, SIGTERM));
      const int64_t deadline = NowUs() + static_cast<int64_t>(o->timeout_s * 1e6);
      while (StateLock::IsHeld(o->state_dir)) {
        if (NowUs() > deadline) {
          return absl::DeadlineExceededError(absl::StrCat(
              "the supervisor (pid ", state.supervisor_pid, ") still runs after ", o->timeout_s,
              " s; 'kill -9 ", state.supervisor_pid, "' ends it and its processes"));
        }
        ::usleep(20'000);
      }
      std::printf("stopped\n");
      return absl::OkStatus();
    };
  });
}

}  // namespace tutti::cli
