// A session's choices: opened at a decoder, their tokens taken and checked, taken elsewhere when it
// is lost.
#include <algorithm>
#include <limits>

#include "shared/base/hash.h"
#include "shared/router/session.h"

namespace tutti::router {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

// Another worker could do no better: the request, the model or the client is the cause.
bool IsFinal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return true;
    case absl::StatusCode::kInternal:
      return ReasonOf(status) == "NUMERIC_FAULT";
    default:
      return false;
  }
}

}  // namespace

// A reader that knows the parameters can tell from the tokens alone that the output is complete,
// which matters when a decoder died between its last token and saying so.
FinishReason Session::ImpliedFinish(const Choice& c) const {
  const sampling::SamplingParams& p = spec_->sampling;
  if (p.num_beams > 1 || c.tokens.empty()) return FinishReason::kNone;
  const int32_t last = c.tokens.back().id;
  const auto& eos = model_->info.eos_ids;
  if (!p.ignore_eos && std::find(eos.begin(), eos.end(), last) != eos.end())
    return FinishReason::kEos;
  if (std::find(p.stop_ids.begin(), p.stop_ids.end(), last) != p.stop_ids.end())
    return FinishReason::kStop;
  if (static_cast<int64_t>(c.tokens.size()) >= p.max_tokens) return FinishReason::kLength;
  return FinishReason::kNone;
}

bool Session::IsHidden(int32_t token_id) const {
  const sampling::SamplingParams& p = spec_->sampling;
  if (std::find(p.stop_ids.begin(), p.stop_ids.end(), token_id) != p.stop_ids.end()) return true;
  const auto& eos = model_->info.eos_ids;
  return spec_->skip_special && !p.ignore_eos &&
         std::find(eos.begin(), eos.end(), token_id) != eos.end();
}

Finish Session::MakeFinish(FinishReason reason) const {
  Finish f;
  f.reason = reason;
  f.usage.prompt_tokens = prompt_ids_ == nullptr ? 0 : static_cast<int32_t>(prompt_ids_->size());
  return f;
}

void Session::OpenChoice(Context& ctx, size_t index) {
  Choice& c = choices_[index];
  if (const FinishReason implied = ImpliedFinish(c); implied != FinishReason::kNone) {
    return FinishChoice(ctx, index, MakeFinish(implied));
  }
  const WorkerHandle worker =
      ctx.fleet.PickTarget(model_->info.fingerprint, *prompt_ids_, c.excluded_until_us, ctx.now_us);
  if (worker == 0) {
    MayWait(ctx, &c.waiting_since_us, "a target of the request's model");
    return;
  }
  c.worker = worker;
  c.opened_us = c.last_progress_us = ctx.now_us;
  c.tokens_at_open = c.tokens.size();
  c.usage = {};
  c.accepted_hint_tokens = 0;
  action::OpenDecode open = OpenCall(ctx, index, worker);
  c.call = open.call;
  OpenRequest& o = open.open;
  // The prompt's logprobs are the same for every choice: asked once.
  if (index != 0 || !c.prompt_tokens.empty()) o.sampling.prompt_logprobs = -1;
  o.fingerprint = model_->info.fingerprint;
  ctx.actions.push_back(std::move(open));
  SendHint(ctx, c, c.tokens.size());
}

action::OpenDecode Session::OpenCall(Context& ctx, size_t index, WorkerHandle worker) {
  return ctx.MakeDecode(this, static_cast<int>(index), worker, model_->info.vocab_size,
                        MakeOpenRequest(choices_[index], index));
}

OpenRequest Session::MakeOpenRequest(const Choice& c, size_t index) const {
  OpenRequest o;
  o.request_id = request_id();
  o.prompt_ids = prompt_ids_;
  o.generated_ids.reserve(c.tokens.size());
  o.digests.reserve(c.tokens.size());
  for (const Token& t : c.tokens) {
    o.generated_ids.push_back(t.id);
    o.digests.push_back(t.digest);
  }
  o.digest = c.tokens.empty() ? 0 : c.tokens.back().digest;
  o.sampling = spec_->sampling;
  o.sampling.sample_index =
      static_cast<uint32_t>(spec_->first_choice) + static_cast<uint32_t>(index);
  o.priority = spec_->priority;
  o.client = spec_->client.empty() ? 0 : Hash64(spec_->client);
  o.traceparent = spec_->traceparent;
  return o;
}

