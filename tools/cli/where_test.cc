#include "tools/cli/where.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/cli/http_api.h"

namespace tutti::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(WhereTest, AddressesNameTheProtocol) {
  for (const char* grpc : {"localhost:50051", "[::1]:50051", "unix:/run/x.sock", "unix:///run/x"}) {
    const auto e = ParseEndpoint(grpc, {});
    ASSERT_TRUE(e.ok()) << e.status();
    EXPECT_FALSE(e->http);
    EXPECT_EQ(e->address, grpc);
  }
  for (const char* http : {"http://h:80", "http://h:80/", "http://h:80/v1", "http://h:80/v1/"}) {
    const auto e = ParseEndpoint(http, {});
    ASSERT_TRUE(e.ok()) << e.status();
    EXPECT_TRUE(e->http);
    EXPECT_EQ(e->address, "http://h:80");
  }
  EXPECT_TRUE(ParseEndpoint("https://example.org", {.ca_file = "ca.pem"}).ok());
}

TEST(WhereTest, WrongAddressesAndFlagsSayWhatIsRight) {
  const auto message = [](const char* address, const rpc::TlsOptions& tls) {
    return std::string(ParseEndpoint(address, tls).status().message());
  };
  EXPECT_THAT(message("ftp://h:1", {}), HasSubstr("\"ftp://\" is not known; HOST:PORT, unix:PATH"));
  EXPECT_THAT(message("http://h:1/chat", {}), HasSubstr("has a path"));
  EXPECT_THAT(message("http://", {}), HasSubstr("no host"));
  EXPECT_THAT(message("http://h:1", {.ca_file = "x"}), HasSubstr("--tls-ca goes with https://"));
  EXPECT_THAT(message("h:1", {.cert_file = "x"}), HasSubstr("go together"));
  EXPECT_THAT(message("h:1", {.cert_file = "x", .key_file = "y"}), HasSubstr("needs --tls-ca"));
}

TEST(WhereTest, EventsComeWholeHoweverTheBytesAreCut) {
  const std::string bytes =
      ": alive\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:two\n\ndata: [DONE]\n\n";
  for (size_t step = 1; step <= bytes.size(); ++step) {
    EventLines lines;
    std::vector<std::string> got;
    for (size_t at = 0; at < bytes.size(); at += step)
      lines.Push(std::string_view(bytes).substr(at, step),
                 [&](std::string_view data) { got.emplace_back(data); });
    EXPECT_THAT(got, ElementsAre("{\"a\":1}", "two", "[DONE]")) << step;
    EXPECT_EQ(lines.pending_bytes(), 0u);
  }
}

}  // namespace
}  // namespace tutti::cli
