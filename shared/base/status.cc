#include "shared/base/status.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "shared/base/strings.h"

namespace tutti {
namespace {
constexpr char kReasonUrl[] = "tutti/reason";
constexpr char kRetryUrl[] = "tutti/retry_after_ms";
}  // namespace

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  std::string message(context);
  message.append(": ").append(status.message().data(), status.message().size());
  absl::Status out(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& value) { out.SetPayload(url, value); });
  return out;
}

absl::Status WithReason(absl::Status status, std::string_view reason) {
  if (!status.ok()) status.SetPayload(kReasonUrl, absl::Cord(ToAbsl(reason)));
  return status;
}

absl::Status WithRetryAfterMs(absl::Status status, int64_t ms) {
  if (!status.ok()) status.SetPayload(kRetryUrl, absl::Cord(std::to_string(ms < 0 ? 0 : ms)));
  return status;
}

int64_t RetryAfterMs(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryUrl);
  int64_t ms = -1;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &ms)) return -1;
  return ms;
}

std::string ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kReasonUrl);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace tutti
