#include "tools/cli/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "shared/testing/model_writer.h"

namespace tutti::cli {
namespace {

using ::testing::HasSubstr;

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
  // Give it time to become `sleep`: the death signal survives the exec.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(::kill(child, 0), 0);
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  const auto dead = [&] {
    std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
    std::string line;
    return !std::getline(stat, line) || line.find(") Z") != line.npos;
  };
  for (int i = 0; i < 100 && !dead(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(dead());
}

TEST(ChildProcessTest, AMissingBinaryIsSaidAtOnce) {
  const auto pid = Spawn({.argv = {"/nowhere/tutti-target"}, .log_path = "/dev/null"});
  EXPECT_EQ(pid.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(pid.status().message()), HasSubstr("/nowhere/tutti-target"));
}

TEST(ChildProcessTest, PortsInUseAreTold) {
  const auto port = FreePort("127.0.0.1");
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_TRUE(CheckPortIsFree("127.0.0.1", *port).ok());
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(*port));
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  const absl::Status status = CheckPortIsFree("127.0.0.1", *port);
  ::close(fd);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:" + std::to_string(*port)));
  EXPECT_FALSE(CheckPortIsFree("192.0.2.1", 80).ok());  // not an address of this machine
  EXPECT_FALSE(FreePort("not an address").ok());
}

}  // namespace
}  // namespace tutti::cli
