#include "shared/telemetry/trace.h"

#include <gtest/gtest.h>

namespace tutti::telemetry {
namespace {

constexpr char kGood[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceTest, AGoodHeaderComesBackAsItWas) {
  const auto context = ParseTraceparent(kGood);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->TraceId(), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(context->span, 0x00f067aa0ba902b7u);
  EXPECT_EQ(MakeTraceparent(*context), kGood);
}

TEST(TraceTest, BadHeadersAreRefused) {
  const std::string good = kGood;
  for (const std::string bad :
       {std::string(), good.substr(1), good + "-x", "ff" + good.substr(2), "0g" + good.substr(2),
        std::string("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        std::string("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"),
        std::string("00-4BF92F3577B34DA6A3CE929D0E0E473G-00f067aa0ba902b7-01")}) {
    EXPECT_FALSE(ParseTraceparent(bad).has_value()) << bad;
  }
}

TEST(TraceTest, ALaterVersionMayCarryMore) {
  const std::string later = "01" + std::string(kGood).substr(2) + "-more";
  EXPECT_TRUE(ParseTraceparent(later).has_value());
}

TEST(TraceTest, AChildKeepsTheTraceAndChangesTheSpan) {
  const auto parent = ParseTraceparent(kGood);
  const auto child = ContinueTrace(kGood);
  EXPECT_EQ(child.TraceId(), parent->TraceId());
  EXPECT_NE(child.span, parent->span);
  EXPECT_NE(ContinueTrace("junk"), ContinueTrace("junk"));
}

}  // namespace
}  // namespace tutti::telemetry
