#include "tools/cli/experts_view.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "shared/base/strings.h"
#include "shared/weights/inspect.h"
#include "shared/wire/fleet.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

double Share(uint64_t part, uint64_t all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

std::string Percent(const json& share) {
  return absl::StrFormat("%.1f%%", 100 * share.get<double>());
}
std::string Names(const json& names) {
  std::vector<std::string> all;
  for (const json& n : names) all.push_back(Printable(n.get<std::string>(), 40));
  return all.empty() ? "-" : absl::StrJoin(all, ",");
}

}  // namespace

std::map<std::string, std::string> ShardNames(const ClusterState& state,
                                              const fleet::v1::GetFleetResponse& fleet) {
  std::map<std::string, std::string> names;
  for (const ProcessState& p : state.processes) {
    for (const auto& w : fleet.workers()) {
      if (p.kind == "expert" && p.pid != 0 && w.pid() == p.pid &&
          w.kind() == fleet::v1::WORKER_KIND_EXPERT)
        names[w.worker_id()] = p.name;
    }
  }
  return names;
}

json ExpertsJson(const fleet::v1::GetFleetResponse& fleet,
                 const std::map<std::string, std::string>& names) {
  if (fleet.placements().empty()) return nullptr;
  const auto p = wire::PlacementFromProto(fleet.placements(0));
  if (!p.ok()) return nullptr;
  const size_t num_experts = p->copies.size();
  std::vector<std::string> name_at(p->shards.size());
  struct Expert {
    json resident = json::array(), pinned = json::array();
    uint64_t rows = 0;
  };
  std::vector<Expert> experts(num_experts);
  std::vector<uint64_t> layer_rows(p->num_layers, 0);
  uint64_t all_rows = 0;
  json shards = json::array();
  for (const fleet::v1::WorkerReport& w : fleet.workers()) {
    if (w.kind() != fleet::v1::WORKER_KIND_EXPERT || w.fingerprint() != p->fingerprint) continue;
    const auto report = wire::ExpertReportFromProto(w.experts());
    if (!report.ok()) continue;
    const auto found = names.find(w.worker_id());
    const std::string name = found == names.end() ? w.worker_id() : found->second;
    int64_t assigned = 0, resident = 0, pinned = 0;
    for (size_t s = 0; s < p->shards.size(); ++s) {
      if (p->shards[s] != w.address()) continue;
      name_at[s] = name;
      for (const auto& copies : p->copies) assigned += std::count(copies.begin(), copies.end(), s);
    }
    uint64_t rows = 0, queue_us = 0, run_us = 0;
    for (const placement::ExpertEntry& e : report->entries) {
      if (e.number >= num_experts) continue;
      Expert& expert = experts[e.number];
      if (e.resident) expert.resident.push_back(name);
      if (e.pinned || e.pinned_here) expert.pinned.push_back(name);
      resident += e.resident ? 1 : 0;
      pinned += e.pinned || e.pinned_here ? 1 : 0;
      expert.rows += e.rows;
      layer_rows[e.number / p->experts_per_layer] += e.rows;
      rows += e.rows;
      queue_us += e.queue_us;
      run_us += e.run_us;
    }
    all_rows += rows;
    shards.push_back({{"id", w.worker_id()},
                      {"name", name},
                      {"state", w.state() == fleet::v1::WORKER_STATE_READY      ? "ready"
                                : w.state() == fleet::v1::WORKER_STATE_DRAINING ? "draining"
                                                                                : "not ready"},
                      {"assigned", assigned},
                      {"resident", resident},
                      {"pinned", pinned},
                      {"rows", rows},
                      {"memory_bytes", report->memory_bytes},
                      {"memory_budget_bytes", report->memory_budget_bytes},
                      {"queue_us", queue_us},
                      {"run_us", run_us}});
  }
  for (json& s : shards) s["share"] = Share(s["rows"].get<uint64_t>(), all_rows);
  std::sort(shards.begin(), shards.end(),
            [](const json& a, const json& b) { return a["name"] < b["name"]; });
  json table = json::array();
  for (size_t e = 0; e < num_experts; ++e) {
    const size_t layer = e / p->experts_per_layer;
    json on = json::array();
    for (const uint32_t s : p->copies[e])
      on.push_back(name_at[s].empty() ? p->shards[s] : name_at[s]);
    table.push_back({{"layer", layer},
                     {"expert", e % p->experts_per_layer},
                     {"shards", std::move(on)},
                     {"resident", std::move(experts[e].resident)},
                     {"pinned", std::move(experts[e].pinned)},
                     {"rows", experts[e].rows},
                     {"share", Share(experts[e].rows, layer_rows[layer])}});
  }
  return {{"shards", std::move(shards)}, {"experts", std::move(table)},
          {"epoch", p->epoch},           {"moving", p->moving},
          {"num_layers", p->num_layers}, {"experts_per_layer", p->experts_per_layer}};
}

