#include "shared/router/auditor.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "shared/router/session.h"

namespace tutti::router {
namespace {

constexpr size_t kMaxWaiting = 16;             // outputs; of more the oldest are let go
constexpr size_t kMaxWaitingTokens = 1 << 16;  // of prompt and output together, of one
constexpr int64_t kTimeoutUs = 120'000'000;    // an audit waits behind everything else
constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

}  // namespace

const char* AuditResultName(AuditResult result) {
  switch (result) {
    case AuditResult::kAgreed:
      return "agreed";
    case AuditResult::kWrongOutput:
      return "wrong_output";
    case AuditResult::kWrongAuditor:
      return "wrong_auditor";
    case AuditResult::kUnresolved:
      return "unresolved";
    case AuditResult::kInconclusive:
      return "inconclusive";
  }
  return "";
}

bool Auditor::IsTurn() {
  due_ += rate_;
  if (due_ < 1) return false;
  due_ -= 1;
  return true;
}

void Auditor::Add(Output output) {
  if (output.open.prompt_ids->size() + output.open.generated_ids.size() > kMaxWaitingTokens) return;
  output.open.priority = kLowest;
  output.open.sampling.prompt_logprobs = -1;
  output.open.lookahead = 0;
  output.open.request_id += "/audit";
  waiting_.push_back(std::move(output));
  if (waiting_.size() > kMaxWaiting) waiting_.pop_front();
}

void Auditor::Tick(Context& ctx) {
  if (running_.has_value() && ctx.now_us - running_->opened_us >= kTimeoutUs)
    Conclude(ctx, AuditResult::kInconclusive);
  if (running_.has_value() || waiting_.empty()) return;
  running_.emplace(std::move(waiting_.front()));
  waiting_.pop_front();
  if (!Ask(ctx)) Conclude(ctx, AuditResult::kInconclusive);
}

// Asks a target that neither made the output nor was asked before. False when there is none.
bool Auditor::Ask(Context& ctx) {
  Audit& a = *running_;
  std::map<WorkerHandle, int64_t> excluded = {{a.output.author, kForever}};
  for (const WorkerHandle denier : a.deniers) excluded[denier] = kForever;
  WorkerHandle worker = ctx.fleet.PickTarget(a.output.open.fingerprint, *a.output.open.prompt_ids,
                                             excluded, ctx.now_us);
  if (worker == 0 && a.deniers.size() == 1 && ctx.fleet.IsUsable(a.output.author))
    worker = a.output.author;  // may not say the same twice
  if (worker == 0) return false;
  action::OpenDecode open =
      ctx.MakeDecode(nullptr, CallTable::kAudit, worker, a.output.vocab_size, a.output.open);
  a.call = open.call;
  a.worker = worker;
  a.opened_us = ctx.now_us;
  ctx.actions.push_back(std::move(open));
  return true;
}

void Auditor::OnDecodeEnd(Context& ctx, CallId call, const DecodeEnd& end) {
  if (!running_.has_value() || running_->call != call) return;
  Audit& a = *running_;
  const bool whole =
      (end.reason == FinishReason::kEos || end.reason == FinishReason::kStop ||
       end.reason == FinishReason::kLength) &&
      end.usage.output_tokens == static_cast<int32_t>(a.output.open.generated_ids.size());
  if (!whole) return Conclude(ctx, AuditResult::kInconclusive);
  if (a.deniers.empty()) return Conclude(ctx, AuditResult::kAgreed);
  if (a.worker == a.output.author) return Conclude(ctx, AuditResult::kUnresolved);
  ctx.fleet.Distrust(a.deniers[0],
                     absl::DataLossError("audit: it computes other tokens than targets " +
                                         a.output.author_id + " and " + ctx.fleet.IdOf(a.worker)));
  Conclude(ctx, AuditResult::kWrongAuditor);
}

void Auditor::OnCallClosed(Context& ctx, CallId call, const absl::Status& status) {
  if (!running_.has_value() || running_->call != call) return;
  Audit& a = *running_;
  if (ReasonOf(status) != kResumeMismatch) return Conclude(ctx, AuditResult::kInconclusive);
  a.denial = std::string(status.message());
  a.deniers.push_back(a.worker);
  if (a.deniers.size() >= 2) {
    ctx.fleet.Distrust(a.output.author,
                       absl::DataLossError("audit: its output is wrong: " + a.denial));
    return Conclude(ctx, AuditResult::kWrongOutput);
  }
  Close(ctx);
  if (!Ask(ctx)) Conclude(ctx, AuditResult::kUnresolved);
}

void Auditor::Close(Context& ctx) {
  Audit& a = *running_;
  if (a.call == 0) return;
  ctx.Cancel(a.call);
  a.call = 0;
}

void Auditor::Conclude(Context& ctx, AuditResult result) {
  Close(ctx);
  ctx.observer.OnAudit(running_->output.open.request_id, running_->output.author_id,
                       AuditResultName(result), running_->denial);
  running_.reset();
}

}  // namespace tutti::router
