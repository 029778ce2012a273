// Shards that come, go, load slowly and lose messages, around ExpertFleet on a clock of the test.
#include "shared/router/expert_fleet.h"

#include "shared/router/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace tutti::router {
namespace {

using placement::ExpertPlacement;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kModel = 77;
constexpr uint32_t kLayers = 4, kWidth = 4, kExperts = kLayers * kWidth;

// Shards that do what they are told: one expert loaded in each step of 10 ms.
struct World {
  explicit World(const ExpertFleetOptions& options = {}) : fleet(options) {}

  struct Shard {
    WorkerReport report;
    std::set<uint32_t> resident, hold, pinned;
    std::vector<uint64_t> rows = std::vector<uint64_t>(kExperts, 0);
    uint64_t epoch = 0;
    bool loads = true, deaf = false;
  };

  void Add(WorkerHandle handle, int64_t budget = 0) {
    Shard& s = shards[handle];
    s.report.worker_id = "e" + std::to_string(handle);
    s.report.address = "a" + std::to_string(handle);
    s.report.kind = WorkerKind::kExpert;
    s.report.state = WorkerState::kReady;
    s.report.fingerprint = kModel;
    budgets[handle] = budget;
    Report(handle);
  }
  void Report(WorkerHandle handle) {
    Shard& s = shards.at(handle);
    auto r = std::make_shared<placement::ExpertReport>();
    *r = {.num_layers = kLayers,
          .experts_per_layer = kWidth,
          .memory_budget_bytes = budgets[handle],
          .expert_bytes = 1,
          .assignment_epoch = s.epoch};
    for (uint32_t e = 0; e < kExperts; ++e) {
      if (s.resident.contains(e) || s.rows[e] > 0)
        r->entries.push_back({.number = e,
                              .resident = s.resident.contains(e),
                              .pinned = s.pinned.contains(e),
                              .rows = s.rows[e]});
    }
    s.report.experts = r;
    fleet.OnReport(handle, s.report, now, &actions);
    Obey();
  }
  void Obey() {
    for (const Action& a : std::exchange(actions, {})) {
      const auto& d = std::get<action::Directive>(a);
      const auto it = shards.find(d.worker);
      if (it == shards.end() || it->second.deaf || d.assign == nullptr) continue;
      Shard& s = it->second;
      s.epoch = d.assign->epoch;
      s.hold = {d.assign->hold.begin(), d.assign->hold.end()};
      s.pinned = {d.assign->pinned.begin(), d.assign->pinned.end()};
      std::erase_if(s.resident, [&](uint32_t e) { return !s.hold.contains(e); });
    }
  }
  // Whatever targets are told, somebody must have it (or nobody could).
  void Check() {
    for (const ExpertPlacement& p : fleet.Placements(0)) {
      for (size_t e = 0; e < p.copies.size(); ++e) {
        for (const uint32_t s : p.copies[e]) {
          const bool known = std::any_of(shards.begin(), shards.end(), [&](const auto& shard) {
            return shard.second.report.address == p.shards[s];
          });
          ASSERT_TRUE(known) << "expert " << e << " on a shard that is gone";
        }
      }
    }
  }
  void Step() {
    now += 10'000;
    for (auto& [handle, s] : shards) {
      for (const uint32_t e : s.hold) {
        if (s.loads && !s.resident.contains(e) &&
            (budgets[handle] == 0 || static_cast<int64_t>(s.resident.size()) < budgets[handle])) {
          s.resident.insert(e);
          break;
        }
      }
    }
    std::vector<WorkerHandle> all;
    for (const auto& [handle, s] : shards) all.push_back(handle);
    for (const WorkerHandle h : all) Report(h);
    fleet.Tick(now, &actions);
    Obey();
    Check();
  }
  void Run(double seconds) {
    for (int64_t end = now + static_cast<int64_t>(seconds * 1e6);
         now < end && !::testing::Test::HasFatalFailure();) {
      Step();
    }
  }
  ExpertPlacement Placement() {
    const auto all = fleet.Placements(0);
    return all.empty() ? ExpertPlacement{} : all[0];
  }
  // Addresses that are asked for an expert.
  std::vector<std::string> Of(uint32_t e) {
    const ExpertPlacement p = Placement();
    std::vector<std::string> out;
    if (e < p.copies.size()) {
      for (const uint32_t s : p.copies[e]) out.push_back(p.shards[s]);
    }
    return out;
  }
  bool EveryCopyIsResident() {
    const ExpertPlacement p = Placement();
    for (uint32_t e = 0; e < kExperts; ++e) {
      if (p.copies[e].empty()) return false;
      for (const uint32_t s : p.copies[e]) {
        for (const auto& [handle, shard] : shards) {
          if (shard.report.address == p.shards[s] && !shard.resident.contains(e)) return false;
        }
      }
    }
    return true;
  }

