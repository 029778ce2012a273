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

// The reason of a status that has none of its own: its code's name.
std::string PlainReason(absl::StatusCode code) { return absl::StatusCodeToString(code); }

absl::StatusCode Code(int value) {
  // A peer may send any number; what is no code is an unknown error, never OK.
  return value >= 0 && value <= 16 ? static_cast<absl::StatusCode>(value)
                                   : absl::StatusCode::kUnknown;
}

absl::Status WithDetails(absl::Status out, const google::rpc::Status& details) {
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.Is<google::rpc::ErrorInfo>() && any.UnpackTo(&info)) {
      if (info.domain() == kDomain && IsReason(info.reason()) &&
          info.reason() != PlainReason(out.code())) {
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

}  // namespace

void StatusToProto(const absl::Status& status, google::rpc::Status* proto) {
  proto->Clear();
  if (status.ok()) return;
  const std::string_view text = ToStd(status.message());
  proto->set_code(static_cast<int>(status.code()));
  proto->set_message(text.size() <= kMaxMessageBytes && IsValidUtf8(text)
                         ? std::string(text)
                         : Printable(text, kMaxMessageBytes));
  google::rpc::ErrorInfo info;
  const std::string reason = ReasonOf(status);
  info.set_reason(reason.empty() ? PlainReason(status.code()) : reason);
  info.set_domain(kDomain);
  Pack(info, proto);
  if (const int64_t retry_ms = RetryAfterMs(status); retry_ms >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry_ms % 1000) * 1000000);
    Pack(retry, proto);
  }
}

absl::Status StatusFromProto(const google::rpc::Status& proto) {
  if (proto.code() == 0) return absl::OkStatus();
  return WithDetails(absl::Status(Code(proto.code()), proto.message()), proto);
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  StatusToProto(status, &details);
  const auto code = static_cast<grpc::StatusCode>(status.code());
  return grpc::Status(code, details.message(), details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(Code(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    return out;
  }
  return WithDetails(std::move(out), details);
}

}  // namespace tutti::rpc
