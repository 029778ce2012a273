#include "shared/rpc/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

namespace tutti::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(OptionsTest, FlagsFillTheStructAndListenRepeats) {
  ServiceOptions options;
  CLI::App app;
  AddServiceFlags(&app, &options);
  app.parse(
      "--listen 127.0.0.1:0 --listen unix:/tmp/x.sock --metrics 127.0.0.1:1 --log-json "
      "--log-level debug --drain-grace 2.5 --tls-ca ca.pem");
  EXPECT_THAT(options.listen, ElementsAre("127.0.0.1:0", "unix:/tmp/x.sock"));
  EXPECT_EQ(options.metrics, "127.0.0.1:1");
  EXPECT_TRUE(options.log_json);
  EXPECT_EQ(options.drain_grace_s, 2.5);
  EXPECT_EQ(options.tls.ca_file, "ca.pem");
  EXPECT_TRUE(options.Validate().ok());
}

TEST(OptionsTest, ABadOptionIsRefusedByItsFlag) {
  const auto message = [](auto change) {
    ServiceOptions options;
    options.listen = {"127.0.0.1:0"};
    change(options);
    const absl::Status status = options.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](auto& o) { o.listen = {}; }), HasSubstr("--listen"));
  EXPECT_THAT(message([](auto& o) { o.listen = {"nonsense"}; }), HasSubstr("nonsense"));
  EXPECT_THAT(message([](auto& o) { o.listen = {"unix:"}; }), HasSubstr("--listen"));
  EXPECT_THAT(message([](auto& o) { o.tls.cert_file = "c"; }), HasSubstr("--tls-key"));
  EXPECT_THAT(message([](auto& o) { o.drain_grace_s = -1; }), HasSubstr("--drain-grace"));
  EXPECT_THAT(message([](auto& o) { o.log_level = "loud"; }), HasSubstr("loud"));
}

}  // namespace
}  // namespace tutti::rpc
