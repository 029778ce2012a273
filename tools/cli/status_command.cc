#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/weights/inspect.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/commands.h"
#include "tools/cli/experts_view.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

constexpr int kTimeoutMs = 1000;
constexpr size_t kExpertRows = 10;

const char* KindName(fleet::v1::WorkerKind kind) {
  switch (kind) {
    case fleet::v1::WORKER_KIND_TOKENIZER:
      return "tokenizer";
    case fleet::v1::WORKER_KIND_TARGET:
      return "target";
    case fleet::v1::WORKER_KIND_DRAFT:
      return "draft";
    case fleet::v1::WORKER_KIND_EXPERT:
      return "expert";
    case fleet::v1::WORKER_KIND_RETRIEVAL:
      return "retrieval";
    case fleet::v1::WORKER_KIND_REWARD:
      return "reward";
    default:
      return "unknown";
  }
}
const char* StateName(fleet::v1::WorkerState state) {
  switch (state) {
    case fleet::v1::WORKER_STATE_STARTING:
      return "starting";
    case fleet::v1::WORKER_STATE_READY:
      return "ready";
    case fleet::v1::WORKER_STATE_DRAINING:
      return "draining";
    case fleet::v1::WORKER_STATE_DEAD:
      return "dead";
    default:
      return "unknown";
  }
}

json FromReport(const fleet::v1::WorkerReport& w) {
  const auto& l = w.load();
  return {{"id", w.worker_id()},
          {"kind", KindName(w.kind())},
          {"pid", w.pid()},
          {"address", w.address()},
          {"metrics", w.metrics_address()},
          {"host", w.host()},
          {"state", StateName(w.state())},
          {"model", w.model()},
          {"quarantined_by", w.quarantined_by()},
          {"fingerprint", Hex64(w.fingerprint())},
          {"load",
           {{"running", l.running()},
            {"waiting", l.waiting()},
            {"pages", l.pages()},
            {"free_pages", l.free_pages()},
            {"memory_bytes", l.memory_bytes()},
            {"tokens_per_s", l.tokens_per_s()}}}};
}

// The processes that the supervisor knows, each with what the router knows of it; then workers that
// joined from elsewhere.
json Workers(const ClusterState& state, const absl::StatusOr<fleet::v1::GetFleetResponse>& view) {
  json workers = json::array();
  std::vector<int64_t> own;
  for (const ProcessState& p : state.processes) {
    json w = {{"id", p.name},
              {"kind", p.kind},
              {"state", p.pid == 0 ? "dead" : "running"},
              {"model", ""},
              {"load", json::object()}};
    if (view.ok()) {
      for (const auto& report : view->workers()) {
        if (report.pid() == p.pid && p.pid != 0 && KindName(report.kind()) == p.kind)
          w = FromReport(report);
      }
    }
    w["name"] = p.name;
    w["pid"] = p.pid;
    w["address"] = p.address;
    w["metrics"] = p.metrics;
    w["log"] = p.log;
    w["restarts"] = p.restarts;
    w["healthy"] = p.pid != 0 && w.value("quarantined_by", "").empty() &&
                   (p.kind == "gateway" ? HttpHealthy(p.address, kTimeoutMs)
                                        : GrpcHealthy(p.address, kTimeoutMs));
    own.push_back(p.pid);
    workers.push_back(std::move(w));
  }
  if (!view.ok()) return workers;
  for (const auto& report : view->workers()) {
    if (std::find(own.begin(), own.end(), report.pid()) != own.end()) continue;
    json w = FromReport(report);
    w["name"] = report.worker_id();
    w["healthy"] =
        report.state() == fleet::v1::WORKER_STATE_READY && report.quarantined_by().empty();
    workers.push_back(std::move(w));
  }
  return workers;
}

// A shard that a target found to compute wrong answers, but is asked for nothing.
const char* Health(const json& w) {
  if (!w.value("quarantined_by", "").empty()) return "QUARANTINED";
  return w.value("healthy", false) ? "ok" : "NOT OK";
}

std::string Table(const ClusterState& state, const json& workers) {
  const int64_t up = UnixSeconds() - state.started_unix_s;
  std::string out =
      absl::StrFormat("cluster up for %d:%02d:%02d, http %s, grpc %s\nmodel %s\n\n", up / 3600,
                      up / 60 % 60, up % 60, state.http, state.grpc, Printable(state.model, 200));
  absl::StrAppendFormat(&out, "%-12s %8s %-11s %8s %8s %13s %9s %8s %s\n", "NAME", "PID", "HEALTH",
                        "RUNNING", "WAITING", "FREE PAGES", "MEMORY", "TOK/S", "RESTARTS");
  for (const json& w : workers) {
    const json load = w.value("load", json::object());
    const bool has_load = !load.empty();
    const bool decodes = has_load && load.value("pages", 0) > 0;
    const auto count = [&](const char* key) {
      return has_load ? absl::StrCat(load.value(key, 0)) : std::string("-");
    };
    absl::StrAppendFormat(
        &out, "%-12s %8d %-11s %8s %8s %13s %9s %8s %d\n", Printable(w.value("name", ""), 40),
        w.value("pid", int64_t{0}), Health(w), count("running"), count("waiting"),
        decodes ? absl::StrCat(load.value("free_pages", 0), "/", load.value("pages", 0)) : "-",
        has_load ? weights::HumanBytes(static_cast<uint64_t>(
                       std::max<int64_t>(0, load.value("memory_bytes", int64_t{0}))))
                 : "-",
        decodes ? absl::StrFormat("%.1f", load.value("tokens_per_s", 0.0)) : "-",
        w.value("restarts", 0));
  }
  return out;
}

}  // namespace

void AddStatus(CLI::App* app, Action* action) {
  struct Options {
    std::string state_dir;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app->add_subcommand("status", "Show the processes of the running cluster");
  sub->footer("Exits with 1 when no cluster runs in the state dir.");
  AddStateDirFlag(sub, &o->state_dir);
  sub->add_flag("--json", o->json, "One JSON object instead of a table");
  sub->callback([o, action] {
    *action = [o]() -> absl::Status {
      TUTTI_ASSIGN_OR_RETURN(const ClusterState state, RunningCluster(o->state_dir));
      const auto view = GetFleet(state.router_unix, kTimeoutMs, /*with_experts=*/true);
      const json workers = Workers(state, view);
      const json experts = view.ok() ? ExpertsJson(*view, ShardNames(state, *view)) : json(nullptr);
      if (!o->json) {
        std::fputs(Table(state, workers).c_str(), stdout);
        if (!experts.is_null()) std::printf("\n%s", ExpertsTable(experts, kExpertRows).c_str());
        if (!view.ok())
          std::printf("\nload is unknown: %s\n", std::string(view.status().message()).c_str());
        return absl::OkStatus();
      }
      const json all = {{"running", true},
                        {"ready", state.ready},
                        {"supervisor_pid", state.supervisor_pid},
                        {"started_unix_s", state.started_unix_s},
                        {"model", state.model},
                        {"http", state.http},
                        {"grpc", state.grpc},
                        {"fleet_epoch", view.ok() ? json(view->epoch()) : json(nullptr)},
                        {"workers", workers},
                        {"experts", experts.is_null() ? json::array() : experts["experts"]},
                        {"expert_shards", experts.is_null() ? json::array() : experts["shards"]},
                        {"experts_moving", experts.is_null() ? json(0) : experts["moving"]}};
      std::printf("%s\n", all.dump(2, ' ', false, json::error_handler_t::replace).c_str());
      return absl::OkStatus();
    };
  });
}

}  // namespace tutti::cli
