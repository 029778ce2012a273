#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/commands.h"
#include "tools/cli/experts_view.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

struct Options {
  std::string state_dir;
  int experts = 0;
  double timeout_s = 60;
};

int CountShards(const ClusterState& state) {
  return static_cast<int>(std::count_if(state.processes.begin(), state.processes.end(),
                                        [](const auto& p) { return p.kind == "expert"; }));
}

// Shards of the state dir that the router has seen ready.
int CountReady(const ClusterState& state) {
  const auto view = GetFleet({state.cluster, {}}, 1000);
  if (!view.ok()) return 0;
  const auto names = ShardNames(state, *view);
  return static_cast<int>(
      std::count_if(view->workers().begin(), view->workers().end(), [&](const auto& w) {
        return names.contains(w.worker_id()) && w.state() == fleet::v1::WORKER_STATE_READY;
      }));
}

absl::Status Scale(const Options& o) {
  TUTTI_ASSIGN_OR_RETURN(ClusterState state, RunningCluster(o.state_dir));
  if (CountShards(state) == 0) {
    return absl::FailedPreconditionError(
        "this cluster has no expert shards: its targets run the experts themselves; start it with "
        "'tutti up --experts N'");
  }
  const int before = CountShards(state);
  TUTTI_RETURN_IF_ERROR(WriteScale(o.state_dir, o.experts));
  TUTTI_RETURN_IF_ERROR(SignalSupervisor(o.state_dir, state, SIGUSR1));
  const int64_t deadline = NowUs() + static_cast<int64_t>(o.timeout_s * 1e6);
  while (CountShards(state) != o.experts || CountReady(state) != o.experts) {
    if (NowUs() > deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          CountShards(state), " shards, ", CountReady(state), " of them ready, after ", o.timeout_s,
          " s; 'tutti status' shows them, their logs are in ", o.state_dir, "/logs"));
    }
    ::usleep(50'000);
    TUTTI_ASSIGN_OR_RETURN(state, RunningCluster(o.state_dir));
  }
  std::printf("%d -> %d expert shards, all ready\n", before, o.experts);
  return absl::OkStatus();
}

}  // namespace

void AddScale(CLI::App* app, Action* action) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("scale", "Change how many processes of a kind run");
  sub->require_subcommand(1);
  CLI::App* experts = sub->add_subcommand("experts", "Start or drain expert shards");
  experts->footer(
      "Requests go on: a new shard is given experts and takes load when it has them; one that "
      "goes\n"
      "keeps answering until others have its experts. No token changes.\n"
      "Example:  tutti up --model MIXTURE.gguf --experts 2 --detach; tutti scale experts 5");
  experts->add_option("count", o->experts, "Shards there should be")
      ->required()
      ->check(CLI::Range(1, 64));
  AddStateDirFlag(experts, &o->state_dir);
  experts->add_option("--timeout", o->timeout_s, "Seconds to wait until they are ready")
      ->capture_default_str();
  experts->callback([o, action] { *action = [o] { return Scale(*o); }; });
}

}  // namespace tutti::cli
