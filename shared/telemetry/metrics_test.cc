#include "shared/telemetry/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace tutti::telemetry {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string HttpGet(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in addr{};
  addr.sin_family = AF_INET;
  addr.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &addr.sin_addr);
  if (connect(fd, reinterpret_cast<sockaddr*>(&addr), sizeof(addr)) != 0) {
    close(fd);
    return "";
  }
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: x\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string out;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) out.append(buffer, n);
  close(fd);
  return out;
}

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
