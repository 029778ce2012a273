#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/commands.h"
#include "tools/cli/experts_view.h"
#include "tools/cli/state_dir.h"

namespace tutti::cli {
namespace {

constexpr int kTimeoutMs = 2000;
constexpr size_t kAll = SIZE_MAX;

struct Options {
  std::string state_dir;
  FleetAddress fleet;
  std::vector<std::string> experts;
  std::string shard;
  bool json = false;
};

// "3:0" -> layer 3, expert 0.
absl::StatusOr<fleet::v1::ExpertPin> ParseExpert(const std::string& text) {
  const auto number = [](std::string_view s, uint32_t* out) {
    const auto [at, error] = std::from_chars(s.data(), s.data() + s.size(), *out);
    return error == std::errc() && at == s.data() + s.size();
  };
  const size_t colon = text.find(':');
  uint32_t layer = 0, expert = 0;
  const std::string_view all = text;
  if (colon == std::string::npos || !number(all.substr(0, colon), &layer) ||
      !number(all.substr(colon + 1), &expert)) {
    return absl::InvalidArgumentError("\"" + text + "\" is not LAYER:EXPERT, such as 3:0");
  }
  fleet::v1::ExpertPin pin;
  pin.set_moe_layer(layer);
  pin.set_expert_id(expert);
  return pin;
}

// The cluster that the flags name; `fleet` is where to ask. One elsewhere has no local processes.
absl::StatusOr<ClusterState> Find(const Options& o, FleetAddress* fleet) {
  *fleet = o.fleet;
  if (!o.fleet.address.empty()) return ClusterState();
  TUTTI_ASSIGN_OR_RETURN(ClusterState state, RunningCluster(o.state_dir));
  fleet->address = state.cluster;
  return state;
}

absl::Status List(const Options& o) {
  FleetAddress fleet;
  TUTTI_ASSIGN_OR_RETURN(const ClusterState state, Find(o, &fleet));
  TUTTI_ASSIGN_OR_RETURN(const auto view, GetFleet(fleet, kTimeoutMs, true));
  const nlohmann::json experts = ExpertsJson(view, ShardNames(state, view));
  if (o.json) {
    std::printf("%s\n", experts.dump(2).c_str());
  } else if (experts.is_null()) {
    std::printf("no experts on shards; start them with 'tutti up --experts N'\n");
  } else {
    std::fputs(ExpertsTable(experts, kAll).c_str(), stdout);
  }
  return absl::OkStatus();
}

absl::Status Pin(const Options& o, bool unpin) {
  FleetAddress fleet;
  TUTTI_ASSIGN_OR_RETURN(const ClusterState state, Find(o, &fleet));
  std::string worker_id;
  std::map<std::string, std::string> names;
  TUTTI_ASSIGN_OR_RETURN(const auto view, GetFleet(fleet, kTimeoutMs));
  names = ShardNames(state, view);
  if (!o.shard.empty()) {
    for (const auto& [id, name] : names) {
      if (name == o.shard || id == o.shard) worker_id = id;
    }
    if (worker_id.empty()) {
      std::string there;
      for (const auto& [id, name] : names) absl::StrAppend(&there, there.empty() ? "" : ", ", name);
      return absl::NotFoundError("--shard: no shard is called \"" + o.shard + "\"; there are " +
                                 (there.empty() ? "none" : there));
    }
  }
  fleet::v1::PinExpertsRequest request;
  request.set_unpin(unpin);
  for (const std::string& text : o.experts) {
    TUTTI_ASSIGN_OR_RETURN(*request.add_pins(), ParseExpert(text));
    request.mutable_pins(request.pins_size() - 1)->set_worker_id(worker_id);
  }
  TUTTI_ASSIGN_OR_RETURN(const auto response, PinExperts(fleet, request, kTimeoutMs));
  if (response.pins().empty()) std::printf("nothing is pinned\n");
  for (const auto& p : response.pins()) {
    const auto name = names.find(p.worker_id());
    const std::string where = p.worker_id().empty() ? "where it is"
                              : name == names.end() ? p.worker_id()
                                                    : name->second;
    std::printf("%u:%u pinned %s\n", p.moe_layer(), p.expert_id(), where.c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddExperts(CLI::App* app, Action* action) {
  CLI::App* sub = app->add_subcommand("experts", "Show, pin and unpin the experts of shards");
  sub->require_subcommand(1);
  sub->footer(
      "Where an expert runs decides speed, never a token. The router spreads them by load; a "
      "pinned\n"
      "one is not moved, nor dropped when memory is short.\n"
      "Examples:  tutti experts list    tutti experts pin 3:0 3:5 --shard expert-1    tutti "
      "experts "
      "unpin 3:0");
  const auto o = std::make_shared<Options>();
  CLI::App* list = sub->add_subcommand("list", "All experts: who holds them, rows, share of load");
  AddStateDirFlag(list, &o->state_dir);
  AddFleetAddressFlags(list, &o->fleet);
  list->add_flag("--json", o->json, "One JSON object instead of a table");
  list->callback([o, action] { *action = [o] { return List(*o); }; });
  for (const bool unpin : {false, true}) {
    CLI::App* pin =
        sub->add_subcommand(unpin ? "unpin" : "pin",
                            unpin ? "Let the router move them again" : "Keep experts in place");
    pin->add_option("experts", o->experts, "LAYER:EXPERT, layers counted over those with experts")
        ->required()
        ->delimiter(',');
    pin->add_option("--shard", o->shard,
                    unpin ? "Only the pin to this shard; else every pin of the expert"
                          : "On this shard, as 'tutti status' calls it; else wherever it is");
    AddStateDirFlag(pin, &o->state_dir);
    AddFleetAddressFlags(pin, &o->fleet);
    pin->callback([o, action, unpin] { *action = [o, unpin] { return Pin(*o, unpin); }; });
  }
}

}  // namespace tutti::cli
