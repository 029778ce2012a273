#include "shared/router/session.h"

#include <algorithm>
#include <limits>

#include "shared/router/validate.h"

namespace tutti::router {
namespace {

bool IsTransient(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kResourceExhausted;
}

std::string Seconds(int64_t us) {
  return std::to_string(us / 1'000'000) + "." + std::to_string(us / 100'000 % 10) + " s";
}

}  // namespace

action::OpenDecode Context::MakeDecode(Session* session, int choice, WorkerHandle worker,
                                       int32_t vocab_size, OpenRequest open) {
  action::OpenDecode out;
  out.call = calls.Open(session, choice, worker, &fleet);
  out.worker = worker;
  out.address = fleet.AddressOf(worker);
  out.vocab_size = vocab_size;
  out.open = std::move(open);
  return out;
}

void Context::Cancel(CallId call) {
  calls.Close(call, &fleet);
  actions.push_back(action::CancelCall{call});
}

Session::Session(RequestSpec spec, int64_t now_us)
    : spec_(std::make_shared<RequestSpec>(std::move(spec))), created_us_(now_us) {
  choices_.resize(static_cast<size_t>(spec_->n));
}

Session::Session(RequestSpec spec, store::StoredRequest stored, int64_t now_us)
    : spec_(std::make_shared<RequestSpec>(std::move(spec))), created_us_(now_us) {
  journaled_ = true;
  pinned_fingerprint_ = stored.request.fingerprint;
  spec_->request_id = stored.request.request_id;
  spec_->model = stored.request.model;
  spec_->n = stored.request.num_choices;
  spec_->sampling.seed = stored.request.seed;
  spec_->resume_token = std::move(stored.request.resume_token);
  prompt_ids_ = std::make_shared<const std::vector<int32_t>>(std::move(stored.request.prompt_ids));
  prompt_text_ = std::move(stored.request.prompt_text);
  choices_.resize(stored.choices.size());
  done_ = true;
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices_[i].tokens = std::move(stored.choices[i].tokens);
    choices_[i].prompt_tokens = std::move(stored.choices[i].prompt_tokens);
    choices_[i].finish = std::move(stored.choices[i].finish);
    if (choices_[i].finish.has_value()) {
      choices_[i].failovers = choices_[i].finish->failovers;
    } else {
      done_ = false;
    }
  }
}

void Session::WakeAll(Context& ctx) {
  for (const SubscriberId s : subscribers_) ctx.actions.push_back(action::Wake{s});
}

bool Session::HasProgress() const {
  return std::any_of(choices_.begin(), choices_.end(),
                     [](const Choice& c) { return !c.tokens.empty(); });
}

bool Session::MayWait(Context& ctx, int64_t* since_us, const char* for_what) {
  if (*since_us < 0) *since_us = ctx.now_us;
  // A worker that is not there now joins the next router.
  if (ctx.draining && !(phase_ == Phase::kDecode &&
                        ctx.fleet.HasTarget(model_->info.fingerprint, /*excluded_until_us=*/{}))) {
    Fail(ctx,
         WithReason(absl::UnavailableError(std::string("router: draining, without ") + for_what),
                    "DRAINING"));
    return false;
  }
  // While other choices get on, the wait is not in vain.
  if (ctx.now_us - std::max(*since_us, last_progress_us_) < ctx.options.worker_wait_us) return true;
  Fail(ctx,
       WithReason(absl::UnavailableError(std::string("router: waited ") +
                                         Seconds(ctx.options.worker_wait_us) + " for " + for_what),
                  "NO_WORKER"));
  return false;
}

void Session::Advance(Context& ctx) {
  if (done_) return;
  if (phase_ == Phase::kModel && !FindModel(ctx)) return;
  if (phase_ == Phase::kPrompt && !Encode(ctx)) return;
  for (size_t i = 0; i < choices_.size() && !done_; ++i) {
    if (choices_[i].finish.has_value()) continue;
    if (choices_[i].call == 0) OpenChoice(ctx, i);
    if (!done_) OpenDraft(ctx, i);
  }
}

// True when the phase is over.
bool Session::FindModel(Context& ctx) {
  if (pinned_fingerprint_ != 0) {
    model_ = ctx.fleet.FindModel(pinned_fingerprint_);
    if (!model_.has_value()) {
      MayWait(ctx, &waiting_since_us_, "a target of the request's model fingerprint");
      return false;
    }
  } else {
    absl::StatusOr<ModelEntry> entry = ctx.fleet.FindModel(spec_->model);
    if (!entry.ok()) {
      // Of a router that has just started, targets may be about to join.
      const bool early = absl::IsUnavailable(entry.status()) ||
                         (absl::IsNotFound(entry.status()) && ctx.fleet.IsSettling(ctx.now_us));
      if (!early) {
        Fail(ctx, entry.status());
      } else {
        MayWait(ctx, &waiting_since_us_, "a target of the request's model");
      }
      return false;
    }
    model_ = *std::move(entry);
    spec_->model = model_->info.name;
  }
  if (model_->vocabulary == nullptr) {
    MayWait(ctx, &waiting_since_us_, "a tokenizer of the model's vocabulary");
    return false;
  }
  waiting_since_us_ = -1;
  phase_ = Phase::kPrompt;
  return true;
}

bool Session::Encode(Context& ctx) {
  if (prompt_ids_ != nullptr) {  // adopted: replay what was said, so that text goes on where it was
    for (Choice& c : choices_) {
      if (c.finish.has_value()) continue;
      c.text.emplace(model_->vocabulary->decoder,
                     TextOptions{spec_->skip_special, spec_->stop, spec_->include_stop,
                                 spec_->sampling.min_tokens});
      int matched = -1;
      for (const Token& t : c.tokens) matched = c.text->Push(t.id, IsHidden(t.id)).matched;
      if (matched >= 0) {  // the router died between the last token and saying so
        Finish f = MakeFinish(FinishReason::kStop);
        f.matched_stop = c.text->stop(matched);
        FinishChoice(ctx, static_cast<size_t>(&c - choices_.data()), std::move(f));
      }
    }
    phase_ = Phase::kDecode;
    return !done_;
  }
  if (auto* ids = std::get_if<std::vector<int32_t>>(&spec_->prompt)) {
    std::string text;
    if (spec_->echo) text = model_->vocabulary->decoder->Decode(*ids, /*skip_special=*/false);
    OnPrompt(ctx, *ids, std::move(text));
    return phase_ == Phase::kDecode && !done_;
  }
  if (encode_call_ != 0) return false;
  const WorkerHandle worker = ctx.fleet.PickTokenizer(model_->vocabulary->fingerprint,
                                                      encode_excluded_until_us_, ctx.now_us);
  if (worker == 0) {
    MayWait(ctx, &waiting_since_us_, "a tokenizer");
    return false;
  }
  waiting_since_us_ = -1;
  encode_worker_ = worker;
  encode_opened_us_ = ctx.now_us;
  encode_call_ = ctx.calls.Open(this, CallTable::kEncode, worker, &ctx.fleet);
  action::Encode encode;
  encode.call = encode_call_;
  encode.worker = worker;
  encode.address = ctx.fleet.AddressOf(worker);
  encode.request_id = spec_->request_id;
  encode.prompt = spec_->prompt;
  encode.parse_special = spec_->parse_special;
  encode.add_special = std::holds_alternative<std::string>(spec_->prompt);
  ctx.actions.push_back(std::move(encode));
  return false;
}

void Session::OnEncoded(Context& ctx, CallId call, absl::StatusOr<Encoded> encoded) {
  if (call != encode_call_) return;
  ctx.calls.Close(call, &ctx.fleet);
  encode_call_ = 0;
  if (done_) return;
  if (encoded.ok()) {
    ctx.observer.OnEncoded(request_id(), ctx.now_us - encode_opened_us_,
                           static_cast<int32_t>(encoded->ids.size()));
    std::string text;
    if (spec_->echo) {
      const auto* given = std::get_if<std::string>(&spec_->prompt);
      text = given != nullptr ? *given : std::move(encoded->rendered);
    }
    OnPrompt(ctx, std::move(encoded->ids), std::move(text));
    return Advance(ctx);
  }
  const absl::Status why =
      Annotate(encoded.status(), "tokenizer[" + ctx.fleet.IdOf(encode_worker_) + "]");
  // Unlike a decoder, a tokenizer that says INTERNAL says it of this text: another would, too.
  const bool again =
      why.code() == absl::StatusCode::kUnavailable || why.code() == absl::StatusCode::kCancelled ||
      why.code() == absl::StatusCode::kDeadlineExceeded || why.code() == absl::StatusCode::kUnknown;
  if (!again || ++encode_attempts_ >= ctx.options.max_fruitless_attempts) return Fail(ctx, why);
  ctx.fleet.NoteFailure(encode_worker_, ctx.now_us);
  encode_excluded_until_us_[encode_worker_] = ctx.now_us + ctx.options.retry_worker_us;
  Advance(ctx);
}

void Session::OnPrompt(Context& ctx, std::vector<int32_t> ids, std::string text) {
  if (const absl::Status s = ValidateForModel(spec_.get(), ids, model_->info); !s.ok())
    return Fail(ctx, s);
  prompt_ids_ = std::make_shared<const std::vector<int32_t>>(std::move(ids));
  prompt_text_ = std::move(text);
  for (Choice& c : choices_) {
    c.text.emplace(model_->vocabulary->decoder,
                   TextOptions{spec_->skip_special, spec_->stop, spec_->include_stop,
                               spec_->sampling.min_tokens});
  }
  store::RequestRecord record;
  record.request_id = request_id();
  record.model = spec_->model;
  record.fingerprint = model_->info.fingerprint;
  record.seed = spec_->sampling.seed;
  record.num_choices = spec_->n;
  record.prompt_ids = *prompt_ids_;
  record.prompt_text = prompt_text_;
  record.resume_token = spec_->resume_token;
  ctx.actions.push_back(action::JournalCreate{std::move(record), spec_});
  journaled_ = true;
  phase_ = Phase::kDecode;
  WakeAll(ctx);
}

void Session::Tick(Context& ctx) {
  if (done_) return;
  if (spec_->deadline_us > 0 && ctx.now_us >= spec_->deadline_us)
    return Stop(ctx, FinishReason::kDeadline);
  if (encode_call_ != 0 && ctx.fleet.IsSuspect(encode_worker_) &&
      ctx.now_us - encode_opened_us_ >= ctx.options.stall_us) {
    const CallId call = encode_call_;
    ctx.actions.push_back(action::CancelCall{call});
    OnEncoded(ctx, call, absl::UnavailableError("no answer"));
  }
  for (size_t i = 0; i < choices_.size() && !done_; ++i) {
    Choice& c = choices_[i];
    if (c.call != 0 && ctx.fleet.IsSuspect(c.worker) &&
        ctx.now_us - std::max(c.opened_us, c.last_progress_us) >= ctx.options.stall_us) {
      LoseCall(ctx, i,
               absl::UnavailableError("neither reports nor tokens for " +
                                      Seconds(ctx.options.stall_us)));
    }
    if (c.draft.call != 0 && ctx.fleet.IsDraftPaused(c.draft.worker, ctx.now_us))
      CloseDraft(ctx, c);
    // One that has nothing to say while its target gets on is no help.
    if (c.draft.call != 0 && c.draft.ahead.empty() &&
        ctx.now_us - c.draft.last_progress_us >= ctx.options.stall_us) {
      LoseDraft(ctx, c, absl::UnavailableError("no tokens"));
    }
  }
  Advance(ctx);
}

void Session::Stop(Context& ctx, FinishReason reason) {
  if (encode_call_ != 0) {
    ctx.Cancel(encode_call_);
    encode_call_ = 0;
  }
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].finish.has_value()) FinishChoice(ctx, i, MakeFinish(reason));
  }
}