void Session::OnTokens(Context& ctx, int choice, CallId call, DecodedTokens got) {
  const size_t index = static_cast<size_t>(choice);
  Choice& c = choices_[index];
  if (done_ || c.finish.has_value()) return;  // late
  if (call == c.draft.call) return OnDraftTokens(ctx, index, std::move(got));
  if (c.call != call) return;
  c.last_progress_us = ctx.now_us;
  if (!got.prompt_tokens.empty() && c.prompt_tokens.empty()) {
    if (got.prompt_tokens.size() > prompt_ids_->size())
      got.prompt_tokens.resize(prompt_ids_->size());
    c.prompt_tokens = std::move(got.prompt_tokens);
    ctx.actions.push_back(
        action::JournalPrompt{request_id(), static_cast<uint32_t>(index), c.prompt_tokens});
  }
  const size_t have = c.tokens.size();
  if (got.position > have) {
    // Something between was lost. What we have is right; ask for the rest again.
    return LoseCall(ctx, index,
                    absl::AbortedError("tokens " + std::to_string(have) + " to " +
                                       std::to_string(got.position - 1) + " did not arrive"));
  }
  c.usage.cached_tokens = got.usage.cached_tokens;
  c.usage.proposed_tokens = std::max(c.usage.proposed_tokens, got.usage.proposed_tokens);
  const int32_t accepted_before = c.usage.accepted_tokens, hints_before = c.accepted_hint_tokens;
  c.accepted_hint_tokens = std::max(hints_before, got.accepted_hint_tokens);
  c.usage.accepted_tokens = std::max(c.usage.accepted_tokens, got.usage.accepted_tokens);
  int matched = -1;
  for (size_t i = 0; i < got.tokens.size() && matched < 0; ++i) {
    Token& t = got.tokens[i];
    const size_t position = got.position + i;
    absl::Status wrong;
    if (position < have) {
      const Token& known = c.tokens[position];
      if (known.id == t.id && known.digest == t.digest) continue;  // told before
      wrong = absl::InternalError("token " + std::to_string(position) + " of choice " +
                                  std::to_string(index) + " was " + std::to_string(known.id) +
                                  " and is now " + std::to_string(t.id) +
                                  (known.id == t.id ? " with another digest" : ""));
    } else if (t.id < 0 || t.id >= model_->info.vocab_size) {
      wrong = absl::InternalError("token " + std::to_string(position) + " has id " +
                                  std::to_string(t.id) + ", the vocabulary has " +
                                  std::to_string(model_->info.vocab_size));
    }
    if (!wrong.ok()) {
      const std::string worker = ctx.fleet.IdOf(c.worker);
      wrong = WithReason(Annotate(wrong, "target[" + worker + "]"), "DIGEST_MISMATCH");
      ctx.observer.OnContradiction(request_id(), static_cast<uint32_t>(index), worker, wrong);
      return Fail(ctx, wrong);
    }
    if (static_cast<int64_t>(position) >= spec_->sampling.max_tokens) break;
    OutputText::Piece piece = c.text->Push(t.id, IsHidden(t.id));
    t.text = std::move(piece.text);
    matched = piece.matched;
    c.tokens.push_back(std::move(t));
  }
  const size_t added = c.tokens.size() - have;
  if (added > 0) {
    NoteAgreement(ctx, c);
    if (c.authors.empty() || c.authors.back() != c.worker) c.authors.push_back(c.worker);
    c.fruitless = 0;
    c.waiting_since_us = -1;
    if (c.draft.worker != 0) {
      ctx.fleet.NoteDraftUse(c.draft.worker,
                             {.drafted = c.draft.call != 0,
                              .tokens = static_cast<int32_t>(added),
                              .accepted = c.accepted_hint_tokens - hints_before,
                              .us = c.last_token_us > 0 ? ctx.now_us - c.last_token_us : 0,
                              .target = c.worker},
                             ctx.now_us);
      if (ctx.fleet.IsDraftPaused(c.draft.worker, ctx.now_us)) CloseDraft(ctx, c);
    }
    if (first_token_us_ < 0) {
      first_token_us_ = ctx.now_us;
      ctx.observer.OnFirstToken(ctx.now_us - created_us_);
    }
    if (c.last_token_us > 0)
      ctx.observer.OnTokens(static_cast<int32_t>(added), ctx.now_us - c.last_token_us);
    c.last_token_us = last_progress_us_ = ctx.now_us;
    action::JournalAppend append;
    append.request_id = request_id();
    append.index = static_cast<uint32_t>(index);
    append.first_index = static_cast<uint32_t>(have);
    append.tokens.assign(c.tokens.begin() + static_cast<ptrdiff_t>(have), c.tokens.end());
    ctx.actions.push_back(std::move(append));
  }
  if (matched >= 0) {
    // The target does not know that this was the end: what it guessed beyond was in vain.
    const auto beyond = static_cast<int32_t>(got.position + got.tokens.size() - c.tokens.size());
    c.usage.accepted_tokens = std::max(accepted_before, c.usage.accepted_tokens - beyond);
    Finish f = MakeFinish(FinishReason::kStop);
    f.usage.cached_tokens = c.usage.cached_tokens;
    f.usage.proposed_tokens = c.usage.proposed_tokens;
    f.usage.accepted_tokens = c.usage.accepted_tokens;
    f.matched_stop = c.text->stop(matched);
    return FinishChoice(ctx, index, std::move(f));
  }
  if (added > 0) ConfirmToDraft(ctx, c, have);
  WakeAll(ctx);
}

