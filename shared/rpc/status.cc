#include "shared/rpc/status.h"

#include <algorithm>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "shared/base/strings.h"

namespace tutti::rpc {
namespace {

constexpr char kDomain[] = "tutti";
constexpr size_t kMaxMessageBytes = 2048;
constexpr size_t kMaxReasonBytes = 64;

// The type URL's last segment is all that readers look at.
template <typename Detail>
void Pack(const Detail& detail, google::rpc::Status* out) {
  out->add_details()->PackFrom(detail);
}

bool IsReason(const std::string& reason) {
  return !reason.empty() && reason.size() <= kMaxReasonBytes &&
         std::all_of(reason.begin(), reason.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
         });
}

absl::StatusCode Code(grpc::StatusCode code) {
  const int value = static_cast<int>(code);
  // A peer may send any number; what is no code is an unknown error, never OK.
  return value >= 0 && value <= 16 ? static_cast<absl::StatusCode>(value)
                                   : absl::StatusCode::kUnknown;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string_view text = ToStd(status.message());
  std::string message = text.size() <= kMaxMessageBytes && IsValidUtf8(text)
                            ? std::string(text)
                            : Printable(text, kMaxMessageBytes);
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string reason = ReasonOf(status);
  const int64_t retry_ms = RetryAfterMs(status);
  if (reason.empty() && retry_ms < 0) return grpc::Status(code, message);

  google::rpc::Status details;
  details.set_code(static_cast<int>(code));
  details.set_message(message);
  if (!reason.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(reason);
    info.set_domain(kDomain);
    Pack(info, &details);
  }
  if (retry_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry_ms % 1000) * 1000000);
    Pack(retry, &details);
  }
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(Code(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    return out;
  }
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.Is<google::rpc::ErrorInfo>() && any.UnpackTo(&info)) {
      if (info.domain() == kDomain && IsReason(info.reason())) {
        out = WithReason(std::move(out), info.reason());
      }
    } else if (any.Is<google::rpc::RetryInfo>() && any.UnpackTo(&retry)) {
      constexpr int64_t kMaxSeconds = 24 * 3600;
      const int64_t seconds = std::clamp<int64_t>(retry.retry_delay().seconds(), 0, kMaxSeconds);
      const int64_t nanos = std::clamp<int64_t>(retry.retry_delay().nanos(), 0, 999999999);
      out = WithRetryAfterMs(std::move(out), seconds * 1000 + nanos / 1000000);
    }
  }
  return out;
}

}  // namespace tutti::rpc
