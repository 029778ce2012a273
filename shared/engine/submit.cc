// Generation's way in and out: what is accepted, cancelled, counted.
#include <algorithm>
#include <limits>

#include "absl/strings/str_format.h"
#include "shared/engine/generation.h"

namespace tutti::engine {

namespace {

absl::Status CheckIds(const char* field, std::span<const int32_t> ids, int vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrFormat("%s[%d] is token id %d; ids are in [0, %d)",
                                                        field, i, ids[i], vocab_size));
    }
  }
  return absl::OkStatus();
}

// The most pages that the sequence can come to hold. The last token is never stored.
int64_t WorstPages(int64_t num_prompt, int64_t max_output, int num_beams) {
  const int64_t all = PagesFor(std::max<int64_t>(num_prompt + max_output - 1, 1));
  const int64_t shared = num_prompt / kv_cache::kPageTokens;
  return num_beams == 1 ? all : shared + num_beams * (all - shared);
}

}  // namespace

absl::Status Generation::QueueTooSlow(const char* what, int64_t wait_us) const {
  // By then the queue of now is gone.
  const int64_t retry_ms = std::clamp<int64_t>(wait_us / 1000, 500, 60'000);
  return WithRetryAfterMs(
      WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                     "the sequence %s %.1f s for its place: %d sequences run and %d wait", what,
                     static_cast<double>(wait_us) * 1e-6, scheduler_.num_running(),
                     scheduler_.num_waiting())),
                 "QUEUE_TOO_SLOW"),
      retry_ms);
}

absl::Status Generation::CheckRequest(const SequenceRequest& r, int64_t now_us) const {
  const model::ModelInfo& info = model_->info();
  if (sequences_.contains(r.id)) {
    return absl::AlreadyExistsError(absl::StrFormat("id %d is the id of a live sequence", r.id));
  }
  TUTTI_RETURN_IF_ERROR(r.params.Validate(info.vocab_size));
  if (r.prompt.empty())
    return absl::InvalidArgumentError("prompt is empty; it must have at least one token");
  const int64_t limit = r.params.max_tokens == 0 ? info.context_tokens : info.context_tokens - 1;
  if (static_cast<int64_t>(r.prompt.size()) > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt has %d tokens; the context of %d leaves room for %d",
                        r.prompt.size(), info.context_tokens, limit));
  }
  TUTTI_RETURN_IF_ERROR(CheckIds("prompt", r.prompt, info.vocab_size));
  const int64_t max_output = std::min<int64_t>(
      r.params.max_tokens, info.context_tokens - static_cast<int64_t>(r.prompt.size()));
  if (static_cast<int64_t>(r.generated.size()) > max_output) {
    return absl::InvalidArgumentError(
        absl::StrFormat("generated has %d tokens; max_tokens (cut to the context) is %d",
                        r.generated.size(), max_output));
  }
  TUTTI_RETURN_IF_ERROR(CheckIds("generated", r.generated, info.vocab_size));
  if (!r.digests.empty() && r.digests.size() != r.generated.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("digests has %d entries; generated has %d tokens, and each has a digest",
                        r.digests.size(), r.generated.size()));
  }
  if (r.params.num_beams > 1 && !r.generated.empty()) {
    return absl::InvalidArgumentError(
        "generated must be empty with num_beams > 1: a beam search starts over");
  }
  if (r.lookahead < 0 || (r.lookahead > 0 && (r.params.num_beams > 1 || r.params.max_tokens == 0 ||
                                              r.params.prompt_logprobs >= 0))) {
    return absl::InvalidArgumentError(
        "lookahead must be 0 with num_beams > 1, max_tokens 0 or prompt_logprobs, and never less");
  }
  if (r.params.num_beams > options_.max_batch_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("num_beams is %d; this server runs at most %d rows in a step",
                        r.params.num_beams, options_.max_batch_tokens));
  }
  const int64_t worst =
      WorstPages(static_cast<int64_t>(r.prompt.size()), max_output, r.params.num_beams);
  if (worst > store_.pool().num_pages()) {
    return WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                          "prompt and max_tokens need up to %d KV pages of %d tokens; there "
                          "are %d",
                          worst, kv_cache::kPageTokens, store_.pool().num_pages())),
                      "KV_TOO_SMALL");
  }
  if (scheduler_.QueueFull()) {
    return WithReason(absl::ResourceExhaustedError(
                          absl::StrFormat("the queue is full: %d sequences run and %d wait",
                                          scheduler_.num_running(), scheduler_.num_waiting())),
                      "QUEUE_FULL");
  }
  if (options_.start_within_us > 0 && r.generated.empty() && r.lookahead == 0) {
    const int64_t wait_us = scheduler_.EstimateWaitUs(r, now_us);
    if (wait_us > options_.start_within_us) return QueueTooSlow("would wait", wait_us);
  }
  return absl::OkStatus();
}