  ExpertFleet fleet;
  Actions actions;
  std::map<WorkerHandle, Shard> shards;
  std::map<WorkerHandle, int64_t> budgets;
  int64_t now = 1'000'000;
};

TEST(ExpertFleetTest, ShardsThatComeTogetherShareTheExpertsAndLoadThem) {
  World w;
  w.Add(1);
  w.Add(2);
  EXPECT_THAT(w.Of(0), IsEmpty()) << "nothing is planned before others had time to come";
  w.Run(1);
  EXPECT_EQ(w.shards[1].resident.size(), 8u);
  EXPECT_EQ(w.shards[2].resident.size(), 8u);
  EXPECT_TRUE(w.EveryCopyIsResident());
  EXPECT_EQ(w.Placement().moving, 0);
}

TEST(ExpertFleetTest, AnExpertIsAskedOfTheOldShardUntilTheNewOneHasItAndIsDroppedAfterThat) {
  World w;
  w.Add(1);
  w.Run(3);
  const uint64_t epoch = w.Placement().epoch;
  w.Add(2);
  w.shards[2].loads = false;
  w.Run(1);
  EXPECT_GT(w.Placement().moving, 0);
  for (uint32_t e = 0; e < kExperts; ++e) EXPECT_THAT(w.Of(e), ElementsAre("a1"));
  EXPECT_EQ(w.shards[1].resident.size(), size_t{kExperts});
  ASSERT_FALSE(w.shards[2].hold.empty());
  const uint32_t moved = *w.shards[2].hold.begin();

  w.shards[2].loads = true;
  w.Run(0.3);
  EXPECT_THAT(w.Of(moved), ElementsAre("a2"));
  EXPECT_GT(w.Placement().epoch, epoch);
  EXPECT_TRUE(w.shards[1].resident.contains(moved)) << "a target may not know yet";
  w.Run(2);
  EXPECT_FALSE(w.shards[1].resident.contains(moved));
  EXPECT_EQ(w.shards[1].resident.size() + w.shards[2].resident.size(), size_t{kExperts});
}

TEST(ExpertFleetTest, AQuarantinedShardIsAskedForNothingAndHoldsNothing) {
  World w;
  for (const WorkerHandle h : {1, 2, 3}) w.Add(h);
  w.Run(3);
  const uint64_t epoch = w.Placement().epoch;
  w.shards[2].report.quarantined_by = "t0";
  w.Report(2);
  EXPECT_GT(w.Placement().epoch, epoch);
  for (uint32_t e = 0; e < kExperts; ++e)
    EXPECT_THAT(w.Of(e), ::testing::Not(::testing::Contains("a2"))) << e;
  w.Run(3);
  EXPECT_TRUE(w.EveryCopyIsResident());
  for (uint32_t e = 0; e < kExperts; ++e)
    EXPECT_THAT(w.Of(e), ::testing::Not(::testing::Contains("a2"))) << e;
  EXPECT_TRUE(w.shards[2].hold.empty());
  EXPECT_EQ(w.shards[1].resident.size() + w.shards[3].resident.size(), size_t{kExperts});
  // A new process at the same address.
  w.shards[2].report.quarantined_by = "";
  w.Run(3);
  EXPECT_FALSE(w.shards[2].hold.empty());
}

// With no other shard there is nothing to place; the shard's own number lasts.
TEST(FleetTest, ATargetsReportQuarantinesAShardsProcessUntilAnotherTakesItsPlace) {
  RouterOptions options;
  Fleet fleet(options);
  Actions actions;
  const auto shard = [&](WorkerHandle handle, uint64_t process) {
    WorkerReport r{.worker_id = "e0", .kind = WorkerKind::kExpert, .address = "a0"};
    r.state = WorkerState::kReady;
    r.fingerprint = kModel;
    auto experts = std::make_shared<placement::ExpertReport>();
    experts->num_layers = kLayers;
    experts->experts_per_layer = kWidth;
    experts->process = process;
    r.experts = experts;
    EXPECT_TRUE(fleet.OnReport(handle, r, 1, &actions).ok());
  };
  const auto target = [&](std::vector<uint64_t> quarantined) {
    WorkerReport r{.worker_id = "t0", .kind = WorkerKind::kTarget, .address = "t"};
    r.state = WorkerState::kReady;
    r.quarantined = std::move(quarantined);
    EXPECT_TRUE(fleet.OnReport(9, r, 1, &actions).ok());
  };
  const auto by = [&] {
    for (const WorkerView& w : fleet.View()) {
      if (w.report.kind == WorkerKind::kExpert) return w.report.quarantined_by;
    }
    return std::string("none");
  };
  shard(1, 77);
  target({0, 5, 78});
  EXPECT_EQ(by(), "");
  target({77});
  EXPECT_EQ(by(), "t0");
  EXPECT_EQ(fleet.TakeQuarantined().size(), 1u);
  target({77});
  EXPECT_THAT(fleet.TakeQuarantined(), IsEmpty()) << "told once";
  shard(1, 77);
  EXPECT_EQ(by(), "t0");
  fleet.OnClosed(9, 2, &actions);  // the target goes; the shard joins anew
  fleet.OnClosed(1, 2, &actions);
  shard(2, 77);
  EXPECT_EQ(by(), "t0");
  fleet.OnClosed(2, 3, &actions);
  shard(3, 90);  // it was started again
  EXPECT_EQ(by(), "");
}

TEST(ExpertFleetTest, WhatADeadShardHadIsAskedOfOthersAtOnce) {
  World w;
  for (const WorkerHandle h : {1, 2, 3}) w.Add(h);
  w.Run(3);
  std::set<uint32_t> others;
  for (uint32_t e = 0; e < kExperts; ++e) {
    if (w.Of(e) != std::vector<std::string>{"a2"}) others.insert(e);
  }
  std::map<uint32_t, std::vector<std::string>> before;
  for (const uint32_t e : others) before[e] = w.Of(e);
  w.shards.erase(2);
  w.fleet.OnGone(2, w.now, &w.actions);
  w.Obey();
  w.Check();
  for (uint32_t e = 0; e < kExperts; ++e) {
    ASSERT_EQ(w.Of(e).size(), 1u);
    EXPECT_TRUE(!others.contains(e) || w.Of(e) == before[e]) << "only its experts move";
  }
  w.Run(3);
  EXPECT_TRUE(w.EveryCopyIsResident());
}

TEST(ExpertFleetTest, AShardThatDrainsAnswersUntilOthersHaveWhatItHeld) {
  World w;
  w.Add(1);
  w.Add(2);
  w.Run(3);
  const uint32_t of_two = *w.shards[2].resident.begin();
  w.shards[1].loads = false;
  w.shards[2].report.state = WorkerState::kDraining;
  w.Run(0.5);
  EXPECT_THAT(w.Of(of_two), ElementsAre("a2"));
  w.shards[1].loads = true;
  w.Run(0.5);
  EXPECT_THAT(w.Of(of_two), ElementsAre("a1"));
  EXPECT_FALSE(w.shards[2].hold.empty());
  w.Run(2);
  EXPECT_TRUE(w.shards[2].hold.empty()) << "it may go";
}

TEST(ExpertFleetTest, TheLastShardThatDrainsHasNobodyToWaitFor) {
  World w;
  w.Add(1);
  w.Run(3);
  w.shards[1].report.state = WorkerState::kDraining;
  w.Run(1.5);
  EXPECT_TRUE(w.shards[1].hold.empty());
}

TEST(ExpertFleetTest, AHotExpertGetsASecondShard) {
  World w;
  w.Add(1);
  w.Add(2);
  w.Run(3);
  for (int i = 0; i < 100; ++i) {
    for (auto& [handle, s] : w.shards) {
      for (const uint32_t e : s.resident) s.rows[e] += e % kWidth == 1 ? 40 : 1;
    }
    w.Run(0.1);
  }
  EXPECT_THAT(w.Of(1), UnorderedElementsAre("a1", "a2"));
  EXPECT_EQ(w.Of(0).size(), 1u);
}

// Room for half of them, and targets ask for the other half: those that they keep themselves are
// not worth the room.
TEST(ExpertFleetTest, ExpertsThatNobodyAsksForGiveWayToThoseThatHaveNoPlace) {
  World w;
  w.Add(1, kExperts / 4);
  w.Add(2, kExperts / 4);
  w.Run(2);
  std::set<uint32_t> wanted;
  for (uint32_t e = 0; e < kExperts; ++e) {
    if (w.Of(e).empty()) wanted.insert(e);
  }
  ASSERT_EQ(wanted.size(), kExperts / 2);
  for (int i = 0; i < 1500; ++i) {
    for (const uint32_t e : wanted) ++w.shards.at(1 + e % 2).rows[e];  // loaded when asked for
    w.Step();
  }
  for (uint32_t e = 0; e < kExperts; ++e) EXPECT_EQ(w.Of(e).size(), wanted.contains(e) ? 1u : 0u);
  EXPECT_EQ(w.Placement().moving, 0);
}

TEST(ExpertFleetTest, NoiseMovesNothing) {
  World w;
  w.Add(1);
  w.Add(2);
  w.Run(3);
  const ExpertPlacement before = w.Placement();
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    for (auto& [handle, s] : w.shards) {
      for (const uint32_t e : s.resident) s.rows[e] += random() % 3;
    }
    w.Run(0.1);
  }
  EXPECT_EQ(w.Placement().epoch, before.epoch);
  EXPECT_EQ(w.Placement().copies, before.copies);
}

