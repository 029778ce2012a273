#include "shared/wire/fleet.h"

#include <gtest/gtest.h>

namespace tutti::wire {
namespace {

TEST(FleetWireTest, AReportComesBackAsItWent) {
  router::WorkerReport r;
  r.worker_id = "target-h-1";
  r.address = "127.0.0.1:1";
  r.metrics_address = "127.0.0.1:2";
  r.host = "h";
  r.model = "m";
  r.pid = 7;
  r.fingerprint = ~uint64_t{0};
  r.tokenizer_fingerprint = 5;
  r.load = {1, 2, 3, 4, 5, 6.5};
  for (int kind = 0; kind <= static_cast<int>(router::WorkerKind::kReward); ++kind) {
    for (int state = 0; state <= static_cast<int>(router::WorkerState::kDead); ++state) {
      r.kind = static_cast<router::WorkerKind>(kind);
      r.state = static_cast<router::WorkerState>(state);
      fleet::v1::WorkerReport proto;
      ReportToProto(r, true, &proto);
      const auto back = ReportFromProto(proto);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->kind, r.kind);
      EXPECT_EQ(back->state, r.state);
      EXPECT_EQ(back->worker_id, r.worker_id);
      EXPECT_EQ(back->fingerprint, r.fingerprint);
      EXPECT_EQ(back->load.tokens_per_s, 6.5);
    }
  }
}

TEST(FleetWireTest, WhatTargetsFoundWrongTravels) {
  fleet::v1::WorkerReport proto;
  for (uint64_t i = 1; i <= 100; ++i) proto.add_quarantined()->set_process(i);
  proto.mutable_experts()->set_num_layers(1);
  proto.mutable_experts()->set_experts_per_layer(1);
  proto.mutable_experts()->set_process(42);
  auto report = ReportFromProto(proto);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->quarantined.size(), 64u) << "bounded";
  EXPECT_EQ(report->quarantined[0], 1u);
  EXPECT_EQ(report->experts->process, 42u);
  report->quarantined_by = "t0";
  fleet::v1::WorkerReport view;
  ReportToProto(*report, false, &view);
  EXPECT_EQ(view.quarantined_by(), "t0");
  EXPECT_EQ(view.experts().process(), 42u);
}

TEST(FleetWireTest, NumbersOfANewerVersionAreUnknownNotAnything) {
  fleet::v1::WorkerReport proto;
  proto.set_kind(static_cast<fleet::v1::WorkerKind>(99));
  proto.set_state(static_cast<fleet::v1::WorkerState>(-3));
  EXPECT_EQ(ReportFromProto(proto)->kind, router::WorkerKind::kUnknown);
  EXPECT_EQ(ReportFromProto(proto)->state, router::WorkerState::kUnknown);
}

placement::ExpertReport Experts() {
  placement::ExpertReport r{.num_layers = 58,
                            .experts_per_layer = 256,
                            .memory_bytes = 1,
                            .memory_budget_bytes = 2,
                            .expert_bytes = 3,
                            .assignment_epoch = 4};
  r.entries = {{.number = 0, .resident = true, .rows = 7, .queue_us = 8, .run_us = 9},
               {.number = 300, .pinned = true, .rows = uint64_t{1} << 40},
               {.number = 14847, .resident = true, .pinned_here = true}};
  return r;
}

TEST(FleetWireTest, ExpertsComeBackAsTheyWent) {
  const placement::ExpertReport r = Experts();
  fleet::v1::ExpertReport proto;
  ExpertReportToProto(r, true, &proto);
  const auto back = ExpertReportFromProto(proto);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->expert_bytes, 3);
  EXPECT_EQ(back->assignment_epoch, 4u);
  ASSERT_EQ(back->entries.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(back->entries[i].number, r.entries[i].number);
    EXPECT_EQ(back->entries[i].resident, r.entries[i].resident);
    EXPECT_EQ(back->entries[i].pinned, r.entries[i].pinned);
    EXPECT_EQ(back->entries[i].pinned_here, r.entries[i].pinned_here);
    EXPECT_EQ(back->entries[i].rows, r.entries[i].rows);
    EXPECT_EQ(back->entries[i].run_us, r.entries[i].run_us);
  }
}

TEST(FleetWireTest, DamagedColumnsAreRefused) {
  fleet::v1::ExpertReport good;
  ExpertReportToProto(Experts(), true, &good);
  const auto refused = [&](auto&& damage) {
    fleet::v1::ExpertReport bad = good;
    damage(&bad);
    return absl::IsInvalidArgument(ExpertReportFromProto(bad).status());
  };
  EXPECT_TRUE(refused([](auto* r) { r->mutable_rows()->RemoveLast(); }));
  EXPECT_TRUE(refused([](auto* r) { r->add_flags(0); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_gaps(1, 0); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_gaps(2, 14848 - 300); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_gaps(2, ~0u); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_num_layers(0); }));
  EXPECT_TRUE(refused([](auto* r) { r->set_num_layers(~0u), r->set_experts_per_layer(~0u); }));
}

TEST(FleetWireTest, APlacementComesBackAsItWentOrIsRefused) {
  placement::ExpertPlacement p{.fingerprint = 5,
                               .epoch = 6,
                               .num_layers = 1,
                               .experts_per_layer = 3,
                               .shards = {"a", "b"},
                               .copies = {{0}, {}, {0, 1}},
                               .pins = {{2, "w"}},
                               .moving = 7};
  fleet::v1::ExpertPlacement proto;
  PlacementToProto(p, &proto);
  const auto back = PlacementFromProto(proto);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->copies, p.copies);
  EXPECT_EQ(back->shards, p.shards);
  EXPECT_EQ(back->pins, p.pins);
  EXPECT_EQ(back->moving, 7);
  fleet::v1::ExpertPlacement bad = proto;
  bad.set_copies(0, 2);
  EXPECT_TRUE(absl::IsInvalidArgument(PlacementFromProto(bad).status()));
  bad = proto;
  bad.set_num_copies(1, 9);
  EXPECT_TRUE(absl::IsInvalidArgument(PlacementFromProto(bad).status()));
  bad = proto;
  bad.mutable_num_copies()->RemoveLast();
  EXPECT_TRUE(absl::IsInvalidArgument(PlacementFromProto(bad).status()));
}

TEST(FleetWireTest, AnAssignmentComesBackAsItWentOrIsRefused) {
  const placement::ExpertAssignment a{.epoch = 3, .hold = {0, 1, 59}, .pinned = {1}};
  fleet::v1::ExpertAssignment proto;
  AssignmentToProto(a, &proto);
  const auto back = AssignmentFromProto(proto, 60);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, a);
  EXPECT_TRUE(absl::IsInvalidArgument(AssignmentFromProto(proto, 59).status()));
}

// A shard of a large model reports a few times a second.
TEST(FleetWireTest, AReportOfManyExpertsIsSmall) {
  placement::ExpertReport r{.num_layers = 58, .experts_per_layer = 256};
  for (uint32_t i = 0; i < 58 * 256; i += 8)
    r.entries.push_back({.number = i,
                         .resident = true,
                         .rows = 100'000,
                         .queue_us = 2'000'000,
                         .run_us = 3'000'000});
  fleet::v1::ExpertReport proto;
  ExpertReportToProto(r, true, &proto);
  EXPECT_LT(proto.ByteSizeLong(), r.entries.size() * 16);
}

}  // namespace
}  // namespace tutti::wire
