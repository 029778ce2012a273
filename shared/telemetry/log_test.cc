#include "shared/telemetry/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tutti::telemetry {
namespace {

using ::testing::HasSubstr;

TEST(LogTest, AJsonLineParsesBackToItsFieldsWhateverTheyHold) {
  InitLog("tutti-test", Level::kInfo, /*json=*/true);
  const std::string hostile = "a\"b\\c\nd\x01 e\x7F ü";
  const std::string line =
      FormatLogLine(Level::kWarning, "target/admit", {{"request_id", hostile}});
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(json.is_discarded()) << line;
  EXPECT_EQ(json["request_id"], hostile);
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["service"], "tutti-test");
  EXPECT_EQ(json["event"], "target/admit");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

TEST(LogTest, BytesThatAreNotUtf8StillMakeAJsonLine) {
  InitLog("tutti-test", Level::kInfo, true);
  const std::string line = FormatLogLine(Level::kInfo, "x", {{"text", "\xFF\xC3"}});
  const auto json = nlohmann::json::parse(line, nullptr, false);
  ASSERT_FALSE(json.is_discarded()) << line;
  EXPECT_EQ(json["text"], "\\xFF\\xC3");
}

TEST(LogTest, ATextLineQuotesWhatWouldBreakIt) {
  InitLog("tutti-test", Level::kInfo, false);
  const std::string line =
      FormatLogLine(Level::kInfo, "x", {{"a", "1"}, {"b", "two words\nevil=1"}});
  EXPECT_THAT(line, HasSubstr(" info tutti-test x a=1 b=\"two words\\nevil=1\"\n"));
}

TEST(LogTest, LevelsUnderTheMinimumAreOff) {
  InitLog("tutti-test", Level::kWarning, false);
  EXPECT_FALSE(LogEnabled(Level::kInfo));
  EXPECT_TRUE(LogEnabled(Level::kError));
  EXPECT_EQ(ParseLevel("debug").value(), Level::kDebug);
  EXPECT_EQ(ParseLevel("loud").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti::telemetry
