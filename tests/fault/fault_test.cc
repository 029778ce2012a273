#include <gtest/gtest.h>

#include "tests/fault/sim_cluster.h"

namespace tutti::fault {
namespace {

std::string Replay(uint64_t seed, Bug bug) {
  return "replay: build/bin/fault_simulator --seeds 1 --trace --first-seed " +
         std::to_string(seed) + (bug == Bug::kNone ? "" : std::string(" --bug ") + BugName(bug));
}

TEST(FaultTest, EveryRequestEndsWithTheTokensOfAnUndisturbedRun) {
  SimResult sum;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    const SimResult r = RunSimulation({seed});
    ASSERT_EQ(r.failure, "") << "seed " << seed << "\n" << Replay(seed, Bug::kNone);
    sum.finished += r.finished;
    sum.kills += r.kills;
    sum.freezes += r.freezes;
    sum.hangs += r.hangs;
    sum.failovers += r.failovers;
    sum.gaps += r.gaps;
    sum.resumes += r.resumes;
    sum.cancelled += r.cancelled;
    sum.restarts_from_scratch += r.restarts_from_scratch;
    sum.hints += r.hints;
    sum.confirms += r.confirms;
    sum.proposed += r.proposed;
    sum.accepted += r.accepted;
  }
  // The seeds are about something.
  EXPECT_GT(sum.finished, 2000);
  EXPECT_GT(sum.kills, 500);
  EXPECT_GT(sum.freezes, 300);
  EXPECT_GT(sum.hangs, 100);
  EXPECT_GT(sum.failovers, 500);
  EXPECT_GT(sum.gaps, 100);
  EXPECT_GT(sum.resumes, 300);
  EXPECT_GT(sum.cancelled, 30);
  EXPECT_GT(sum.restarts_from_scratch, 5);
  EXPECT_GT(sum.hints, 10000);
  EXPECT_GT(sum.confirms, 10000);
  EXPECT_GT(sum.accepted, 3000);
  EXPECT_GT(sum.proposed - sum.accepted, 1000);
}

TEST(FaultTest, ASeedReplaysToTheSameHistory) {
  const SimResult a = RunSimulation({17}), b = RunSimulation({17});
  EXPECT_EQ(a.events, b.events);
  EXPECT_EQ(a.virtual_us, b.virtual_us);
  EXPECT_EQ(a.failovers, b.failovers);
}

// Negative controls: a simulator that finds nothing proves nothing.
class FaultControl : public ::testing::TestWithParam<Bug> {};

TEST_P(FaultControl, IsFoundWithinAHundredSeeds) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    if (!RunSimulation({seed, false, GetParam()}).failure.empty()) return;
  }
  FAIL() << BugName(GetParam()) << " was not found";
}

INSTANTIATE_TEST_SUITE_P(Bugs, FaultControl,
                         ::testing::Values(Bug::kDropGenerated, Bug::kDropDigest,
                                           Bug::kSkipPositionCheck, Bug::kFlipWeight,
                                           Bug::kLoseWake),
                         [](const auto& info) { return std::string(BugName(info.param)); });

}  // namespace
}  // namespace tutti::fault
