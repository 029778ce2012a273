// A draft whose hints do not help is not asked for a while.
#include <gtest/gtest.h>

#include "shared/router/fleet.h"

namespace tutti::router {
namespace {

class DraftTrialTest : public ::testing::Test {
 protected:
  static constexpr WorkerHandle kDraft = 7;
  static constexpr uint64_t kVocabulary = 5;

  void SetUp() override {
    options_.draft_trial_tokens = 100;
    options_.draft_least_share = 0.1;
    options_.draft_pause_us = 1000;
    options_.draft_pause_most_us = 3000;
    options_.suspect_after_us = INT64_MAX / 4;
    fleet_.emplace(options_);
    WorkerReport r;
    r.worker_id = "d";
    r.kind = WorkerKind::kDraft;
    r.state = WorkerState::kReady;
    r.address = "unix:/d";
    r.fingerprint = 3;
    r.tokenizer_fingerprint = kVocabulary;
    Actions actions;
    ASSERT_TRUE(fleet_->OnReport(kDraft, r, 0, &actions).ok());
  }
  WorkerHandle Pick(int64_t now_us) { return fleet_->PickDraft(kVocabulary, {}, now_us); }

  RouterOptions options_;
  std::optional<Fleet> fleet_;
};

TEST_F(DraftTrialTest, OneThatHelpsIsKept) {
  for (int i = 0; i < 50; ++i) fleet_->NoteDraftUse(kDraft, 10, 1, i);
  EXPECT_EQ(Pick(50), kDraft);
  EXPECT_FALSE(fleet_->IsDraftPaused(kDraft, 50));
}

TEST_F(DraftTrialTest, OneThatDoesNotIsLetBeAndTriedAgainWithOneSequence) {
  fleet_->NoteDraftUse(kDraft, 99, 0, 0);
  EXPECT_EQ(Pick(0), kDraft);  // the trial is not over
  fleet_->NoteDraftUse(kDraft, 1, 0, 0);
  EXPECT_TRUE(fleet_->IsDraftPaused(kDraft, 999));
  EXPECT_EQ(Pick(999), 0u);
  EXPECT_EQ(Pick(1000), kDraft);
  fleet_->AddOpenCalls(kDraft, 1);
  EXPECT_EQ(Pick(1000), 0u);  // one is enough to see
  fleet_->NoteDraftUse(kDraft, 100, 50, 1500);
  EXPECT_EQ(Pick(1500), kDraft);  // it helps now
}

TEST_F(DraftTrialTest, ThePauseGrowsUpToABound) {
  int64_t now = 0;
  for (const int64_t pause : {1000, 2000, 3000, 3000}) {
    fleet_->NoteDraftUse(kDraft, 100, 9, now);
    EXPECT_TRUE(fleet_->IsDraftPaused(kDraft, now + pause - 1)) << pause;
    EXPECT_FALSE(fleet_->IsDraftPaused(kDraft, now + pause)) << pause;
    now += pause;
  }
}

}  // namespace
}  // namespace tutti::router