absl::Status Generation::Submit(SequenceRequest request, int64_t now_us) {
  TUTTI_RETURN_IF_ERROR(CheckRequest(request, now_us));
  auto owned = std::make_unique<Sequence>();
  Sequence* s = owned.get();
  s->request = std::move(request);
  SequenceRequest& r = s->request;
  s->arrival = next_arrival_++;
  s->submit_us = s->admit_us = s->first_token_us = now_us;
  s->max_output = std::min(r.params.max_tokens,
                           model_->info().context_tokens - static_cast<int32_t>(r.prompt.size()));
  s->history = sampling::TokenHistory(r.params, r.prompt);
  if (model_->info().kv_depends_on_seed) s->kv_seed = r.params.seed;
  for (int32_t token : r.generated) s->history.Append(token);
  s->digest = r.generated.empty() ? 0 : r.digest;
  s->usage.prompt_tokens = s->num_prompt();
  s->usage.output_tokens = static_cast<int32_t>(r.generated.size());
  if (r.params.num_beams > 1 && s->max_output > 0) {
    s->beams.emplace(r.params, model_->info().eos_ids, s->max_output, s->history.tokens());
  }
  s->wants_prompt_logprobs = r.params.prompt_logprobs >= 0 && r.generated.empty();
  if (s->wants_prompt_logprobs) {
    s->prompt_tokens.push_back(
        {.token_id = r.prompt[0], .logprob = std::numeric_limits<float>::quiet_NaN()});
  }
  FinishReason reason;
  const bool complete = static_cast<int32_t>(r.generated.size()) >= s->max_output ||
                        (!r.generated.empty() && MeetsEnd(*s, r.generated.back(), &reason));
  if (!s->is_draft() && !r.generated.empty()) {
    s->complete = complete;
    s->verification.Start(r.params, r.prompt, static_cast<int32_t>(r.generated.size()), r.digest,
                          std::move(r.digests));
  }
  r.prompt = {};
  r.generated = {};
  r.digests = {};
  stalled_ = false;
  if (s->is_draft()) {
    s->confirmed = static_cast<int32_t>(s->history.num_output());
    s->speculation.allowed = false;
    UpdatePause(s);
    scheduler_.Add(s);
  } else if (complete && !s->needs_many_logits()) {
    finished_at_once_.push_back(r.id);
  } else {
    scheduler_.Add(s);
  }
  if (r.deadline_us != 0) ++num_with_deadline_;
  sequences_.emplace(r.id, std::move(owned));
  return absl::OkStatus();
}

void Generation::Cancel(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  stalled_ = false;
  scheduler_.Remove(found->second.get());
  if (found->second->request.deadline_us != 0) --num_with_deadline_;
  std::erase(finished_at_once_, id);
  sequences_.erase(found);
}

void Generation::RecomputeAll() {
  stalled_ = false;
  for (const auto& [id, s] : sequences_) Recompute(s.get());
}

void Generation::Recompute(Sequence* s) {
  scheduler_.Recompute(s, &stats_);
  s->made_by = 0;
  if (s->scoring_prompt()) s->prompt_tokens.resize(1);
  if (s->is_draft() || s->beams) return;
  if (s->verifying()) {
    s->verification.Restart();
  } else if (const auto said = static_cast<int32_t>(s->history.num_output()); said > 0) {
    s->verification.Start(s->request.params,
                          s->history.tokens().first(static_cast<size_t>(s->num_prompt())), said,
                          s->digest, {});
  }
}

void Generation::Hint(SequenceId id, int32_t position, std::span<const int32_t> tokens) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  stats_.hint_tokens += tokens.size();
  drafter_.Hint(found->second.get(), position, tokens);
}

