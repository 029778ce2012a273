#include "shared/base/mapped_file.h"

#include <gtest/gtest.h>

#include <fstream>

namespace tutti {
namespace {

TEST(MappedFileTest, MapsTheWholeFileAndSurvivesDroppingItsPages) {
  const std::string path = ::testing::TempDir() + "/mapped_file_test.bin";
  std::ofstream(path) << std::string(20000, 'q');
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->bytes().size(), 20000u);
  (*file)->WillNeed(0, 1 << 20);
  (*file)->DontNeed(0, 20000);
  EXPECT_EQ(static_cast<char>((*file)->bytes()[19999]), 'q');
}

TEST(MappedFileTest, SaysWhatIsWrongWithAPath) {
  EXPECT_EQ(MappedFile::Open("/no/such/file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open("/").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string empty = ::testing::TempDir() + "/mapped_file_empty.bin";
  std::ofstream{empty};
  EXPECT_EQ(MappedFile::Open(empty).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti
