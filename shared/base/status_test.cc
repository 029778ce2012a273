#include "shared/base/status.h"

#include <gtest/gtest.h>

#include "shared/base/hash.h"

namespace tutti {
namespace {

TEST(StatusTest, AnnotateKeepsCodeAndReasonAndPutsContextInFront) {
  const auto status =
      Annotate(WithReason(absl::ResourceExhaustedError("queue full"), "QUEUE_FULL"), "target[2]");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "target[2]: queue full");
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

TEST(HashTest, HexRoundTripsAndRefusesAnythingElse) {
  uint64_t value = 0;
  EXPECT_TRUE(ParseHex64(Hex64(0x0123456789abcdefull), &value));
  EXPECT_EQ(value, 0x0123456789abcdefull);
  EXPECT_FALSE(ParseHex64("0123456789ABCDEF", &value));
  EXPECT_FALSE(ParseHex64("123", &value));
}

TEST(HashTest, TheDigestChainDependsOnOrderAndOnEveryBit) {
  const float a[] = {1.0f, 2.0f}, b[] = {1.0f, -0.0f}, c[] = {1.0f, 0.0f};
  EXPECT_NE(ExtendDigest(ExtendDigest(0, a), b), ExtendDigest(ExtendDigest(0, b), a));
  EXPECT_NE(ExtendDigest(0, b), ExtendDigest(0, c));
}

}  // namespace
}  // namespace tutti