void Session::Fail(Context& ctx, absl::Status status) {
  if (done_) return;
  Park(ctx);
  failed_ = std::move(status);
  if (journaled_ && !IsTransient(failed_)) {
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (choices_[i].finish.has_value()) continue;
      Finish f = MakeFinish(FinishReason::kError);
      f.status = failed_;
      f.failovers = choices_[i].failovers;
      ctx.actions.push_back(
          action::JournalFinish{request_id(), static_cast<uint32_t>(i), std::move(f)});
    }
  }
  WakeAll(ctx);
  CheckDone(ctx);
}

void Session::Park(Context& ctx) {
  if (encode_call_ != 0) {
    ctx.Cancel(encode_call_);
    encode_call_ = 0;
  }
  for (Choice& c : choices_) {
    CloseCall(ctx, c);
    CloseDraft(ctx, c);
  }
}

void Session::CheckDone(Context& ctx) {
  if (done_) return;
  if (failed_.ok() && !std::all_of(choices_.begin(), choices_.end(),
                                   [](const Choice& c) { return c.finish.has_value(); })) {
    return;
  }
  done_ = true;
  RequestSummary s;
  s.request_id = request_id();
  s.label = spec_->label;
  if (model_.has_value()) s.model = model_->info.name;
  s.status = failed_;
  s.e2e_us = ctx.now_us - created_us_;
  s.ttft_us = first_token_us_ < 0 ? -1 : first_token_us_ - created_us_;
  s.prompt_tokens = prompt_ids_ == nullptr ? 0 : static_cast<int32_t>(prompt_ids_->size());
  for (const Choice& c : choices_) {
    s.output_tokens += static_cast<int32_t>(c.tokens.size());
    s.failovers += c.failovers;
    if (c.finish.has_value()) {
      if (s.reason == FinishReason::kNone) s.reason = c.finish->reason;
      const Usage& usage = c.finish->usage;
      s.cached_tokens += usage.cached_tokens;
      s.queue_us += usage.queue_us;
      s.prefill_us += usage.prefill_us;
      s.decode_us += usage.decode_us;
      ++s.choices;
    }
  }
  ctx.observer.OnDone(s);
}

