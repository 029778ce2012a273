#include "tools/cli/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "shared/testing/model_writer.h"

namespace tutti::cli {
namespace {

using ::testing::HasSubstr;

template <typename F>
bool Eventually(F condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  return condition();
}

TEST(ChildProcessTest, AChildsOutputIsInItsLogAndItsEndIsDescribed) {
  const testing::TempDir dir;
  const std::string log = dir.path() + "/child.log";
  const auto pid =
      Spawn({.argv = {"/bin/sh", "-c", "echo one; echo two >&2; exit 3"}, .log_path = log});
  ASSERT_TRUE(pid.ok()) << pid.status();
  int status = 0;
  ASSERT_EQ(::waitpid(*pid, &status, 0), *pid);
  EXPECT_EQ(DescribeExit(status), "exit code 3");
  EXPECT_EQ(LogTail(log, 10), "  | one\n  | two\n");
  EXPECT_EQ(LogTail(log, 1), "  | two\n");
  EXPECT_EQ(LogTail(dir.path() + "/none", 1), "");
}

TEST(ChildProcessTest, AKilledChildIsDescribedByItsSignal) {
  const testing::TempDir dir;
  const auto pid = Spawn({.argv = {"/bin/sleep", "60"}, .log_path = dir.path() + "/l"});
  ASSERT_TRUE(pid.ok());
  EXPECT_EQ(::getpgid(*pid), *pid) << "a child has a process group of its own";
  ::kill(*pid, SIGKILL);
  int status = 0;
  ::waitpid(*pid, &status, 0);
  EXPECT_THAT(DescribeExit(status), HasSubstr("killed by signal 9"));
}

TEST(ChildProcessTest, ChildrenDieWithTheirParent) {
  const testing::TempDir dir;
  int report[2];
  ASSERT_EQ(::pipe(report), 0);
  const pid_t parent = ::fork();
  if (parent == 0) {
    const auto child = Spawn({.argv = {"/bin/sleep", "60"}, .log_path = dir.path() + "/l"});
    const pid_t pid = child.ok() ? *child : 0;
    (void)!::write(report[1], &pid, sizeof(pid));
    ::pause();
    ::_exit(0);
  }
  pid_t child = 0;
  ASSERT_EQ(::read(report[0], &child, sizeof(child)), static_cast<ssize_t>(sizeof(child)));
  ::close(report[0]);
  ::close(report[1]);
  ASSERT_GT(child, 0);
  // The child has become `sleep`: the death signal survives the exec.
  EXPECT_TRUE(Eventually([&] {
    std::ifstream comm("/proc/" + std::to_string(child) + "/comm");
    std::string name;
    return std::getline(comm, name) && name == "sleep";
  }));
  EXPECT_EQ(::kill(child, 0), 0);
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  const auto dead = [&] {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string line;
    return !std::getline(stat, line) || line.find(") Z") != line.npos;
  };
  EXPECT_TRUE(Eventually(dead));
}

TEST(ChildProcessTest, AMissingBinaryIsSaidAtOnce) {
  const auto pid = Spawn({.argv = {"/nowhere/tutti-target"}, .log_path = "/dev/null"});
  EXPECT_EQ(pid.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(pid.status().message()), HasSubstr("/nowhere/tutti-target"));
}

}  // namespace
}  // namespace tutti::cli