void Session::OnDecodeEnd(Context& ctx, int choice, CallId call, DecodeEnd end) {
  const size_t index = static_cast<size_t>(choice);
  Choice& c = choices_[index];
  if (done_ || c.finish.has_value()) return;
  if (call == c.draft.call) {
    return LoseDraft(ctx, c, absl::InternalError("a draft has no end of its own"));
  }
  if (c.call != call) return;
  // Beam search sends no tokens on the way: its output is the beams.
  if (end.beams.empty() && end.usage.output_tokens > static_cast<int64_t>(c.tokens.size())) {
    return LoseCall(
        ctx, index,
        absl::AbortedError("the decoder made " + std::to_string(end.usage.output_tokens) +
                           " tokens, " + std::to_string(c.tokens.size()) + " arrived"));
  }
  switch (end.reason) {
    case FinishReason::kEos:
    case FinishReason::kStop:
    case FinishReason::kLength:
      break;
    default:  // cancelled or timed out there, not by us
      return LoseCall(ctx, index, absl::UnavailableError("the decoder gave up"));
  }
  ctx.observer.OnDecodeUsage(end.usage);
  NoteAgreement(ctx, c);
  Finish f = MakeFinish(end.reason);
  f.usage = end.usage;
  f.usage.prompt_tokens = static_cast<int32_t>(prompt_ids_->size());
  f.beams = std::move(end.beams);
  for (Beam& b : f.beams) {
    if (c.text.has_value())
      b.text = model_->vocabulary->decoder->Decode(b.token_ids, spec_->skip_special);
  }
  FinishChoice(ctx, index, std::move(f));
}

void Session::FinishChoice(Context& ctx, size_t index, Finish finish) {
  Choice& c = choices_[index];
  CloseCall(ctx, c);
  CloseDraft(ctx, c);
  // An output that was broken off has no end that could release anything: its text stays a prefix.
  const bool broken_off =
      finish.reason == FinishReason::kCancelled || finish.reason == FinishReason::kDeadline;
  if (!broken_off && finish.matched_stop.empty() && c.text.has_value()) {
    OutputText::Piece piece = c.text->Flush();
    finish.tail_text = std::move(piece.text);
    if (piece.matched >= 0) {
      finish.reason = FinishReason::kStop;
      finish.matched_stop = c.text->stop(piece.matched);
    }
  }
  if (finish.reason == FinishReason::kStop && finish.matched_stop.empty() && !c.tokens.empty()) {
    finish.matched_stop_id = c.tokens.back().id;
  }
  finish.failovers = c.failovers;
  if (finish.beams.empty()) {
    finish.usage.output_tokens = static_cast<int32_t>(c.tokens.size());
  }
  if (!broken_off) OfferAudit(ctx, index);
  c.finish = std::move(finish);
  c.text.reset();
  if (journaled_) {
    ctx.actions.push_back(
        action::JournalFinish{request_id(), static_cast<uint32_t>(index), *c.finish});
  }
  WakeAll(ctx);
  CheckDone(ctx);
}

