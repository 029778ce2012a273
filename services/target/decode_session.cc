#include "services/target/decode_session.h"

#include <limits>

#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"

namespace tutti::target {

using decoder::v1::DecodeRequest;

namespace {

constexpr uint32_t kMaxLookahead = 1024;

// A full queue moves; a cache that is too small for the sequence stays so.
absl::Status WithRetryHint(absl::Status status) {
  const bool passes = status.code() == absl::StatusCode::kResourceExhausted &&
                      ReasonOf(status) != "KV_TOO_SMALL" && RetryAfterMs(status) < 0;
  return passes ? WithRetryAfterMs(std::move(status), 500) : status;
}

}  // namespace

DecodeSession::DecodeSession(DecoderServiceImpl* service, std::mutex* mutex)
    : mutex_(*mutex), service_(service) {}

DecodeSession::~DecodeSession() = default;

absl::Status DecodeSession::Take(const DecodeRequest& request, int64_t left_us,
                                 std::shared_ptr<OutputSink> self) {
  if (request.message_case() == DecodeRequest::kOpen) {
    return Open(request.open(), left_us, std::move(self));
  }
  std::lock_guard lock(mutex_);
  switch (request.message_case()) {
    case DecodeRequest::kHint:
    case DecodeRequest::kConfirm:
      if (!opened_) return absl::InvalidArgumentError("open: must be the first message");
      return TakeHintLocked(request);
    case DecodeRequest::kClose: {
      if (!opened_) return absl::InvalidArgumentError("open: must be the first message");
      if (status_.has_value()) return absl::OkStatus();
      EndSequenceLocked();
      engine::SequenceOutput output;
      output.finish = engine::FinishReason::kCancelled;
      output.usage.prompt_tokens = num_prompt_;
      output.usage.output_tokens = num_output_;
      wire::FinishedToProto(output, last_reply_.mutable_finished());
      has_last_ = true;
      EndLocked(absl::OkStatus());
      return absl::OkStatus();
    }
    default:
      return absl::InvalidArgumentError("message: one of open, hint, confirm and close is needed");
  }
}

// What comes for a sequence that has ended crossed its end on the way.
absl::Status DecodeSession::TakeHintLocked(const DecodeRequest& request) {
  const bool is_hint = request.message_case() == DecodeRequest::kHint;
  const std::string name = is_hint ? "hint" : "confirm";
  const uint32_t position = is_hint ? request.hint().position() : request.confirm().position();
  const auto& ids = is_hint ? request.hint().token_ids() : request.confirm().token_ids();
  if (int64_t{position} + ids.size() > wire::kMaxSequenceTokens) {
    return absl::InvalidArgumentError(name + ".position: " + std::to_string(position) +
                                      " is beyond any sequence");
  }
  if (!sequence_.has_value()) return absl::OkStatus();
  std::vector<int32_t> tokens(ids.begin(), ids.end());
  if (is_hint) {
    loop_->Hint(*sequence_, static_cast<int32_t>(position), std::move(tokens));
  } else {
    loop_->Confirm(*sequence_, request.confirm().epoch(), static_cast<int32_t>(position),
                   std::move(tokens));
  }
  return absl::OkStatus();
}

absl::Status DecodeSession::Open(const decoder::v1::Open& proto, int64_t left_us,
                                 std::shared_ptr<OutputSink> self) {
  {
    std::lock_guard lock(mutex_);
    if (opened_) return absl::InvalidArgumentError("open: the stream has been opened already");
    // For the log, also of a refusal; checked below.
    request_id_ = Printable(proto.request_id(), wire::kMaxRequestIdBytes);
    traceparent_ = Printable(proto.traceparent(), 64);
  }
  TUTTI_ASSIGN_OR_RETURN(const auto* ready, service_->GetReady(/*for_new_work=*/true));
  TUTTI_ASSIGN_OR_RETURN(wire::DecodeOpen open, wire::DecodeOpenFromProto(proto, ready->model));
  if (open.lookahead > (ready->is_draft ? kMaxLookahead : 0)) {
    return absl::InvalidArgumentError(ready->is_draft ? "open.lookahead: at most 1024"
                                                      : "open.lookahead: must be 0 on a target");
  }
  open.sequence.lookahead = static_cast<int32_t>(open.lookahead);
  open.sequence.group = open.request_id.empty() ? 0 : Hash64(open.request_id);
  if (left_us != std::numeric_limits<int64_t>::max()) {
    open.sequence.deadline_us = EngineLoop::NowUs() + left_us;
  }

  // Held over the submit, so that a cancel which comes now finds the id.
  std::lock_guard lock(mutex_);
  opened_ = true;
  loop_ = ready->loop;
  num_prompt_ = static_cast<int32_t>(open.sequence.prompt.size());
  num_output_ = static_cast<int32_t>(open.sequence.generated.size());
  logprobs_ = open.sequence.params.logprobs >= 0;
  prompt_logprobs_ = open.sequence.params.prompt_logprobs >= 0;
  if (status_.has_value()) return absl::OkStatus();  // cancelled meanwhile
  if (telemetry::LogEnabled(telemetry::Level::kDebug)) {
    telemetry::Log(telemetry::Level::kDebug, "target/admit",
                   {{"request_id", request_id_},
                    {"traceparent", traceparent_},
                    {"prompt_tokens", std::to_string(num_prompt_)},
                    {"generated_tokens", std::to_string(num_output_)}});
  }
  auto id = loop_->Submit(std::move(open.sequence), std::move(self));
  if (!id.ok()) return WithRetryHint(id.status());
  sequence_ = *id;
  return absl::OkStatus();
}

void DecodeSession::OnOutput(engine::SequenceOutput output) {
  std::lock_guard lock(mutex_);
  if (status_.has_value()) return;
  if (!output.tokens.empty() || !output.prompt_tokens.empty()) {
    // What a draft said before it was taken back is of no use to anybody.
    const auto& pending = pending_.tokens();
    const bool goes_on =
        pending.tokens().empty() || output.tokens.empty() ||
        static_cast<int64_t>(pending.position()) + pending.tokens_size() == output.first_index;
    if (pending.epoch() != output.epoch || !goes_on) pending_.Clear();
    wire::TokensToProto(output, logprobs_, prompt_logprobs_, pending_.mutable_tokens());
    has_pending_ = true;
    num_output_ += static_cast<int32_t>(output.tokens.size());
  }
  if (output.finish == engine::FinishReason::kNone) return;
  sequence_.reset();
  usage_ = output.usage;
  if (output.finish != engine::FinishReason::kError) {
    wire::FinishedToProto(output, last_reply_.mutable_finished());
    has_last_ = true;
    output.status = absl::OkStatus();
  } else if (output.status.ok()) {
    output.status = absl::InternalError("the engine gave no reason");
  }
  LogEnd(output.status);
  status_ = std::move(output.status);
}

void DecodeSession::Flush() {
  std::lock_guard lock(mutex_);
  PumpLocked();
}

void DecodeSession::OnRefused(absl::Status status) {
  std::lock_guard lock(mutex_);
  sequence_.reset();
  EndLocked(WithRetryHint(std::move(status)));
}

void DecodeSession::FailLocked(absl::Status status) {
  EndSequenceLocked();
  EndLocked(std::move(status));
}

void DecodeSession::CancelLocked(absl::Status status) {
  has_pending_ = false;
  FailLocked(std::move(status));
}

void DecodeSession::EndSequenceLocked() {
  if (!sequence_.has_value()) return;
  loop_->Cancel(*sequence_);
  sequence_.reset();
}

void DecodeSession::EndLocked(absl::Status status) {
  if (!status_.has_value()) {
    LogEnd(status);
    status_ = std::move(status);
  }
  PumpLocked();
}

void DecodeSession::LogEnd(const absl::Status& status) {
  const bool bad = !status.ok() && status.code() != absl::StatusCode::kCancelled;
  const auto level = bad ? telemetry::Level::kWarning : telemetry::Level::kInfo;
  if (!opened_ && !bad) return;
  if (!telemetry::LogEnabled(level)) return;
  telemetry::Log(
      level, "target/end",
      {{"request_id", request_id_},
       {"traceparent", traceparent_},
       {"result", status.ok() ? common::v1::FinishReason_Name(last_reply_.finished().reason())
                              : status.ToString()},
       {"prompt_tokens", std::to_string(num_prompt_)},
       {"output_tokens", std::to_string(num_output_)},
       {"queue_ms", std::to_string(usage_.queue_us / 1000)},
       {"prefill_ms", std::to_string(usage_.prefill_us / 1000)},
       {"decode_ms", std::to_string(usage_.decode_us / 1000)}});
}

}  // namespace tutti::target