std::string ExpertsTable(const json& e, size_t max_rows) {
  const auto layers = e["num_layers"].get<int>(), width = e["experts_per_layer"].get<int>();
  const auto moving = e["moving"].get<int>();
  std::string out = absl::StrFormat("experts: %d layers of %d%s\n", layers, width,
                                    moving > 0 ? absl::StrCat(", ", moving, " on the move") : "");
  absl::StrAppendFormat(&out, "%-12s %-9s %8s %8s %6s %10s %7s %9s %9s %9s %9s\n", "SHARD", "STATE",
                        "ASSIGNED", "RESIDENT", "PINNED", "ROWS", "LOAD", "MEMORY", "BUDGET",
                        "QUEUE/ROW", "RUN/ROW");
  for (const json& s : e["shards"]) {
    const auto rows = s["rows"].get<uint64_t>();
    const auto bytes = [&](const char* key) {
      return weights::HumanBytes(
          static_cast<uint64_t>(std::max<int64_t>(0, s[key].get<int64_t>())));
    };
    const auto per_row = [&](const char* key) {
      return rows == 0
                 ? std::string("-")
                 : absl::StrFormat("%.0f us", s[key].get<double>() / static_cast<double>(rows));
    };
    absl::StrAppendFormat(&out, "%-12s %-9s %8d %8d %6d %10d %7s %9s %9s %9s %9s\n",
                          Printable(s["name"].get<std::string>(), 40),
                          s["state"].get<std::string>(), s["assigned"].get<int64_t>(),
                          s["resident"].get<int64_t>(), s["pinned"].get<int64_t>(), rows,
                          Percent(s["share"]), bytes("memory_bytes"),
                          s["memory_budget_bytes"] == 0 ? "no bound" : bytes("memory_budget_bytes"),
                          per_row("queue_us"), per_row("run_us"));
  }
  std::vector<const json*> rows;
  for (const json& x : e["experts"]) rows.push_back(&x);
  const bool some = rows.size() > max_rows;
  if (some) {
    std::stable_sort(rows.begin(), rows.end(), [](const json* a, const json* b) {
      return (*a)["rows"].get<uint64_t>() > (*b)["rows"].get<uint64_t>();
    });
    absl::StrAppendFormat(&out, "\nthe %d of %d experts with the most rows ('--json' has all):\n",
                          max_rows, rows.size());
    rows.resize(max_rows);
  } else {
    out += "\n";
  }
  absl::StrAppendFormat(&out, "%-8s %10s %9s  %-24s %s\n", "EXPERT", "ROWS", "OF LAYER", "SHARDS",
                        "PINNED ON");
  for (const json* x : rows) {
    const json& r = *x;
    absl::StrAppendFormat(&out, "%-8s %10d %9s  %-24s %s\n",
                          absl::StrCat(r["layer"].get<int>(), ":", r["expert"].get<int>()),
                          r["rows"].get<uint64_t>(), Percent(r["share"]), Names(r["shards"]),
                          Names(r["pinned"]));
  }
  return out;
}

}  // namespace tutti::cli