void Session::OfferAudit(Context& ctx, size_t index) const {
  const Choice& c = choices_[index];
  if (c.authors.empty() || c.tokens.empty() || spec_->sampling.num_beams > 1) return;
  if (!ctx.auditor.IsTurn()) return;
  Auditor::Output output;
  output.open = MakeOpenRequest(c, index);
  output.open.fingerprint = model_->info.fingerprint;
  output.open.sampling.max_tokens = static_cast<int32_t>(c.tokens.size());
  output.open.sampling.min_tokens =
      std::min(output.open.sampling.min_tokens, output.open.sampling.max_tokens);
  output.vocab_size = model_->info.vocab_size;
  output.author = c.authors.back();
  output.author_id = ctx.fleet.IdOf(output.author);
  ctx.auditor.Add(std::move(output));
}

void Session::CloseCall(Context& ctx, Choice& c) {
  if (c.call == 0) return;
  ctx.Cancel(c.call);
  c.call = 0;
}

void Session::OnCallClosed(Context& ctx, int choice, CallId call, const absl::Status& status) {
  const size_t index = static_cast<size_t>(choice);
  Choice& c = choices_[index];
  if (done_ || c.finish.has_value()) return;
  if (call == c.draft.call) {
    return LoseDraft(ctx, c, status.ok() ? absl::UnavailableError("it ended") : status);
  }
  if (c.call != call) return;
  LoseCall(ctx, index,
           status.ok() ? absl::UnavailableError("the stream ended without an end") : status);
}

// The decoder of a choice is lost or has refused: go to another one, wait, or give up.
void Session::LoseCall(Context& ctx, size_t index, const absl::Status& why) {
  Choice& c = choices_[index];
  const WorkerHandle worker = c.worker;
  const std::string worker_id = ctx.fleet.IdOf(worker);
  CloseCall(ctx, c);
  const std::string reason = ReasonOf(why);
  if (IsFinal(why)) return AskSecondOpinion(ctx, index, worker, why);
  if (reason == kResumeMismatch) return AskWhoIsRight(ctx, index, worker, why);
  if (absl::IsDataLoss(why)) return Fail(ctx, why);  // what was sent was wrong

  if (why.code() == absl::StatusCode::kResourceExhausted) {  // refused: nobody died
    const bool never = reason == "KV_TOO_SMALL";
    c.excluded_until_us[worker] = never ? kForever : ctx.now_us + ctx.options.retry_worker_us;
    const bool hopeless =
        never && !ctx.fleet.HasTarget(model_->info.fingerprint, c.excluded_until_us);
    // No target will ever hold it: the request is wrong, and coming again does not help.
    if (hopeless) {
      return Fail(ctx, WithReason(absl::InvalidArgumentError(std::string(why.message())), reason));
    }
    // A queue that is full is no place to wait in, unless this very request is what fills it.
    const bool others =
        std::any_of(choices_.begin(), choices_.end(), [](const Choice& o) { return o.call != 0; });
    if (!never && !others && !HasProgress() &&
        ctx.fleet.PickTarget(model_->info.fingerprint, *prompt_ids_, c.excluded_until_us,
                             ctx.now_us) == 0) {
      const int64_t retry_ms =
          RetryAfterMs(why) >= 0 ? RetryAfterMs(why) : ctx.options.retry_after_us / 1000;
      return Fail(ctx, WithRetryAfterMs(why, retry_ms));
    }
    if (!MayWait(ctx, &c.waiting_since_us, "a target with room")) return;
    return OpenChoice(ctx, index);
  }

  c.waiting_since_us = -1;
  const bool gap = why.code() == absl::StatusCode::kAborted;
  c.fruitless = c.tokens.size() > c.tokens_at_open ? 1 : c.fruitless + 1;
  ++c.failovers;
  ctx.observer.OnFailover(request_id(), static_cast<uint32_t>(index), worker_id, c.tokens.size(),
                          why);
  if (c.fruitless >= ctx.options.max_fruitless_attempts) {
    return Fail(
        ctx,
        WithReason(absl::UnavailableError("router: gave up after " + std::to_string(c.fruitless) +
                                          " decoders without a new token; the last one: " +
                                          std::string(why.message())),
                   "DECODERS_LOST"));
  }
  if (why.code() == absl::StatusCode::kFailedPrecondition) {
    c.excluded_until_us[worker] =
        kForever;  // other weights there now; a worker that joins again is asked again
  } else if (!gap) {
    ctx.fleet.NoteFailure(worker, ctx.now_us);
    c.excluded_until_us[worker] =
        ctx.now_us + (ctx.options.retry_worker_us << std::min(c.fruitless - 1, 10));
  }
  OpenChoice(ctx, index);
}

}  // namespace tutti::router