void Generation::UpdatePause(Sequence* s) const {
  if (!s->is_draft()) return;
  const auto num_output = static_cast<int32_t>(s->history.num_output());
  const int64_t limit =
      std::min<int64_t>(s->max_output, int64_t{s->confirmed} + s->request.lookahead);
  FinishReason ignored;
  s->paused =
      num_output >= limit || (num_output > 0 && MeetsEnd(*s, s->history.output().back(), &ignored));
}

void Generation::Confirm(SequenceId id, uint64_t epoch, int32_t position,
                         std::span<const int32_t> tokens) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  Sequence* s = found->second.get();
  const auto num_output = static_cast<int32_t>(s->history.num_output());
  if (!s->is_draft() || position < 0 || position > s->confirmed) return;
  if (!CheckIds("tokens", tokens, model_->info().vocab_size).ok()) return;
  tokens = tokens.first(
      std::min(tokens.size(), static_cast<size_t>(std::max(0, s->max_output - position))));
  const auto said = s->history.output().subspan(static_cast<size_t>(position));
  const auto agreed = static_cast<size_t>(
      std::mismatch(tokens.begin(), tokens.end(), said.begin(), said.end()).first - tokens.begin());
  const bool anew = epoch != s->epoch && agreed < said.size();
  const int32_t right = position + static_cast<int32_t>(agreed) - std::max(s->confirmed, position);
  stats_.confirmed_tokens += static_cast<uint64_t>(std::max(right, 0));
  if (agreed < tokens.size() || anew) {
    const auto kept = position + static_cast<int32_t>(agreed);
    stats_.taken_back_tokens += static_cast<uint64_t>(num_output - kept);
    s->history.Truncate(static_cast<size_t>(kept));
    for (const int32_t token : tokens.subspan(agreed)) s->history.Append(token);
    Lane& lane = s->lanes[0];
    if (kept < s->confirmed) store_.Release(&lane);  // its pages may be others' by now
    // The row of the last token is run again for what follows it.
    lane.computed = std::min(lane.computed, static_cast<int32_t>(s->history.tokens().size()) - 1);
    lane.computed = std::min(lane.computed, s->num_prompt() + kept);
  }
  s->confirmed = std::clamp(position + static_cast<int32_t>(tokens.size()), s->confirmed,
                            static_cast<int32_t>(s->history.num_output()));
  s->usage.output_tokens = static_cast<int32_t>(s->history.num_output());
  s->epoch = epoch;
  stalled_ = false;
  UpdatePause(s);
}

EngineStats Generation::Stats() const {
  EngineStats stats = stats_;
  stats.num_waiting = scheduler_.num_waiting();
  stats.num_running = scheduler_.num_running();
  stats.num_pages = store_.pool().num_pages();
  stats.num_free_pages = store_.pool().num_free();
  stats.num_cached_pages = store_.NumCachedAlone();
  return stats;
}

absl::Status Generation::CheckInvariants() const {
  std::vector<int32_t> owners(static_cast<size_t>(store_.pool().num_pages()), 0);
  if (store_.cache() != nullptr) store_.cache()->CountOwners(&owners);
  for (const auto& [id, s] : sequences_) {
    for (const Lane& lane : s->lanes) {
      for (kv_cache::PageId page : lane.pages) ++owners[static_cast<size_t>(page)];
      if (!s->running && !lane.pages.empty()) {
        return absl::InternalError(absl::StrFormat("sequence %d waits and holds pages", id));
      }
      const auto registered = static_cast<size_t>(lane.num_registered) * kv_cache::kPageTokens;
      if (store_.cache() != nullptr && s->lanes.size() == 1 &&
          (registered > s->tokens(0).size() ||
           !store_.cache()->PathHolds(lane.cursor, s->tokens(0).first(registered), s->kv_seed))) {
        return absl::InternalError(
            absl::StrFormat("sequence %d is not where its tokens are in the prefix cache", id));
      }
      if (PagesFor(lane.computed) > static_cast<int32_t>(lane.pages.size())) {
        return absl::InternalError(
            absl::StrFormat("sequence %d has fewer pages than positions", id));
      }
    }
  }
  for (size_t page = 0; page < owners.size(); ++page) {
    const int32_t refs = store_.pool().RefCount(static_cast<kv_cache::PageId>(page));
    if (refs != owners[page]) {
      return absl::InternalError(
          absl::StrFormat("page %d has %d references and %d owners", page, refs, owners[page]));
    }
  }
  return absl::OkStatus();
}

}  // namespace tutti::engine
