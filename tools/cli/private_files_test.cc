#include "tools/cli/private_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "shared/testing/model_writer.h"

namespace tutti::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

int Mode(const std::string& path) {
  struct stat s = {};
  return ::stat(path.c_str(), &s) == 0 ? static_cast<int>(s.st_mode & 07777) : -1;
}
std::string Text(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}
void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

TEST(PrivateFilesTest, FoldersBecomeTheUsersOwn) {
  const testing::TempDir dir;
  const std::string folder = dir.path() + "/a/b";
  ASSERT_TRUE(MakePrivateFolder(folder, true).ok());
  EXPECT_EQ(Mode(folder), 0700);
  ::chmod(folder.c_str(), 0755);
  ASSERT_TRUE(MakePrivateFolder(folder).ok());
  EXPECT_EQ(Mode(folder), 0700);

  fs::create_symlink(folder, dir.path() + "/link");
  EXPECT_EQ(MakePrivateFolder(dir.path() + "/link").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(MakePrivateFolder(dir.path() + "/link", true).ok());
  Write(dir.path() + "/file", "");
  EXPECT_FALSE(MakePrivateFolder(dir.path() + "/file").ok());
  // Shared like /tmp: neither used nor changed.
  ::chmod(folder.c_str(), 01777);
  EXPECT_THAT(std::string(MakePrivateFolder(folder).message()), HasSubstr("shared"));
  EXPECT_EQ(Mode(folder), 01777);
  if (::geteuid() == 0) {
    ::chmod(folder.c_str(), 0700);
    ASSERT_EQ(::chown(folder.c_str(), 65534, 65534), 0);
    EXPECT_THAT(std::string(MakePrivateFolder(folder).message()), HasSubstr("belongs to user"));
  }
}

TEST(PrivateFilesTest, ALogIsReadByNobodyElseAndNeverWrittenThroughALink) {
  const testing::TempDir dir;
  const std::string log = dir.path() + "/x.log", other = dir.path() + "/other";
  Write(log, "old\n");
  ::chmod(log.c_str(), 0644);
  const auto fd = OpenPrivateLog(log);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(::write(*fd, "new\n", 4), 4);
  ::close(*fd);
  EXPECT_EQ(Text(log), "old\nnew\n");
  EXPECT_EQ(Mode(log), 0600);

  Write(other, "");
  fs::create_symlink(other, dir.path() + "/link.log");
  EXPECT_EQ(OpenPrivateLog(dir.path() + "/link.log").status().code(),
            absl::StatusCode::kPermissionDenied);
  ASSERT_EQ(::mkfifo((dir.path() + "/pipe.log").c_str(), 0600), 0);
  EXPECT_FALSE(OpenPrivateLog(dir.path() + "/pipe.log").ok());
}

TEST(PrivateFilesTest, AFileIsReplacedAsAWholeOrNotAtAll) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/x.json", other = dir.path() + "/other";
  Write(other, "theirs");
  fs::create_symlink(other, path + ".new");
  ASSERT_TRUE(ReplacePrivateFile(path, "first").ok());
  EXPECT_EQ(Text(other), "theirs");
  EXPECT_EQ(Mode(path), 0600);

  // No room, as on a full disk.
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {}, none = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  none.rlim_max = before.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  const absl::Status full = ReplacePrivateFile(path, "second");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Text(path), "first");
  EXPECT_FALSE(fs::exists(path + ".new"));
}

TEST(PrivateFilesTest, ALongLogStartsAnewWhileItIsWritten) {
  const testing::TempDir dir;
  const std::string log = dir.path() + "/x.log";
  const auto fd = OpenPrivateLog(log);
  ASSERT_TRUE(fd.ok());
  ASSERT_EQ(::write(*fd, "0123456789", 10), 10);
  BoundLog(log, 10);
  EXPECT_EQ(Text(log), "0123456789");
  ASSERT_EQ(::write(*fd, "ab", 2), 2);
  BoundLog(log, 10);
  EXPECT_EQ(Text(log), "");
  EXPECT_EQ(Text(log + ".old"), "23456789ab");
  EXPECT_EQ(Mode(log + ".old"), 0600);
  ASSERT_EQ(::write(*fd, "more", 4), 4);
  EXPECT_EQ(Text(log), "more");
  ::close(*fd);
}

}  // namespace
}  // namespace tutti::cli
