#include "services/target/decode_stream.h"

#include <limits>

#include "shared/base/strings.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/log.h"

namespace tutti::target {

using decoder::v1::DecodeReply;
using decoder::v1::DecodeRequest;

namespace {

// A full queue moves; a cache that is too small for the sequence stays so.
absl::Status WithRetryHint(absl::Status status) {
  const bool passes =
      status.code() == absl::StatusCode::kResourceExhausted && ReasonOf(status) != "KV_TOO_SMALL";
  return passes ? WithRetryAfterMs(std::move(status), 500) : status;
}

}  // namespace

DecodeStreamReactor* DecodeStreamReactor::Start(DecoderServiceImpl* service,
                                                grpc::CallbackServerContext* context) {
  auto self = std::shared_ptr<DecodeStreamReactor>(new DecodeStreamReactor(service, context));
  self->self_ = self;
  ++service->num_streams_;
  self->StartRead(&self->request_);
  return self.get();
}

DecodeStreamReactor::~DecodeStreamReactor() = default;

void DecodeStreamReactor::OnReadDone(bool ok) {
  if (!ok) {
    // The client has nothing more to say; it may still listen.
    std::lock_guard lock(mutex_);
    if (!opened_) EndLocked(absl::InvalidArgumentError("open: the stream ended before it"));
    return;
  }
  if (absl::Status status = TakeMessage(); !status.ok()) {
    std::lock_guard lock(mutex_);
    EndSequenceLocked();
    EndLocked(std::move(status));
    return;
  }
  StartRead(&request_);
}

absl::Status DecodeStreamReactor::TakeMessage() {
  switch (request_.message_case()) {
    case DecodeRequest::kOpen:
      return Open();
    case DecodeRequest::kHint:
    case DecodeRequest::kConfirm: {
      // Hints are never obligations: this engine does not speculate yet. `confirm` is for drafts.
      std::lock_guard lock(mutex_);
      if (!opened_) return absl::InvalidArgumentError("open: must be the first message");
      return absl::OkStatus();
    }
    case DecodeRequest::kClose: {
      std::lock_guard lock(mutex_);
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

absl::Status DecodeStreamReactor::Open() {
  {
    std::lock_guard lock(mutex_);
    if (opened_) return absl::InvalidArgumentError("open: the stream has been opened already");
    // For the log, also of a refusal; checked below.
    request_id_ = Printable(request_.open().request_id(), wire::kMaxRequestIdBytes);
    traceparent_ = Printable(request_.open().traceparent(), 64);
  }
  TUTTI_ASSIGN_OR_RETURN(const auto* ready, service_->GetReady(/*for_new_work=*/true));
  TUTTI_ASSIGN_OR_RETURN(wire::DecodeOpen open,
                         wire::DecodeOpenFromProto(request_.open(), ready->model));
  if (open.lookahead != 0) {
    return absl::InvalidArgumentError("open.lookahead: must be 0 on a target");
  }
  request_.Clear();
  const int64_t left_us = rpc::RemainingUs(context_->deadline());
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
  if (cancelled_) return absl::OkStatus();
  if (telemetry::LogEnabled(telemetry::Level::kDebug)) {
    telemetry::Log(telemetry::Level::kDebug, "target/admit",
                   {{"request_id", request_id_},
                    {"traceparent", traceparent_},
                    {"prompt_tokens", std::to_string(num_prompt_)},
                    {"generated_tokens", std::to_string(num_output_)}});
  }
  auto id = loop_->Submit(std::move(open.sequence), self_);
  if (!id.ok()) return WithRetryHint(id.status());
  sequence_ = *id;
  return absl::OkStatus();
}

void DecodeStreamReactor::OnOutput(engine::SequenceOutput output, bool hold) {
  std::lock_guard lock(mutex_);
  if (status_.has_value()) return;
  holding_ = hold;
  if (!output.tokens.empty() || !output.prompt_tokens.empty()) {
    wire::TokensToProto(output, logprobs_, prompt_logprobs_, pending_.mutable_tokens());
    has_pending_ = true;
    num_output_ += static_cast<int32_t>(output.tokens.size());
  }
  if (output.finish != engine::FinishReason::kNone) {
    sequence_.reset();
    usage_ = output.usage;
    if (output.finish == engine::FinishReason::kError) {
      EndLocked(output.status.ok() ? absl::InternalError("the engine gave no reason")
                                   : output.status);
      return;
    }
    wire::FinishedToProto(output, last_reply_.mutable_finished());
    has_last_ = true;
    EndLocked(absl::OkStatus());
    return;
  }
  PumpLocked();
}

void DecodeStreamReactor::Flush() {
  std::lock_guard lock(mutex_);
  holding_ = false;
  PumpLocked();
}

void DecodeStreamReactor::OnRefused(absl::Status status) {
  std::lock_guard lock(mutex_);
  sequence_.reset();
  EndLocked(WithRetryHint(std::move(status)));
}

void DecodeStreamReactor::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) {  // the client is gone
    EndSequenceLocked();
    has_pending_ = false;
    EndLocked(absl::CancelledError("the client is gone"));
    return;
  }
  PumpLocked();
}

void DecodeStreamReactor::OnCancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  EndSequenceLocked();
  has_pending_ = false;
  EndLocked(absl::CancelledError("cancelled by the client, or its deadline has passed"));
}

void DecodeStreamReactor::OnDone() {
  --service_->num_streams_;
  self_.reset();  // the engine may hold the last reference, for an instant
}

void DecodeStreamReactor::EndSequenceLocked() {
  if (!sequence_.has_value()) return;
  loop_->Cancel(*sequence_);
  sequence_.reset();
}

void DecodeStreamReactor::EndLocked(absl::Status status) {
  if (!status_.has_value()) {
    LogEnd(status);
    status_ = std::move(status);
  }
  PumpLocked();
}

void DecodeStreamReactor::PumpLocked() {
  if (writing_ || finish_started_) return;
  if (has_pending_ && holding_ && !status_.has_value()) return;
  if (has_pending_) {
    writing_reply_.Swap(&pending_);
    // Clear keeps the memory of the tokens for the next message.
    if (pending_.has_tokens()) pending_.mutable_tokens()->Clear();
    has_pending_ = false;
    writing_ = true;
    // Not with a buffer hint, even if the end follows: gRPC 1.51 may then hold a stream's first
    // write back until something else flushes the connection.
    StartWrite(&writing_reply_);
    return;
  }
  if (!status_.has_value()) return;
  finish_started_ = true;
  if (has_last_ && status_->ok()) {
    StartWriteAndFinish(&last_reply_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    Finish(rpc::ToGrpc(*status_));
  }
}

void DecodeStreamReactor::LogEnd(const absl::Status& status) {
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
