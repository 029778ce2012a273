#include "shared/base/output_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace tutti {
namespace {

namespace fs = std::filesystem;

class OutputFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tutti-output-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string Path() const { return (dir_ / "x").string(); }
  static std::string Read(const std::string& path) {
    std::stringstream s;
    s << std::ifstream(path, std::ios::binary).rdbuf();
    return s.str();
  }
  static std::span<const std::byte> Bytes(std::string_view s) {
    return std::as_bytes(std::span(s));
  }
  int64_t NumFiles() const {
    return std::distance(fs::directory_iterator(dir_), fs::directory_iterator());
  }

  fs::path dir_;
};

TEST_F(OutputFileTest, TheOldContentStandsUntilTheCommit) {
  std::ofstream(Path()) << "old";
  auto file = OutputFile::Create(Path(), 1000);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append(Bytes("new ")).ok());
  ASSERT_TRUE((*file)->Append(Bytes("content")).ok());
  EXPECT_EQ((*file)->size(), 11u);
  EXPECT_EQ(Read(Path()), "old");
  ASSERT_TRUE((*file)->Commit().ok());
  EXPECT_EQ(Read(Path()), "new content");
  file->reset();
  EXPECT_EQ(Read(Path()), "new content");
  EXPECT_EQ(NumFiles(), 1);
}

TEST_F(OutputFileTest, NothingIsLeftOfAFileThatIsGivenUp) {
  std::ofstream(Path()) << "old";
  {
    auto file = OutputFile::Create(Path());
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append(Bytes("half")).ok());
  }
  EXPECT_EQ(Read(Path()), "old");
  EXPECT_EQ(NumFiles(), 1);
}

TEST_F(OutputFileTest, ThePlaceIsCheckedAtOnce) {
  EXPECT_EQ(OutputFile::Create(Path() + "/none/x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OutputFile::Create(dir_.string()).status().code(), absl::StatusCode::kInvalidArgument);
  // No disk has room for 2^62 bytes; file systems answer with "no space" or "too large".
  const auto huge = OutputFile::Create(Path(), uint64_t{1} << 62);
  if (!huge.ok()) {
    EXPECT_EQ(huge.status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(NumFiles(), huge.ok() ? 1 : 0);
}

}  // namespace
}  // namespace tutti
