#include "shared/router/expert_fleet.h"

#include <algorithm>
#include <cmath>

namespace tutti::router {
namespace {

using placement::ExpertAssignment;
using placement::ExpertEntry;
using placement::ExpertPin;
using placement::ExpertPlacement;

constexpr size_t kMaxModels = 16, kMaxPins = 1 << 16;
constexpr int64_t kResendUs =
    2'000'000;                     // an assignment that a shard does not report is sent again
constexpr double kEnoughRows = 4;  // for each expert, on average: what is less is noise

bool Contains(const std::vector<WorkerHandle>& all, WorkerHandle one) {
  return std::binary_search(all.begin(), all.end(), one);
}
void Insert(std::vector<WorkerHandle>* all, WorkerHandle one) {
  const auto at = std::lower_bound(all->begin(), all->end(), one);
  if (at == all->end() || *at != one) all->insert(at, one);
}

}  // namespace

ExpertFleet::Model* ExpertFleet::FindOrAdd(const WorkerReport& report, int64_t now_us) {
  const placement::ExpertReport& e = *report.experts;
  const auto it = models_.find(report.fingerprint);
  if (it != models_.end()) {
    Model& m = it->second;
    return m.num_layers == e.num_layers && m.experts_per_layer == e.experts_per_layer ? &m
                                                                                      : nullptr;
  }
  if (models_.size() >= kMaxModels) {  // one without shards makes room
    const auto empty = std::find_if(models_.begin(), models_.end(),
                                    [](const auto& m) { return m.second.shards.empty(); });
    if (empty == models_.end()) return nullptr;
    models_.erase(empty);
  }
  Model& m = models_[report.fingerprint];
  m.num_layers = e.num_layers;
  m.experts_per_layer = e.experts_per_layer;
  const size_t n = size_t{e.num_layers} * e.experts_per_layer;
  m.plan.resize(n);
  m.view.resize(n);
  m.load.resize(n, 0);
  // From the clock, so that a router that starts again goes on above what it had.
  m.first_epoch = m.assignment_epoch = m.epoch =
      static_cast<uint64_t>(std::max<int64_t>(1, now_us));
  m.faded_us = m.progress_us = now_us;
  m.look_us = now_us + options_.rebalance_us;
  return &m;
}

void ExpertFleet::OnReport(WorkerHandle handle, const WorkerReport& report, int64_t now_us,
                           Actions* actions) {
  const bool serves = report.experts != nullptr && (report.state == WorkerState::kReady ||
                                                    report.state == WorkerState::kDraining);
  const auto known = fingerprint_of_.find(handle);
  if (known != fingerprint_of_.end() && (!serves || known->second != report.fingerprint))
    OnGone(handle, now_us, actions);
  if (!serves) return;
  Model* const m = FindOrAdd(report, now_us);
  if (m == nullptr) return;
  const bool joined = fingerprint_of_.emplace(handle, report.fingerprint).second;
  Shard& s = m->shards[handle];
  s.worker_id = report.worker_id;
  if (s.address != report.address) ++m->epoch;
  s.address = report.address;
  Measure(m, s, *report.experts, now_us);
  s.report = report.experts;
  std::vector<bool> resident(m->size(), false);
  s.pinned_here.clear();
  for (const ExpertEntry& e : s.report->entries) {
    if (e.number >= m->size()) continue;
    resident[e.number] = e.resident;
    if (e.pinned_here) s.pinned_here.insert(e.number);
  }
  const bool news = resident != s.resident;
  s.resident = std::move(resident);
  const bool wrong = !report.quarantined_by.empty();
  const bool ready = report.state == WorkerState::kReady && !wrong, changed = ready != s.ready;
  if (wrong) {  // targets are not told to ask it, also where nobody else has an expert yet
    for (Shards& shards : m->view) std::erase(shards, handle);
    if (changed) ++m->epoch;
  }
  if (changed) {
    s.ready = ready;
    if (ready) {
      Join(m, handle, now_us);
    } else {
      Leave(m, handle, now_us);
    }
  }
  if (joined && s.report->assignment_epoch != 0 && s.report->assignment_epoch < m->first_epoch) {
    // Assigned by a router that is gone: its pins are what is left of what users wanted.
    for (const ExpertEntry& e : s.report->entries) {
      if (e.pinned && e.number < m->size()) m->pins.insert({e.number, s.worker_id});
    }
  }
  if (news) {
    m->progress_us = now_us;
    Settle(m, false, now_us);
  }
  const bool behind = s.sent != nullptr && s.sent->epoch != s.report->assignment_epoch &&
                      now_us - s.sent_us >= kResendUs;
  if (news || changed || behind) Assign(m, now_us, actions);
}

void ExpertFleet::OnGone(WorkerHandle handle, int64_t now_us, Actions* actions) {
  const auto known = fingerprint_of_.find(handle);
  if (known == fingerprint_of_.end()) return;
  Model& m = models_.at(known->second);
  fingerprint_of_.erase(known);
  m.shards.erase(handle);
  for (auto* lists : {&m.plan, &m.view}) {
    for (Shards& shards : *lists) std::erase(shards, handle);
  }
  ++m.epoch;
  Leave(&m, handle, now_us);
  Assign(&m, now_us, actions);
}

// Rows since the shard's last report; a lower number is a new life, which counts from 0.
void ExpertFleet::Measure(Model* m, const Shard& shard, const placement::ExpertReport& now,
                          int64_t now_us) {
  Fade(m, now_us);
  if (shard.report == nullptr) return;  // what it did for another router is not news
  auto before = shard.report->entries.begin();
  for (const ExpertEntry& e : now.entries) {
    while (before != shard.report->entries.end() && before->number < e.number) ++before;
    const bool found = before != shard.report->entries.end() && before->number == e.number;
    const uint64_t rows = found && before->rows <= e.rows ? e.rows - before->rows : e.rows;
    if (e.number < m->size()) m->load[e.number] += static_cast<double>(rows);
  }
}

void ExpertFleet::Fade(Model* m, int64_t now_us) {
  if (now_us - m->faded_us < 1'000'000) return;
  const double keep = std::exp2(-static_cast<double>(now_us - m->faded_us) /
                                static_cast<double>(options_.half_life_us));
  for (double& l : m->load) l *= keep;
  m->faded_us = now_us;
}

// What a shard that comes already has need not be loaded elsewhere.
void ExpertFleet::Join(Model* m, WorkerHandle handle, int64_t now_us) {
  const Shard& s = m->shards.at(handle);
  for (size_t e = 0; e < m->size(); ++e) {
    if (!s.resident[e]) continue;
    Insert(&m->plan[e], handle);
    Insert(&m->view[e], handle);
  }
  ++m->epoch;
  const bool first = m->plan_us == INT64_MAX;
  const bool had_a_router = s.report->assignment_epoch != 0;
  if (first) m->plan_us = now_us + (had_a_router ? options_.rejoin_us : options_.settle_us);
}

// What it had and nobody else has is wanted now; balance can wait until it is there.
void ExpertFleet::Leave(Model* m, WorkerHandle handle, int64_t now_us) {
  for (Shards& shards : m->plan) std::erase(shards, handle);
  MakePlan(m, /*rebalance=*/false, /*only_if_better=*/false, now_us);
  m->plan_us = std::min(m->plan_us, now_us + options_.drop_after_us);
}

placement::PlanInput ExpertFleet::Input(const Model& m, std::vector<WorkerHandle>* handles) const {
  placement::PlanInput in;
  in.num_layers = static_cast<int>(m.num_layers);
  in.experts_per_layer = static_cast<int>(m.experts_per_layer);
  in.load = m.load;
  handles->clear();
  int64_t bytes = 0, room = 0;
  for (const auto& [handle, s] : m.shards) bytes = std::max(bytes, s.report->expert_bytes);
  std::map<std::string, int> index_of;
  for (const auto& [handle, s] : m.shards) {
    if (!s.ready) continue;
    index_of[s.worker_id] = static_cast<int>(handles->size());
    const int64_t budget = s.report->memory_budget_bytes;
    in.slots.push_back(budget == 0 || bytes == 0 ? -1 : std::max<int64_t>(1, budget / bytes));
    room += in.slots.back() < 0 ? static_cast<int64_t>(m.size()) : in.slots.back();
    for (const uint32_t e : s.pinned_here)
      in.pins.push_back({static_cast<int>(e), static_cast<int>(handles->size())});
    handles->push_back(handle);
  }
  // A slot that stays free lets experts change places while both are still needed.
  if (room >= static_cast<int64_t>(m.size() + in.slots.size())) {
    for (int64_t& slots : in.slots) slots -= slots > 1 ? 1 : 0;
  }
  for (const ExpertPin& pin : m.pins) {
    const auto at = index_of.find(pin.worker_id);
    in.pins.push_back({static_cast<int>(pin.number), at == index_of.end() ? -1 : at->second});
  }
  // What is resident without a plan was loaded because it was asked for.
  for (size_t e = 0; e < m.size(); ++e) {
    auto& current = in.current.emplace_back();
    for (size_t i = 0; i < handles->size(); ++i) {
      const WorkerHandle h = (*handles)[i];
      if (m.plan[e].empty() ? m.shards.at(h).resident[e] : Contains(m.plan[e], h))
        current.push_back(static_cast<int>(i));
    }
  }
  return in;
}

void ExpertFleet::MakePlan(Model* m, bool rebalance, bool only_if_better, int64_t now_us) {
  std::vector<WorkerHandle> handles;
  const placement::PlanInput in = Input(*m, &handles);
  placement::PlanOptions options = options_.plan;
  options.rebalance = rebalance;
  const placement::Plan plan = placement::MakePlan(in, options);
  // Better: more even, or with more of the load where somebody holds its experts.
  const auto placed = [&](const auto& assignment) {
    double sum = 0, all = 0;
    for (size_t e = 0; e < m->size(); ++e) {
      all += m->load[e];
      if (!assignment[e].empty()) sum += m->load[e];
    }
    return all > 0 ? sum / all : 1;
  };
  if (only_if_better &&
      placement::Imbalance(in, in.current) <
          placement::Imbalance(in, plan.shards_of) + options_.rebalance_gain &&
      placed(plan.shards_of) < placed(m->plan) + options_.rebalance_gain) {
    return;
  }
  for (size_t e = 0; e < m->size(); ++e) {
    Shards shards;
    for (const int s : plan.shards_of[e]) shards.push_back(handles[static_cast<size_t>(s)]);
    m->plan[e] = std::move(shards);
  }
  m->progress_us = now_us;
  Settle(m, false, now_us);
}

void ExpertFleet::Settle(Model* m, bool force, int64_t now_us) {
  bool changed = false;
  m->moving.clear();
  for (size_t e = 0; e < m->size(); ++e) {
    const Shards& plan = m->plan[e];
    Shards& view = m->view[e];
    if (view == plan) continue;
    Shards next;
    for (const WorkerHandle h : plan) {
      if (force || m->shards.at(h).resident[e]) next.push_back(h);
    }
    if (next.size() < plan.size()) {
      // Not all are there: the old ones go on. With none at all any may be asked, which loads it.
      for (const WorkerHandle h : view) Insert(&next, h);
      if (next.empty()) next = plan;
      m->moving.insert(static_cast<uint32_t>(e));
    }
    if (next == view) continue;
    view = std::move(next);
    changed = true;
  }
  if (!changed) return;
  ++m->epoch;
  m->drop_us = now_us + options_.drop_after_us;
}

// Shards are told what is new at once, and what to let go of when targets know.
void ExpertFleet::Assign(Model* m, int64_t now_us, Actions* actions) {
  const bool drop = now_us >= m->drop_us;
  if (drop) m->drop_us = INT64_MAX;
  const bool may_drop = m->drop_us == INT64_MAX;
  std::map<WorkerHandle, std::vector<uint32_t>> hold;
  for (size_t e = 0; e < m->size(); ++e) {
    for (const Shards* shards : {&m->plan[e], &m->view[e]}) {
      for (const WorkerHandle h : *shards) {
        auto& numbers = hold[h];
        if (numbers.empty() || numbers.back() != e) numbers.push_back(static_cast<uint32_t>(e));
      }
    }
  }
  for (auto& [handle, s] : m->shards) {
    if (s.sent == nullptr && m->plan_us != INT64_MAX) continue;  // the plan will say
    ExpertAssignment next;
    next.hold = std::move(hold[handle]);
    if (!may_drop && s.sent != nullptr) {
      std::vector<uint32_t> both;
      std::set_union(next.hold.begin(), next.hold.end(), s.sent->hold.begin(), s.sent->hold.end(),
                     std::back_inserter(both));
      next.hold = std::move(both);
    }
    for (const uint32_t e : next.hold) {
      if (m->pins.contains({e, ""}) || m->pins.contains({e, s.worker_id})) next.pinned.push_back(e);
    }
    const bool same =
        s.sent != nullptr && s.sent->hold == next.hold && s.sent->pinned == next.pinned;
    const bool obeyed = same && s.report->assignment_epoch == s.sent->epoch;
    if (same && (obeyed || now_us - s.sent_us < kResendUs)) continue;
    next.epoch = ++m->assignment_epoch;
    s.sent = std::make_shared<const ExpertAssignment>(std::move(next));
    s.sent_us = now_us;
    actions->push_back(action::Directive{handle, 0, 0, s.sent});
  }
}

void ExpertFleet::Tick(int64_t now_us, Actions* actions) {
  for (auto& [fingerprint, m] : models_) {
    bool act = now_us >= m.drop_us;
    if (now_us >= m.plan_us) {
      m.plan_us = INT64_MAX;
      MakePlan(&m, true, false, now_us);
      act = true;
    }
    if (now_us >= m.look_us) {
      m.look_us = now_us + options_.rebalance_us;
      double rows = 0;
      for (const double l : m.load) rows += l;
      if (m.moving.empty() && rows >= kEnoughRows * static_cast<double>(m.size())) {
        MakePlan(&m, true, true, now_us);
        act = true;
      }
    }
    if (!m.moving.empty() && now_us - m.progress_us > options_.stuck_us) {
      Settle(&m, true, now_us);
      act = true;
    }
    if (act) Assign(&m, now_us, actions);
  }
}

void ExpertFleet::KeepOnly(const std::set<uint64_t>& fingerprints) {
  std::erase_if(models_, [&](const auto& m) {
    return m.second.shards.empty() && !fingerprints.contains(m.first);
  });
}

absl::StatusOr<ExpertPlacement> ExpertFleet::Pin(uint64_t fingerprint,
                                                 const std::vector<PinRequest>& pins, bool unpin,
                                                 int64_t now_us, Actions* actions) {
  if (fingerprint == 0) {
    std::erase_if(models_, [&](const auto& m) { return m.second.shards.empty(); });
    if (models_.size() > 1)
      return absl::InvalidArgumentError("fingerprint: missing; there are several models");
    if (!models_.empty()) fingerprint = models_.begin()->first;
  }
  const auto it = models_.find(fingerprint);
  if (it == models_.end()) return absl::NotFoundError("there is no model with experts on shards");
  Model& m = it->second;
  std::set<ExpertPin> next = m.pins;
  for (const PinRequest& p : pins) {
    const std::string name = std::to_string(p.layer) + ":" + std::to_string(p.expert);
    if (p.layer >= m.num_layers || p.expert >= m.experts_per_layer) {
      return absl::InvalidArgumentError(
          "pins: " + name + "; the model has " + std::to_string(m.num_layers) + " layers of " +
          std::to_string(m.experts_per_layer) + " experts, each counted from 0");
    }
    const bool known =
        p.worker_id.empty() || std::any_of(m.shards.begin(), m.shards.end(), [&](const auto& s) {
          return s.second.worker_id == p.worker_id;
        });
    const uint32_t number = p.layer * m.experts_per_layer + p.expert;
    if (unpin) {
      const size_t before = next.size();
      std::erase_if(next, [&](const ExpertPin& pin) {
        return pin.number == number && (p.worker_id.empty() || pin.worker_id == p.worker_id);
      });
      if (next.size() == before) return absl::NotFoundError("pins: " + name + " is not pinned");
      continue;
    }
    if (!known)
      return absl::NotFoundError("pins: there is no expert shard \"" + p.worker_id + "\"");
    if (next.size() >= kMaxPins) return absl::ResourceExhaustedError("pins: too many");
    next.insert({number, p.worker_id});
  }
  for (const auto& [handle, s] : m.shards) {
    const int64_t budget = s.report->memory_budget_bytes, bytes = s.report->expert_bytes;
    const auto wanted =
        static_cast<int64_t>(s.pinned_here.size() +
                             static_cast<size_t>(std::count_if(
                                 next.begin(), next.end(), [&id = s.worker_id](const ExpertPin& p) {
                                   return p.worker_id == id;
                                 })));
    if (budget > 0 && bytes > 0 && wanted > budget / bytes) {
      return absl::FailedPreconditionError("pins: " + std::to_string(wanted) + " experts on " +
                                           s.worker_id + ", which has room for " +
                                           std::to_string(budget / bytes));
    }
  }
  if (next != m.pins) {
    m.pins = std::move(next);
    MakePlan(&m, true, false, now_us);
    Assign(&m, now_us, actions);
  }
  return PlacementOf(fingerprint, m);
}

ExpertPlacement ExpertFleet::PlacementOf(uint64_t fingerprint, const Model& m) const {
  ExpertPlacement p;
  p.fingerprint = fingerprint;
  p.epoch = m.epoch;
  p.num_layers = m.num_layers;
  p.experts_per_layer = m.experts_per_layer;
  p.moving = static_cast<int32_t>(m.moving.size());
  std::map<WorkerHandle, uint32_t> index_of;
  for (const auto& [handle, s] : m.shards) {
    index_of[handle] = static_cast<uint32_t>(p.shards.size());
    p.shards.push_back(s.address);
  }
  for (const Shards& shards : m.view) {
    auto& copies = p.copies.emplace_back();
    for (const WorkerHandle h : shards) copies.push_back(index_of.at(h));
  }
  p.pins.assign(m.pins.begin(), m.pins.end());
  return p;
}

std::vector<ExpertPlacement> ExpertFleet::Placements(uint64_t known) const {
  std::vector<ExpertPlacement> out;
  for (const auto& [fingerprint, m] : models_) {
    if (m.epoch != known && !m.shards.empty()) out.push_back(PlacementOf(fingerprint, m));
  }
  return out;
}

}  // namespace tutti::router
