#include "shared/engine/fair_share.h"

#include <gtest/gtest.h>

namespace tutti::engine {
namespace {

TEST(FairShareTest, WhoComesLateStartsLevelWithTheLeastServed) {
  FairShare share;
  share.Arrive(1);
  share.Charge(1, 500);
  share.Arrive(2);
  EXPECT_EQ(share.Served(2), 500);
  share.Charge(2, 100);
  share.Arrive(3);
  EXPECT_EQ(share.Served(3), 500);
}

TEST(FairShareTest, LeavingNeitherPaysDebtsNorEarnsCredit) {
  FairShare share;
  share.Arrive(1);
  share.Arrive(2);
  share.Charge(1, 1000);
  share.Leave(1);
  share.Arrive(1);
  EXPECT_EQ(share.Served(1), 1000);  // still ahead of 2
  share.Leave(1);
  share.Charge(2, 5000);
  share.Arrive(1);
  EXPECT_EQ(share.Served(1), 5000);  // and not 4000 behind after its pause
}

TEST(FairShareTest, AClientLeavesWithItsLastSequence) {
  FairShare share;
  share.Arrive(1);
  share.Arrive(1);
  share.Leave(1);
  share.Charge(1, 10);
  share.Arrive(2);
  EXPECT_EQ(share.Served(2), 10);  // 1 is still there to be level with
}

TEST(FairShareTest, IdleClientsAreForgotten) {
  FairShare share;
  share.Arrive(0);
  for (uint64_t id = 1; id < 10000; ++id) {
    share.Arrive(id);
    share.Charge(id, static_cast<int64_t>(id));
    share.Leave(id);
  }
  EXPECT_LE(share.num_known(), 1025u);
}

}  // namespace
}  // namespace tutti::engine