TEST(ExpertFleetTest, APinIsHeldWherePinnedAndForgottenWhenUnpinned) {
  World w;
  w.Add(1);
  w.Add(2);
  w.Run(3);
  const uint32_t of_one = *w.shards[1].resident.begin();
  auto pinned =
      w.fleet.Pin(0, {{of_one / kWidth, of_one % kWidth, "e2"}}, false, w.now, &w.actions);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  ASSERT_EQ(pinned->pins.size(), 1u);
  w.Obey();
  w.Run(3);
  EXPECT_TRUE(w.shards[2].resident.contains(of_one));
  EXPECT_THAT(w.shards[2].pinned, ElementsAre(of_one));
  EXPECT_THAT(w.Of(of_one), ::testing::Contains("a2"));
  ASSERT_TRUE(
      w.fleet.Pin(0, {{of_one / kWidth, of_one % kWidth, ""}}, true, w.now, &w.actions).ok());
  w.Obey();
  w.Run(0.1);
  EXPECT_THAT(w.shards[2].pinned, IsEmpty());

  const auto code = [&](uint64_t model, ExpertFleet::PinRequest pin, bool unpin) {
    return w.fleet.Pin(model, {pin}, unpin, w.now, &w.actions).status().code();
  };
  EXPECT_EQ(code(kModel, {kLayers, 0, ""}, false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kModel, {0, kWidth, ""}, false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kModel, {0, 0, "nobody"}, false), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(kModel, {0, 0, ""}, true), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(5, {0, 0, ""}, false), absl::StatusCode::kNotFound);
}

