#include "shared/base/strings.h"

#include <gtest/gtest.h>

namespace tutti {
namespace {

TEST(StringsTest, WellFormedUtf8IsValidUpToTheLastCodePoint) {
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8("a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80"));
  EXPECT_TRUE(IsValidUtf8("\xF4\x8F\xBF\xBF"));
}

TEST(StringsTest, IllFormedUtf8IsFoundAtItsOffset) {
  const struct {
    std::string_view text;
    size_t offset;
  } cases[] = {
      {"ab\x80", 2},            // continuation without a lead
      {"\xC0\xAF", 0},          // overlong
      {"a\xE0\x9F\x80", 1},     // overlong, three bytes
      {"\xED\xA0\x80", 0},      // surrogate
      {"\xF4\x90\x80\x80", 0},  // past U+10FFFF
      {"xyz\xE4\xB8", 3},       // cut short
  };
  for (const auto& c : cases) {
    size_t offset = 99;
    EXPECT_FALSE(IsValidUtf8(c.text, &offset));
    EXPECT_EQ(offset, c.offset);
  }
}

TEST(StringsTest, PrintableShowsHostileBytesAndCutsLongText) {
  EXPECT_EQ(Printable("a\n\xFF\xC3\xA9"), "a\\x0A\\xFF\xC3\xA9");
  EXPECT_EQ(Printable(std::string(500, 'x'), 10), "xxxxxxxxxx...");
}

TEST(StringsTest, NamesAreOneWord) {
  EXPECT_EQ(OneWord("SmolLM2 135M  Instruct"), "SmolLM2-135M-Instruct");
  EXPECT_EQ(OneWord(" org/Model.v1:latest\t"), "org/Model.v1:latest");
  EXPECT_EQ(OneWord("a,b\"c'd\x01\xff e"), "a-b-c-d-e");
  EXPECT_EQ(OneWord("模型 一"), "模型-一");
  EXPECT_EQ(OneWord(" \n "), "");
  EXPECT_EQ(OneWord(OneWord("x y")), OneWord("x y"));
}

}  // namespace
}  // namespace tutti
