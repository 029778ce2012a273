#include "tools/cli/frozen_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace tutti::cli {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000;

// Sightings once a second until the judge says frozen; the second, or -1 when it never does.
int FrozenAfter(FreezeJudge* judge, Sighting seen, int64_t cpu_ns_per_s, int seconds,
                std::string* why = nullptr) {
  for (int s = 0; s < seconds; ++s) {
    seen.cpu_ns += cpu_ns_per_s;
    const std::string reason = judge->OnSighting(seen, (1000 + s) * kSecond);
    if (why != nullptr) *why = reason;
    if (!reason.empty()) return s;
  }
  return -1;
}

TEST(FreezeJudgeTest, AStoppedProcessIsFrozenAfterFiveSecondsAlsoWhileItStarts) {
  FreezeJudge judge;
  std::string why;
  EXPECT_EQ(FrozenAfter(&judge, {.state = 'T', .cpu_ns = 5}, 0, 100, &why), 5);
  EXPECT_THAT(why, HasSubstr("stopped"));
}

TEST(FreezeJudgeTest, ASilentProcessWithoutCpuTimeIsFrozenAfterTenSeconds) {
  FreezeJudge judge;
  EXPECT_EQ(judge.OnSighting({.answered = true, .state = 'S', .cpu_ns = 5}, kSecond), "");
  EXPECT_EQ(FrozenAfter(&judge, {.state = 'S', .cpu_ns = 5}, 0, 100), 10);
}

TEST(FreezeJudgeTest, ASlowProcessThatGetsSomeCpuTimeHasAMinute) {
  FreezeJudge judge;
  EXPECT_EQ(judge.OnSighting({.answered = true, .state = 'S', .cpu_ns = 5}, kSecond), "");
  EXPECT_EQ(FrozenAfter(&judge, {.state = 'R', .cpu_ns = 5}, 1000, 59), -1);
  EXPECT_EQ(judge.OnSighting({.answered = true, .state = 'R', .cpu_ns = 9}, 1060 * kSecond), "");
  EXPECT_EQ(FrozenAfter(&judge, {.state = 'R', .cpu_ns = 5}, 1000, 100), 60);
}

TEST(FreezeJudgeTest, FewProbesOfAMachineThatStoodStillProveNothing) {
  FreezeJudge judge;
  judge.OnSighting({.answered = true, .state = 'S', .cpu_ns = 5}, kSecond);
  EXPECT_EQ(judge.OnSighting({.state = 'S', .cpu_ns = 5}, 2 * kSecond), "");
  EXPECT_EQ(judge.OnSighting({.state = 'S', .cpu_ns = 5}, 500 * kSecond), "");
}

TEST(FreezeJudgeTest, LoadingDebuggersAndDisksAreLeftAlone) {
  FreezeJudge starts;  // it has not answered yet
  EXPECT_EQ(FrozenAfter(&starts, {.state = 'S'}, 0, 500), -1);
  for (const char state : {'t', 'D', '?'}) {
    FreezeJudge judge;
    judge.OnSighting({.answered = true, .state = 'S'}, kSecond);
    EXPECT_EQ(FrozenAfter(&judge, {.state = state}, 0, 500), -1) << state;
  }
}

TEST(FrozenWatchTest, ReportsAStoppedChildOnceAndNeverOneThatAnswers) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  ::kill(child, SIGSTOP);
  ::waitpid(child, nullptr, WUNTRACED);
  EXPECT_EQ(LookAt(child).state, 'T');
  const pid_t self = ::getpid();
  FrozenWatch watch([&](const FrozenWatch::Watched& w, int) { return w.pid == self; });
  watch.Watch({{.pid = child}, {.pid = self}});
  std::vector<FrozenWatch::Frozen> found;
  for (int i = 0; i < 6000 && found.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    found = watch.Take();
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].pid, child);
  EXPECT_THAT(found[0].why, HasSubstr("stopped"));
}

}  // namespace
}  // namespace tutti::cli
