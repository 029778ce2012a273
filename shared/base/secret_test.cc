#include "shared/base/secret.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace tutti {
namespace {

std::string Hex(const std::string& bytes) {
  std::string out;
  for (const unsigned char c : bytes) {
    const char* digits = "0123456789abcdef";
    out += {digits[c >> 4], digits[c & 15]};
  }
  return out;
}

TEST(SecretTest, Sha256IsThatOfTheStandard) {
  Sha256 empty, abc;
  EXPECT_EQ(Hex(empty.Finish()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  abc.Add("a");
  abc.Add("bc");
  EXPECT_EQ(Hex(abc.Finish()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(SecretTest, NothingEqualsAnEmptySecret) {
  EXPECT_TRUE(SameSecret("abc", "abc"));
  EXPECT_FALSE(SameSecret("abc", "abd"));
  EXPECT_FALSE(SameSecret("abc", "ab"));
  EXPECT_FALSE(SameSecret("", ""));
  EXPECT_FALSE(SameSecret("a", ""));
}

TEST(SecretTest, RandomBytesDiffer) {
  EXPECT_EQ(RandomBytes(33).size(), 33u);
  EXPECT_NE(RandomBytes(16), RandomBytes(16));
}

TEST(SecretTest, ASecretFileIsTrimmedAndChecked) {
  const std::string path = ::testing::TempDir() + "/secret_test_token";
  const auto read = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    return ReadSecretFile(path);
  };
  EXPECT_EQ(*read(" 0123456789abcdef\r\n"), "0123456789abcdef");
  for (const std::string& bad :
       {std::string(), std::string("short"), std::string("0123456789 abcdef"),
        std::string("0123456789abcde\x80"), std::string(5000, 'x'), std::string(16, '\0')}) {
    const auto s = read(bad);
    EXPECT_EQ(s.status().code(), absl::StatusCode::kInvalidArgument) << bad.size();
    EXPECT_NE(s.status().message().find(path), std::string::npos);
  }
  std::filesystem::remove(path);
  EXPECT_FALSE(ReadSecretFile(path).ok());
}

}  // namespace
}  // namespace tutti
