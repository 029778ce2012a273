// A hung engine is told from a slow one, and from a process that was stopped.
#include "services/target/step_watch.h"

#include <gtest/gtest.h>

#include "services/target/testing_target.h"

namespace tutti::target {
namespace {

constexpr int64_t kMs = 1000, kSecond = 1'000'000;

class StepWatchTest : public ::testing::Test {
 protected:
  // Steps of 30 layers that take so long each.
  void Steps(int count, int64_t layer_us) {
    for (int i = 0; i < count; ++i) {
      watch_.Begin(now_);
      for (int layer = 0; layer < 30; ++layer) watch_.Note(now_ += layer_us);
      watch_.EndStep();
    }
  }
  StepWatch watch_;
  int64_t now_ = 5 * kSecond;
};

TEST_F(StepWatchTest, AnEngineThatHangsIsNoticedAfterASecond) {
  Steps(20, 10 * kMs);
  EXPECT_FALSE(watch_.Look(now_ + 900 * kMs).hung());
  EXPECT_TRUE(watch_.Look(now_ + 1100 * kMs).hung());
}

TEST_F(StepWatchTest, NoWorkIsNoHang) {
  Steps(20, 10 * kMs);
  watch_.Idle();
  EXPECT_EQ(watch_.Look(now_ + 100 * kSecond).age_us, 0);
  watch_.Begin(now_ + 200 * kSecond);  // work came, and nobody takes it up
  EXPECT_TRUE(watch_.Look(now_ + 202 * kSecond).hung());
}

TEST_F(StepWatchTest, TheFirstStepsMayReadTheWeightsFromADisk) {
  watch_.Begin(now_);
  EXPECT_FALSE(watch_.Look(now_ + 20 * kSecond).hung());
  EXPECT_TRUE(watch_.Look(now_ + 31 * kSecond).hung());
}

TEST_F(StepWatchTest, WhatIsNormalIsMeasuredAndForgotten) {
  Steps(20, 700 * kMs);  // a large model on a slow machine
  EXPECT_FALSE(watch_.Look(now_ + 5 * kSecond).hung());
  EXPECT_TRUE(watch_.Look(now_ + 6 * kSecond).hung());
  Steps(60, 10 * kMs);
  EXPECT_TRUE(watch_.Look(now_ + 1100 * kMs).hung());
}

TEST_F(StepWatchTest, OnlyAHangThatLastsEndsTheProcess) {
  Steps(20, 10 * kMs);
  HangCounter counter;
  int looks = 0;
  while (!counter.Look(watch_.Look(now_ += 250 * kMs), 250 * kMs, 10 * kSecond)) ++looks;
  EXPECT_NEAR(looks, 40, 2);
  // A process that was stopped for an hour finds an old sign, and then a new one.
  HangCounter stopped;
  for (int i = 0; i < 10; ++i) {
    Steps(1, 10 * kMs);
    EXPECT_FALSE(stopped.Look(watch_.Look(now_), 250 * kMs, 10 * kSecond));
  }
  EXPECT_FALSE(stopped.Look(watch_.Look(now_ += 3600 * kSecond), 250 * kMs, 10 * kSecond));
  Steps(1, 10 * kMs);
  EXPECT_FALSE(stopped.Look(watch_.Look(now_), 250 * kMs, 10 * kSecond));
}

// A real target: a forward that does not come back while reports go on.
TEST_F(TargetTest, TheLoopTellsTheAgeOfAStepThatDoesNotEnd) {
  std::mutex mutex;
  std::condition_variable changed;
  bool held = true, inside = false;
  on_forward_ = [&](auto) {
    std::unique_lock lock(mutex);
    inside = true;
    changed.notify_all();
    changed.wait(lock, [&] { return !held; });
    return absl::OkStatus();
  };
  StartTarget();
  EXPECT_EQ(target_->step().age_us, 0);
  auto recorder = std::make_shared<Recorder>();
  const auto stream = client_->Open(Open({9, 8, 7}, 5, 3), 64, 0, recorder);
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return inside; }));
  }
  const int64_t begin = target_->step().age_us;
  while (target_->step().age_us < begin + 50 * kMs) std::this_thread::yield();
  {
    std::lock_guard lock(mutex);
    held = false;
  }
  changed.notify_all();
  recorder->Wait();
  while (target_->step().age_us != 0) std::this_thread::yield();  // idle again
}

}  // namespace
}  // namespace tutti::target