absl::StatusOr<Cursor> Session::MakeCursor(std::optional<uint32_t> index,
                                           std::optional<uint32_t> after_index) const {
  Cursor cursor;
  cursor.choices.resize(choices_.size());
  if (!index.has_value()) return cursor;
  if (*index >= choices_.size()) {
    return absl::InvalidArgumentError("index: " + std::to_string(*index) + ", the request has " +
                                      std::to_string(choices_.size()) + " choices");
  }
  cursor.only_choice = static_cast<int>(*index);
  if (!after_index.has_value()) return cursor;
  const Choice& c = choices_[*index];
  // A running choice may be behind the client (the journal was lost or lags): its tokens come
  // again.
  const size_t limit = c.finish.has_value() || !failed_.ok()
                           ? c.tokens.size()
                           : static_cast<size_t>(std::max(spec_->sampling.max_tokens, 0));
  if (*after_index >= limit) {
    return absl::InvalidArgumentError(
        "after_index: " + std::to_string(*after_index) + ", the choice has " +
        (c.finish.has_value() ? "" : "at most ") + std::to_string(limit) + " tokens");
  }
  cursor.choices[*index].next_token = *after_index + size_t{1};
  cursor.choices[*index].next_prompt_token =
      std::numeric_limits<size_t>::max();  // came before any token
  return cursor;
}

