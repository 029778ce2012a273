// A session's drafts: opened beside the target, told what came, and heard as hints. Nothing here
// can hold up or change a choice.
#include <algorithm>
#include <limits>

#include "shared/router/session.h"

namespace tutti::router {

void Session::OpenDraft(Context& ctx, size_t index) {
  Choice& c = choices_[index];
  DraftStream& d = c.draft;
  const bool wanted = ctx.options.draft_lookahead > 0 && spec_->sampling.num_beams == 1 &&
                      spec_->sampling.max_tokens > static_cast<int64_t>(c.tokens.size()) + 1;
  if (!wanted || c.call == 0 || c.finish.has_value() || d.call != 0 || ctx.now_us < d.retry_us)
    return;
  const WorkerHandle worker =
      ctx.fleet.PickDraft(model_->info.tokenizer_fingerprint, d.excluded_until_us, ctx.now_us);
  if (worker == 0) {
    if (d.worker == 0)
      d.worker = ctx.fleet.DraftTimedWithout(model_->info.tokenizer_fingerprint, ctx.now_us);
    return;
  }
  d.worker = worker;
  d.epoch = 0;
  d.next = d.confirmed = c.tokens.size();
  d.mistake = DraftStream::kNoMistake;
  d.ahead.clear();
  d.last_progress_us = ctx.now_us;
  action::OpenDecode open = OpenCall(ctx, index, worker);
  d.call = open.call;
  open.open.digest = 0;
  open.open.lookahead = ctx.options.draft_lookahead;
  open.open.sampling.logprobs = open.open.sampling.prompt_logprobs = -1;
  ctx.actions.push_back(std::move(open));
}

void Session::SendHint(Context& ctx, const Choice& c, size_t first) {
  const size_t skip = first - c.tokens.size();
  if (c.call == 0 || c.draft.ahead.size() <= skip) return;
  action::Hint hint;
  hint.call = c.call;
  hint.position = static_cast<uint32_t>(first);
  hint.tokens.assign(c.draft.ahead.begin() + static_cast<std::ptrdiff_t>(skip),
                     c.draft.ahead.end());
  ctx.actions.push_back(std::move(hint));
}

// Every token of the target is confirmed to the draft at once, and the draft itself finds the word
// of its own that was wrong and goes on from there. So nothing is to be done about a mistake but to
// leave out what it says until it has heard of that (`confirmed`): over a slow network the draft is
// taken back once for each mistake, by the confirm that is on its way already.
void Session::OnDraftTokens(Context& ctx, size_t index, DecodedTokens got) {
  Choice& c = choices_[index];
  DraftStream& d = c.draft;
  if (got.epoch != d.epoch || got.tokens.empty()) return;
  const size_t have = c.tokens.size();
  d.confirmed = std::max(d.confirmed, std::min<size_t>(got.confirmed, have));
  if (d.mistake < d.confirmed) {
    d.mistake = DraftStream::kNoMistake;
    d.next = d.confirmed;
  }
  if (d.mistake != DraftStream::kNoMistake) return;
  // It goes on where it was, or behind tokens that it was told; else something was lost on the way.
  if (got.position > std::max(d.next, have)) return RestartDraft(ctx, c);
  const size_t first = std::max(d.next, have);
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    const size_t position = got.position + i;
    const int32_t id = got.tokens[i].id;
    if (position < d.next) continue;  // told twice, or told to it meanwhile
    d.next = position + 1;
    if (position >= have) {
      d.ahead.push_back(id);
    } else if (c.tokens[position].id != id) {
      return NoteMistake(&d, position);
    }
  }
  d.last_progress_us = ctx.now_us;
  d.failures = 0;
  SendHint(ctx, c, first);
}

void Session::NoteMistake(DraftStream* d, size_t index) {
  d->mistake = index;
  d->ahead.clear();
}

void Session::ConfirmToDraft(Context& ctx, Choice& c, size_t have) {
  DraftStream& d = c.draft;
  if (d.call == 0) return;
  const size_t added = c.tokens.size() - have, known = std::min(added, d.ahead.size());
  size_t right = 0;
  while (right < known && d.ahead[right] == c.tokens[have + right].id) ++right;
  if (right < known) {
    NoteMistake(&d, have + right);
  } else {
    d.ahead.erase(d.ahead.begin(), d.ahead.begin() + static_cast<std::ptrdiff_t>(known));
  }
  SendConfirm(ctx, c, have);
}

void Session::RestartDraft(Context& ctx, Choice& c) {
  DraftStream& d = c.draft;
  ++d.epoch;
  d.ahead.clear();
  d.mistake = DraftStream::kNoMistake;
  d.next = c.tokens.size();
  SendConfirm(ctx, c, d.confirmed);
}

void Session::SendConfirm(Context& ctx, const Choice& c, size_t first) {
  action::Confirm confirm{c.draft.call, c.draft.epoch, static_cast<uint32_t>(first), {}};
  for (size_t i = first; i < c.tokens.size(); ++i) confirm.tokens.push_back(c.tokens[i].id);
  ctx.actions.push_back(std::move(confirm));
}

void Session::LoseDraft(Context& ctx, Choice& c, const absl::Status& why) {
  DraftStream& d = c.draft;
  const WorkerHandle worker = d.worker;
  CloseDraft(ctx, c);
  const bool never = why.code() == absl::StatusCode::kInvalidArgument ||
                     why.code() == absl::StatusCode::kFailedPrecondition ||
                     ReasonOf(why) == "KV_TOO_SMALL";
  if (why.code() == absl::StatusCode::kUnavailable) ctx.fleet.NoteFailure(worker, ctx.now_us);
  d.excluded_until_us[worker] =
      never ? std::numeric_limits<int64_t>::max()
            : ctx.now_us + (ctx.options.retry_worker_us << std::min(d.failures++, 6));
  d.retry_us = ctx.now_us + ctx.options.retry_worker_us / 4;
}

void Session::CloseDraft(Context& ctx, Choice& c) {
  DraftStream& d = c.draft;
  if (d.call == 0) return;
  ctx.Cancel(d.call);
  d.call = 0;
  d.ahead.clear();
}

}  // namespace tutti::router
