#include "shared/rpc/status.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "shared/base/strings.h"

namespace tutti::rpc {
namespace {

TEST(StatusTest, CodeMessageReasonAndRetryHintSurviveTheWire) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status sent = WithRetryAfterMs(
        WithReason(absl::Status(static_cast<absl::StatusCode>(code), "queue full: 256 wait"),
                   "QUEUE_FULL"),
        1250);
    const absl::Status got = FromGrpc(ToGrpc(sent));
    EXPECT_EQ(got.code(), sent.code());
    EXPECT_EQ(got.message(), sent.message());
    EXPECT_EQ(ReasonOf(got), "QUEUE_FULL");
    EXPECT_EQ(RetryAfterMs(got), 1250);
  }
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(StatusTest, DetailsAreGoogleRpcStatusWithErrorInfoOfOurDomain) {
  const grpc::Status wire =
      ToGrpc(WithReason(absl::ResourceExhaustedError("too small"), "KV_TOO_SMALL"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  EXPECT_EQ(details.code(), 8);
  EXPECT_EQ(details.message(), "too small");
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "tutti");
  EXPECT_EQ(info.reason(), "KV_TOO_SMALL");
}

TEST(StatusTest, AStatusWithoutReasonHasTheNameOfItsCode) {
  const grpc::Status wire = ToGrpc(absl::NotFoundError("x"));
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "NOT_FOUND");
  EXPECT_EQ(ReasonOf(FromGrpc(wire)), "") << "for programs it is a status without a reason";
}

TEST(StatusTest, HostileDetailsCostNothingButThemselves) {
  for (const std::string& junk : {std::string("\xFF\xFF\xFF"), std::string(1000, '\x0A')}) {
    const absl::Status got = FromGrpc(grpc::Status(grpc::StatusCode::ABORTED, "m", junk));
    EXPECT_EQ(got.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(ReasonOf(got), "");
    EXPECT_EQ(RetryAfterMs(got), -1);
  }
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  info.set_domain("tutti");
  info.set_reason("lower case\n");
  details.add_details()->PackFrom(info);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(INT64_MAX);
  retry.mutable_retry_delay()->set_nanos(-5);
  details.add_details()->PackFrom(retry);
  const absl::Status got =
      FromGrpc(grpc::Status(grpc::StatusCode::ABORTED, "m", details.SerializeAsString()));
  EXPECT_EQ(ReasonOf(got), "");
  EXPECT_EQ(RetryAfterMs(got), 24 * 3600 * 1000);
}

TEST(StatusTest, AnUnknownCodeIsAnErrorNeverOk) {
  const absl::Status got = FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(23), "m"));
  EXPECT_EQ(got.code(), absl::StatusCode::kUnknown);
}

TEST(StatusTest, MessagesAreBoundedAndUtf8OnTheWire) {
  const std::string cut = ToGrpc(absl::InternalError(std::string(100000, 'x'))).error_message();
  EXPECT_LE(cut.size(), 2100u);
  EXPECT_TRUE(IsValidUtf8(ToGrpc(absl::InternalError("\xFF\xFE")).error_message()));
}

}  // namespace
}  // namespace tutti::rpc