std::optional<Message> Session::Next(Cursor* cursor) const {
  if (cursor->over) return std::nullopt;
  Message m;
  m.request_id = request_id();
  if (model_.has_value() && model_->vocabulary != nullptr)
    m.decoder = model_->vocabulary->decoder.get();
  if (!cursor->started_sent) {
    if (!failed_.ok()) {
      cursor->over = true;
      m.body = message::End{failed_};
      return m;
    }
    if (prompt_ids_ == nullptr && !done_) return std::nullopt;
    cursor->started_sent = true;
  } else {
    return NextOutput(cursor, std::move(m));
  }
  if (prompt_ids_ == nullptr) return NextOutput(cursor, std::move(m));  // stopped before it began
  message::Started s;
  s.model = spec_->model;
  s.fingerprint = model_.has_value() ? model_->info.fingerprint : pinned_fingerprint_;
  s.seed = spec_->sampling.seed;
  s.prompt_ids = *prompt_ids_;
  s.prompt_text = prompt_text_;
  s.resume_token = spec_->resume_token;
  m.body = s;
  return m;
}

std::optional<Message> Session::NextOutput(Cursor* cursor, Message m) const {
  constexpr size_t kMaxTokens = 256,
                   kMaxPromptTokens = 2048;  // of one message, which stays under 1 MB
  const auto end = [&](absl::Status status) {
    cursor->over = true;
    m.body = message::End{std::move(status)};
    return m;
  };
  bool all_finished = true;
  for (size_t k = 0; k < choices_.size(); ++k) {
    const size_t i = (cursor->turn + k) % choices_.size();
    if (cursor->only_choice >= 0 && i != static_cast<size_t>(cursor->only_choice)) continue;
    const Choice& c = choices_[i];
    Cursor::Choice& at = cursor->choices[i];
    if (at.finished_sent) continue;
    message::Delta d;
    d.index = static_cast<uint32_t>(i);
    d.offset = static_cast<uint32_t>(std::min(at.next_token, c.tokens.size()));
    if (at.next_prompt_token < c.prompt_tokens.size()) {
      const size_t n = std::min(kMaxPromptTokens, c.prompt_tokens.size() - at.next_prompt_token);
      d.prompt_tokens = std::span(c.prompt_tokens).subspan(at.next_prompt_token, n);
      at.next_prompt_token += n;
    }
    if (at.next_token < c.tokens.size()) {
      const size_t n = std::min(kMaxTokens, c.tokens.size() - at.next_token);
      d.tokens = std::span(c.tokens).subspan(at.next_token, n);
      at.next_token += n;
      for (const Token& t : d.tokens) d.text += t.text;
    } else if (c.finish.has_value() && !at.tail_sent) {
      at.tail_sent = true;
      d.text = c.finish->tail_text;
    }
    if (!d.tokens.empty() || !d.prompt_tokens.empty() || !d.text.empty()) {
      cursor->turn = (i + 1) % choices_.size();
      m.body = std::move(d);
      return m;
    }
    if (c.finish.has_value()) {
      at.finished_sent = true;
      if (c.finish->reason == FinishReason::kError) return end(c.finish->status);
      m.body = message::Finished{static_cast<uint32_t>(i), &*c.finish,
                                 c.tokens.empty() ? 0 : c.tokens.back().digest,
                                 spec_->sampling.seed, static_cast<uint32_t>(c.tokens.size())};
      return m;
    }
    all_finished = false;
  }
  if (all_finished) return end(absl::OkStatus());
  if (!failed_.ok()) return end(failed_);
  return std::nullopt;
}

}  // namespace tutti::router
