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
      ReportToProto(r, &proto);
      const router::WorkerReport back = ReportFromProto(proto);
      EXPECT_EQ(back.kind, r.kind);
      EXPECT_EQ(back.state, r.state);
      EXPECT_EQ(back.worker_id, r.worker_id);
      EXPECT_EQ(back.fingerprint, r.fingerprint);
      EXPECT_EQ(back.load.tokens_per_s, 6.5);
    }
  }
}

TEST(FleetWireTest, NumbersOfANewerVersionAreUnknownNotAnything) {
  fleet::v1::WorkerReport proto;
  proto.set_kind(static_cast<fleet::v1::WorkerKind>(99));
  proto.set_state(static_cast<fleet::v1::WorkerState>(-3));
  EXPECT_EQ(ReportFromProto(proto).kind, router::WorkerKind::kUnknown);
  EXPECT_EQ(ReportFromProto(proto).state, router::WorkerState::kUnknown);
}

}  // namespace
}  // namespace tutti::wire
