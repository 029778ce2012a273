#include "shared/base/output_dir.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace tutti {
namespace {

namespace fs = std::filesystem;

class OutputDirTest : public ::testing::Test {
 protected:
  OutputDirTest() {
    root_ = fs::temp_directory_path() / ("tutti-output-dir-" + std::to_string(::getpid()));
    fs::remove_all(root_);
    fs::create_directory(root_);
  }
  ~OutputDirTest() override { fs::remove_all(root_); }

  static std::span<const std::byte> Bytes(std::string_view s) {
    return std::as_bytes(std::span(s.data(), s.size()));
  }
  static std::string Read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  size_t NumEntries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(root_), fs::directory_iterator()));
  }
  absl::Status Write(const std::string& text, bool replace) {
    TUTTI_ASSIGN_OR_RETURN(OutputDir dir, OutputDir::Begin((root_ / "out").string(), replace));
    TUTTI_RETURN_IF_ERROR(dir.MakeFolder("inner"));
    TUTTI_RETURN_IF_ERROR(dir.WriteFile("inner/file", Bytes(text)));
    return dir.Commit();
  }

  fs::path root_;
};

TEST_F(OutputDirTest, NothingIsThereBeforeTheCommitAndAllAfter) {
  auto dir = OutputDir::Begin((root_ / "out").string() + "/", false);
  ASSERT_TRUE(dir.ok()) << dir.status();
  ASSERT_TRUE(dir->WriteFile("file", Bytes("text")).ok());
  EXPECT_FALSE(fs::exists(root_ / "out"));
  ASSERT_TRUE(dir->Commit().ok());
  EXPECT_EQ(Read(root_ / "out" / "file"), "text");
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(OutputDirTest, WhatIsNotCommittedLeavesNothing) {
  {
    auto dir = OutputDir::Begin((root_ / "out").string(), false);
    ASSERT_TRUE(dir.ok()) << dir.status();
    ASSERT_TRUE(dir->WriteFile("file", Bytes("text")).ok());
  }
  EXPECT_EQ(NumEntries(), 0u);
}

TEST_F(OutputDirTest, ReplacesOnlyWhenAskedAndLeavesNothingOfTheOld) {
  ASSERT_TRUE(Write("first", false).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Write("second", false)));
  EXPECT_EQ(Read(root_ / "out/inner/file"), "first");
  ASSERT_TRUE(Write("third", true).ok());
  EXPECT_EQ(Read(root_ / "out/inner/file"), "third");
  EXPECT_EQ(NumEntries(), 1u);
}

TEST_F(OutputDirTest, ADirectoryThatCameMeanwhileStays) {
  auto dir = OutputDir::Begin((root_ / "out").string(), false);
  ASSERT_TRUE(dir.ok()) << dir.status();
  ASSERT_TRUE(fs::create_directory(root_ / "out"));
  EXPECT_TRUE(absl::IsAlreadyExists(dir->Commit()));
  EXPECT_TRUE(fs::is_empty(root_ / "out"));
}

TEST_F(OutputDirTest, ErrorsNameThePath) {
  const auto lost = OutputDir::Begin((root_ / "none" / "out").string(), false);
  EXPECT_TRUE(absl::IsNotFound(lost.status())) << lost.status();
  EXPECT_NE(std::string(lost.status().message()).find("none"), std::string::npos);
  for (const char* name : {"", ".", "/", "..", "x/.."})
    EXPECT_FALSE(OutputDir::Begin(name, true).ok()) << name;
}

}  // namespace
}  // namespace tutti
