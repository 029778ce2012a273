#include "shared/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/testing/http_get.h"

namespace tutti::telemetry {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using testing::HttpGet;

TEST(MetricsTest, AskingTwiceGivesTheSameMetric) {
  Metrics metrics;
  metrics.Counter("tutti_x_things_total", "things", {{"kind", "a"}}).Increment();
  metrics.Counter("tutti_x_things_total", "things", {{"kind", "a"}}).Increment();
  metrics.Counter("tutti_x_things_total", "things", {{"kind", "b"}}).Increment(5);
  EXPECT_THAT(metrics.Text(), HasSubstr("tutti_x_things_total{kind=\"a\"} 2\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("tutti_x_things_total{kind=\"b\"} 5\n"));
}

TEST(MetricsTest, LatencyBucketsReachFromOneMillisecondToOneMinute) {
  Metrics metrics;
  auto& latency = metrics.Latency("tutti_x_wait_seconds", "waiting");
  latency.Observe(0.0009);
  latency.Observe(59);
  latency.Observe(61);
  EXPECT_THAT(metrics.Text(), HasSubstr("tutti_x_wait_seconds_bucket{le=\"0.001\"} 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("tutti_x_wait_seconds_bucket{le=\"60\"} 2\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("tutti_x_wait_seconds_count 3\n"));
}

TEST(MetricsTest, ServesPrometheusTextOnAFreePort) {
  Metrics metrics;
  metrics.Gauge("tutti_x_level", "a level").Set(0.5);
  EXPECT_EQ(metrics.address(), "");
  ASSERT_TRUE(metrics.Serve("localhost:0").ok());
  ASSERT_THAT(metrics.address(), StartsWith("127.0.0.1:"));
  const std::string reply = HttpGet(metrics.address(), "/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(reply, HasSubstr("tutti_x_level 0.5\n"));
}

TEST(MetricsTest, ATakenAddressOrANonsenseOneIsAnErrorNotACrash) {
  Metrics first, second;
  ASSERT_TRUE(first.Serve("127.0.0.1:0").ok());
  EXPECT_EQ(second.Serve(first.address()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.Serve("nonsense").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(second.Serve("no.such.host.invalid:1").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.address(), "");
}

}  // namespace
}  // namespace tutti::telemetry
