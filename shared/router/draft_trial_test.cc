// A draft with which tokens come no sooner is not asked for a while.
#include "shared/router/draft_trial.h"

#include <gtest/gtest.h>

#include "shared/router/fleet.h"

namespace tutti::router {
namespace {

constexpr int kWindow = 20;
constexpr int64_t kPause = 1'000'000, kPauseMost = 3'000'000;

class DraftTrialTest : public ::testing::Test {
 protected:
  // A target's choice that goes on for `tokens` tokens, drafted whenever the draft may be asked;
  // counts those with it and without.
  void Run(int tokens, int64_t us_with, int64_t us_without, int choices = 1) {
    for (int i = 0; i < tokens; ++i) {
      const bool drafted = !trial_.paused(now_us_);
      const int64_t us = drafted ? us_with : us_without;
      now_us_ += us;
      ++(drafted ? with_ : without_);
      trial_.Note({.count = 1, .us = us, .drafted = drafted, .num_choices = choices}, now_us_);
    }
  }
  DraftTrial trial_{{.window = kWindow, .pause_us = kPause, .pause_most_us = kPauseMost}};
  int64_t now_us_ = 1;
  int with_ = 0, without_ = 0;
};

TEST_F(DraftTrialTest, OneThatHelpsIsAskedNearlyAlways) {
  Run(20'000, 700, 1000);
  EXPECT_FALSE(trial_.on_trial());
  EXPECT_GT(without_, kWindow);  // it was timed again
  EXPECT_LT(without_, 500);
}

TEST_F(DraftTrialTest, OneThatHarmsIsAskedHardlyEver) {
  Run(20'000, 1300, 1000);
  EXPECT_TRUE(trial_.on_trial());
  EXPECT_GT(with_, kWindow);
  EXPECT_LT(with_, 10 * (kWindow + 10));
}

TEST_F(DraftTrialTest, OneThatChangesNothingIsLetBe) {
  Run(5'000, 1000, 1000);
  EXPECT_LT(with_, 5 * (kWindow + 10));
}

TEST_F(DraftTrialTest, ThePauseGrowsUpToABoundAndEndsWhenItHelps) {
  std::vector<int64_t> pauses;
  for (int i = 0; i < 4; ++i) {
    while (trial_.paused(now_us_)) ++now_us_;
    while (!trial_.on_trial() || !trial_.paused(now_us_) || trial_.timing_without(now_us_))
      Run(1, 1300, 1000);
    const int64_t begin = now_us_;
    while (trial_.paused(now_us_)) now_us_ += 1000;
    pauses.push_back((now_us_ - begin) / kPause);
  }
  EXPECT_EQ(pauses, (std::vector<int64_t>{1, 2, 3, 3}));
  Run(4 * kWindow, 700, 1000);
  EXPECT_FALSE(trial_.on_trial());
}

TEST_F(DraftTrialTest, OneThatStopsHelpingIsFoundOut) {
  Run(5'000, 700, 1000);
  EXPECT_FALSE(trial_.on_trial());
  Run(20'000, 1300, 1000);
  EXPECT_TRUE(trial_.on_trial());
}

// Other requests came or went between the windows: nothing can be said, and it is kept.
TEST_F(DraftTrialTest, WindowsWithOtherNumbersOfChoicesAreNotCompared) {
  for (int i = 0; i < 5'000; ++i) {
    const bool with = !trial_.paused(now_us_);
    Run(1, 1300, 1000, with ? 8 : 1);
  }
  EXPECT_FALSE(trial_.on_trial());
}

// Nobody may be there whose tokens could be timed without it.
TEST_F(DraftTrialTest, TimingWithoutEndsWhenNoTokensCome) {
  while (!trial_.paused(now_us_)) Run(1, 700, 1000);
  now_us_ += kPause;
  EXPECT_FALSE(trial_.paused(now_us_));
  Run(4 * kWindow, 700, 1000);
  EXPECT_FALSE(trial_.on_trial());
}

TEST_F(DraftTrialTest, WithoutAWindowItIsAlwaysAsked) {
  DraftTrial always({.window = 0, .pause_us = kPause, .pause_most_us = kPauseMost});
  for (int i = 1; i < 1'000; ++i) {
    always.Note({.count = 1, .us = i, .drafted = true}, i);
    EXPECT_FALSE(always.paused(i));
  }
}

// As after a pause, all sequences may have it again.
TEST_F(DraftTrialTest, WithoutAWindowRightHintsEndTheTrial) {
  DraftTrial untimed({.window = 0, .least_share = 0.1, .pause_us = kPause});
  untimed.Note({.count = 100, .accepted = 9, .drafted = true}, 1);
  EXPECT_TRUE(untimed.paused(kPause));
  EXPECT_FALSE(untimed.paused(1 + kPause));
  EXPECT_TRUE(untimed.on_trial());
  untimed.Note({.count = 100, .accepted = 10, .drafted = true}, 1 + kPause);
  EXPECT_FALSE(untimed.on_trial());
}

class DraftOfAFleetTest : public ::testing::Test {
 protected:
  static constexpr WorkerHandle kDraft = 7;
  static constexpr uint64_t kVocabulary = 5;

  void SetUp() override {
    options_.draft_trial_tokens = kWindow;
    options_.draft_least_share = 0.1;
    options_.draft_pause_us = kPause;
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
  void Note(bool drafted, int32_t tokens, int32_t accepted, int64_t us, int64_t now_us) {
    fleet_->NoteDraftUse(
        kDraft, {.drafted = drafted, .tokens = tokens, .accepted = accepted, .us = us}, now_us);
  }

  RouterOptions options_;
  std::optional<Fleet> fleet_;
};

TEST_F(DraftOfAFleetTest, HintsThatAreHardlyEverRightAreNotAskedForUntilOneSequenceTries) {
  Note(true, 95, 0, 0, 0);
  EXPECT_EQ(Pick(0), kDraft);
  Note(true, 1, 0, 0, 0);
  EXPECT_TRUE(fleet_->IsDraftPaused(kDraft, kPause - 1));
  EXPECT_EQ(Pick(kPause - 1), 0u);
  EXPECT_EQ(Pick(kPause), kDraft);
  fleet_->AddOpenCalls(kDraft, 1);
  EXPECT_EQ(Pick(kPause), 0u);  // one is enough to see
}

TEST_F(DraftOfAFleetTest, ChoicesThatBeginWhileItIsTimedWithoutAreTimedToo) {
  EXPECT_EQ(fleet_->DraftTimedWithout(kVocabulary, 0), 0u);
  for (int i = 0; i < 10; ++i) Note(true, kWindow, kWindow / 2, 1000, i);
  EXPECT_EQ(Pick(10), 0u);
  EXPECT_EQ(fleet_->DraftTimedWithout(kVocabulary, 10), kDraft);
  EXPECT_EQ(fleet_->DraftTimedWithout(kVocabulary + 1, 10), 0u);
  for (int i = 0; i < 10; ++i) Note(false, kWindow, 0, 3000, i);
  EXPECT_EQ(fleet_->DraftTimedWithout(kVocabulary, 10), 0u);
  EXPECT_EQ(Pick(10), kDraft);  // it helped
}

}  // namespace
}  // namespace tutti::router