TEST(ExpertFleetTest, MorePinsThanFitAreRefused) {
  World w;
  w.Add(1, /*budget=*/2);
  w.Run(1);
  std::vector<ExpertFleet::PinRequest> pins = {{0, 0, "e1"}, {0, 1, "e1"}};
  EXPECT_TRUE(w.fleet.Pin(0, pins, false, w.now, &w.actions).ok());
  pins.push_back({0, 2, "e1"});
  EXPECT_TRUE(absl::IsFailedPrecondition(w.fleet.Pin(0, pins, false, w.now, &w.actions).status()));
}

TEST(ExpertFleetTest, ARouterThatStartsAgainLearnsPlacesAndPinsFromTheShards) {
  World w;
  w.Add(1);
  w.Add(2);
  w.Run(3);
  const uint32_t of_two = *w.shards[2].resident.begin();
  ASSERT_TRUE(
      w.fleet.Pin(0, {{of_two / kWidth, of_two % kWidth, "e2"}}, false, w.now, &w.actions).ok());
  w.Obey();
  w.Run(1);
  World again;
  again.now = w.now + 1'000'000;
  again.shards = w.shards;
  again.Run(5);
  for (const WorkerHandle h : {1, 2}) EXPECT_EQ(again.shards[h].resident, w.shards[h].resident);
  EXPECT_THAT(again.shards[2].pinned, ElementsAre(of_two));
  EXPECT_GT(again.Placement().epoch, w.Placement().epoch);
}

