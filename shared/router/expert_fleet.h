// Which expert shards hold which experts: measures load from the shards' reports, plans
// (shared/placement/planner.h), and moves experts while they are used. No I/O.
//
// A copy moves in three steps, so that no target is ever sent to a shard that still has to load:
// the new shard is told to hold it; once it reports it resident, the placement that targets ask for
// names it, and not the old one; when targets have had time to see that, the old shard is told to
// let go. All of it is a hint: a shard answers for any expert, so whatever is late, lost or wrong
// here costs time and no answer.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "shared/placement/planner.h"
#include "shared/router/types.h"

namespace tutti::router {

// Thread safety: none. Determinism: free (speed only).
class ExpertFleet {
 public:
  explicit ExpertFleet(const ExpertFleetOptions& options) : options_(options) {}

  // `report.kind` is kExpert. With `quarantined_by` set it is to hold nothing. Actions: Directive
  // with `assign`; its epoch and interval are the caller's to fill in.
  void OnReport(WorkerHandle handle, const WorkerReport& report, int64_t now_us, Actions* actions);
  void OnGone(WorkerHandle handle, int64_t now_us, Actions* actions);
  void Tick(int64_t now_us, Actions* actions);

  // Pins or unpins; returns all pins of the model. `fingerprint` 0: the only one. Pins by layer and
  // expert are checked here. Errors: as FleetService.PinExperts
  struct PinRequest {
    uint32_t layer = 0, expert = 0;
    std::string worker_id;
  };
  absl::StatusOr<placement::ExpertPlacement> Pin(uint64_t fingerprint,
                                                 const std::vector<PinRequest>& pins, bool unpin,
                                                 int64_t now_us, Actions* actions);

  // Of every model with experts, but for the one that has epoch `known`.
  std::vector<placement::ExpertPlacement> Placements(uint64_t known) const;

 private:
  using Shards = std::vector<WorkerHandle>;  // ascending

  struct Shard {
    std::string worker_id, address;
    bool ready = false;  // else it drains or is quarantined, and others take over
    std::shared_ptr<const placement::ExpertReport> report;
    std::vector<bool> resident;  // [experts]
    std::set<uint32_t> pinned_here;
    std::shared_ptr<const placement::ExpertAssignment> sent;
    int64_t sent_us = 0;
  };
  struct Model {
    uint32_t num_layers = 0, experts_per_layer = 0;
    std::map<WorkerHandle, Shard> shards;
    std::vector<Shards> plan, view;  // [experts]
    std::vector<double> load;        // [experts] rows, older ones fading
    std::set<placement::ExpertPin> pins;
    std::set<uint32_t> moving;  // experts whose plan is not the view yet
    uint64_t first_epoch = 0, epoch = 0, assignment_epoch = 0;
    int64_t faded_us = 0;
    int64_t plan_us = INT64_MAX;  // when to plan because shards changed
    int64_t look_us = 0;          // when to look at the load
    int64_t drop_us = INT64_MAX;  // when shards may be told to let go
    int64_t progress_us = 0;      // a copy became resident, or a plan was made
    size_t size() const { return plan.size(); }
  };

  Model* FindOrAdd(const WorkerReport& report, int64_t now_us);
  void Measure(Model* m, const Shard& shard, const placement::ExpertReport& now, int64_t now_us);
  void Join(Model* m, WorkerHandle handle, int64_t now_us);
  void Leave(Model* m, WorkerHandle handle, int64_t now_us);
  placement::PlanInput Input(const Model& m, std::vector<WorkerHandle>* handles) const;
  // Makes a plan; with `only_if_better` keeps the old one unless that gains enough.
  void MakePlan(Model* m, bool rebalance, bool only_if_better, int64_t now_us);
  // Views follow plans as far as copies are resident; `force`: without waiting.
  void Settle(Model* m, bool force, int64_t now_us);
  void Assign(Model* m, int64_t now_us, Actions* actions);
  void Fade(Model* m, int64_t now_us);
  placement::ExpertPlacement PlacementOf(uint64_t fingerprint, const Model& m) const;

  const ExpertFleetOptions options_;
  std::map<uint64_t, Model> models_;  // by fingerprint
  std::map<WorkerHandle, uint64_t> fingerprint_of_;
};

}  // namespace tutti::router
