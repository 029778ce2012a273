#include "tools/cli/state_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "shared/testing/model_writer.h"

namespace tutti::cli {
namespace {

using ::testing::HasSubstr;

ClusterState SomeState() {
  ClusterState s;
  s.supervisor_pid = 42;
  s.started_unix_s = 1700000000;
  s.ready = true;
  s.model = "/models/\"quoted\".gguf";
  s.http = "127.0.0.1:8080";
  s.grpc = "127.0.0.1:8090";
  s.router_unix = "unix:/tmp/r.sock";
  s.cluster = "unix:/tmp/c.sock";
  s.processes = {{"router", "router", 43, "unix:/tmp/r.sock", "127.0.0.1:1", "/l/router.log", 0},
                 {"target-0", "target", 0, "unix:/tmp/t.sock", "", "/l/t.log", 3}};
  return s;
}

TEST(StateDirTest, AStateComesBackAsItWasWritten) {
  const testing::TempDir dir;
  ASSERT_TRUE(WriteClusterState(dir.path(), SomeState()).ok());
  const auto s = ReadClusterState(dir.path());
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_EQ(s->supervisor_pid, 42);
  EXPECT_TRUE(s->ready);
  EXPECT_EQ(s->model, "/models/\"quoted\".gguf");
  EXPECT_EQ(s->router_unix, "unix:/tmp/r.sock");
  EXPECT_EQ(s->cluster, "unix:/tmp/c.sock");
  ASSERT_EQ(s->processes.size(), 2u);
  EXPECT_EQ(s->processes[1].name, "target-0");
  EXPECT_EQ(s->processes[1].restarts, 3);
  // Nothing half written is left beside it.
  EXPECT_FALSE(std::filesystem::exists(dir.path() + "/cluster.json.new"));
}

TEST(StateDirTest, ADamagedStateIsAnErrorAndNoCrash) {
  const testing::TempDir dir;
  EXPECT_EQ(ReadClusterState(dir.path()).status().code(), absl::StatusCode::kNotFound);
  for (const char* text : {"", "{", "[1]", "nonsense"}) {
    dir.Write("cluster.json", text);
    EXPECT_EQ(ReadClusterState(dir.path()).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  for (const char* text :
       {"{}", R"({"processes":7})", R"({"processes":[1,{"pid":"x"}],"http":3})"}) {
    dir.Write("cluster.json", text);
    EXPECT_TRUE(ReadClusterState(dir.path()).ok()) << text;
  }
}

TEST(StateDirTest, TheLockIsHeldByOneAndGoesWithItsProcess) {
  const testing::TempDir dir;
  EXPECT_FALSE(StateLock::IsHeld(dir.path()));
  {
    const auto lock = StateLock::Acquire(dir.path());
    ASSERT_TRUE(lock.ok()) << lock.status();
    EXPECT_TRUE(StateLock::IsHeld(dir.path()));
    EXPECT_EQ(StateLock::Acquire(dir.path()).status().code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_FALSE(StateLock::IsHeld(dir.path()));

  // A process that holds it and is killed.
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto lock = StateLock::Acquire(dir.path());
    (void)!::write(ready[1], lock.ok() ? "y" : "n", 1);
    ::pause();
    ::_exit(0);
  }
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  ::close(ready[0]);
  ::close(ready[1]);
  EXPECT_EQ(answer, 'y');
  EXPECT_TRUE(StateLock::IsHeld(dir.path()));
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  EXPECT_FALSE(StateLock::IsHeld(dir.path()));
}

TEST(StateDirTest, NoClusterIsSaidWithWhatToDo) {
  const testing::TempDir dir;
  ASSERT_TRUE(WriteClusterState(dir.path(), SomeState()).ok());  // left over: nobody holds the lock
  const auto s = RunningCluster(dir.path());
  EXPECT_EQ(s.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(s.status().message()), HasSubstr("tutti up --model"));
}

}  // namespace
}  // namespace tutti::cli