TEST(ExpertFleetTest, AnAssignmentThatWasLostIsSentAgain) {
  World w;
  w.Add(1);
  w.shards[1].deaf = true;
  w.Run(1);
  EXPECT_THAT(w.shards[1].hold, IsEmpty());
  w.shards[1].deaf = false;
  w.Run(3);
  EXPECT_EQ(w.shards[1].resident.size(), size_t{kExperts});
}

TEST(ExpertFleetTest, FullShardsThatChangePlacesGetThereInTheEnd) {
  ExpertFleetOptions options;
  options.stuck_us = 2'000'000;
  World w(options);
  w.Add(1, kExperts / 2);
  w.Add(2, kExperts / 2);
  w.Run(3);
  ASSERT_TRUE(w.EveryCopyIsResident());
  // Experts pinned to the other shard, both ways.
  std::vector<ExpertFleet::PinRequest> pins;
  for (const WorkerHandle h : {1, 2}) {
    for (const uint32_t e : w.shards[h].resident)
      pins.push_back({e / kWidth, e % kWidth, h == 1 ? "e2" : "e1"});
  }
  ASSERT_TRUE(w.fleet.Pin(0, pins, false, w.now, &w.actions).ok());
  w.Obey();
  w.Run(10);
  EXPECT_TRUE(w.EveryCopyIsResident());
  EXPECT_EQ(w.Placement().moving, 0);
}

// Anything may happen; what targets are told stays sound, and when it is over all is placed.
TEST(ExpertFleetTest, WhateverHappensEveryExpertIsPlacedInTheEnd) {
  for (uint64_t seed = 1; seed <= 60 && !HasFatalFailure(); ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    World w;
    WorkerHandle next = 1;
    w.Add(next++);
    for (int i = 0; i < 300 && !HasFatalFailure(); ++i) {
      const auto any = [&] { return std::next(w.shards.begin(), random() % w.shards.size()); };
      switch (random() % 12) {
        case 0:
          if (w.shards.size() < 6) w.Add(next++, random() % 2 == 0 ? 0 : 12);
          break;
        case 1:
          if (w.shards.size() > 1) {
            const WorkerHandle h = any()->first;
            w.shards.erase(h);
            w.fleet.OnGone(h, w.now, &w.actions);
          }
          break;
        case 2:
          any()->second.loads = random() % 2 == 0;
          break;
        case 3:
          any()->second.deaf = random() % 2 == 0;
          break;
        case 4:
          any()->second.report.state =
              random() % 2 == 0 ? WorkerState::kReady : WorkerState::kDraining;
          break;
        case 5:
          for (uint64_t& rows : any()->second.rows) rows += random() % 50;
          break;
        case 6:
          (void)w.fleet.Pin(0, {{static_cast<uint32_t>(random() % kLayers), 0, ""}},
                            random() % 2 == 0, w.now, &w.actions);
          break;
        default:
          break;
      }
      w.Obey();
      w.Check();
      w.Run(0.05);
    }
    w.Add(next++);
    for (auto& [handle, s] : w.shards) {
      s.loads = true;
      s.deaf = false;
      s.report.state = WorkerState::kReady;
    }
    w.Run(40);
    EXPECT_TRUE(w.EveryCopyIsResident());
    EXPECT_EQ(w.Placement().moving, 0);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace tutti::router
