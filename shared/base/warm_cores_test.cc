#include "shared/base/warm_cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <thread>

#include "shared/base/clock.h"
#include "shared/base/cores.h"

namespace tutti {
namespace {

template <typename F>
bool Eventually(F condition) {
  const int64_t deadline = SteadyNowUs() + 60'000'000;
  while (!condition()) {
    if (SteadyNowUs() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

bool Becomes(const WarmCores& cores, int num_awake) {
  return Eventually([&] { return cores.num_awake() == num_awake; });
}

bool HasIdleClass() {
  bool has = false;
  std::thread([&] {
    const sched_param param{};
    has = sched_setscheduler(0, SCHED_IDLE, &param) == 0;
  }).join();
  return has;
}

TEST(WarmCoresTest, TheyWakeAndFallAsleepAgainManyTimes) {
  if (!HasIdleClass()) GTEST_SKIP() << "the system has no idle class";
  WarmCores cores(1);
  for (int i = 0; i < 5; ++i) {  // beside busy programs the idle class hardly ever runs
    cores.KeepFor(1'000'000'000);
    EXPECT_TRUE(Becomes(cores, 1));
    cores.KeepFor(0);
    EXPECT_TRUE(Becomes(cores, 0));
  }
}

TEST(WarmCoresTest, TheTimeEndsByItself) {
  WarmCores cores(2);
  cores.KeepFor(1000);
  EXPECT_TRUE(Becomes(cores, 0));
}

int NumThreads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

const int kThreadsAtStart = NumThreads();

// A thread that was joined may stay in /proc until the kernel has let go of it.
bool NumThreadsBecomes(int wanted) {
  return Eventually([&] { return NumThreads() == wanted; });
}

TEST(WarmCoresTest, CoresThatAreAwakeEndWithTheirOwner) {
  if (!HasIdleClass()) GTEST_SKIP() << "the system has no idle class";
  const int before = kThreadsAtStart;
  EXPECT_TRUE(NumThreadsBecomes(before)) << NumThreads();  // without those of earlier cases
  {
    WarmCores cores(2);
    cores.KeepFor(1'000'000'000);
    const int threads = std::min(2, UsableCores());
    EXPECT_TRUE(Becomes(cores, threads));
    EXPECT_TRUE(NumThreadsBecomes(before + threads)) << NumThreads();
  }
  EXPECT_TRUE(NumThreadsBecomes(before)) << NumThreads();
}

TEST(WarmCoresTest, NoCoresIsNoThreads) {
  WarmCores cores(0);
  cores.KeepFor(1'000'000'000);
  EXPECT_EQ(cores.num_awake(), 0);
}

}  // namespace
}  // namespace tutti
