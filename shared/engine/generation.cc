#include "shared/engine/generation.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/kernels.h"
#include "shared/base/check.h"
#include "shared/base/hash.h"
#include "shared/sampling/sampler.h"

namespace tutti::engine {

namespace {

// A step with a prefill says nothing about one without.
constexpr int32_t kManyRows = 1 << 16;

absl::Status NotFinite() {
  return WithReason(absl::InternalError("the logits hold NaN or infinity"), "NUMERIC_FAULT");
}

}  // namespace

Generation::Generation(model::DecoderModel* model, const EngineOptions& options)
    : model_(model),
      options_(options),
      store_(model->info().kv, options.num_pages, options.prefix_cache),
      drafter_(options_, model->info().vocab_size),
      scheduler_(options, &store_, &drafter_, model->info().eos_ids),
      scratch_(options.pool == nullptr ? 1 : static_cast<size_t>(options.pool->num_threads())) {}

Generation::~Generation() {
  for (auto& [id, sequence] : sequences_) scheduler_.Remove(sequence.get());
}

// One step of the life of every token that is in work (docs/life-of-a-token.md).
std::vector<SequenceOutput> Generation::Step(int64_t now_us) {
  kernels::SetFloatingPointMode();  // whatever the caller's thread did before
  std::vector<SequenceOutput> out;
  ExpireDeadlines(now_us, &out);
  const uint64_t preemptions = stats_.preemptions;
  const std::vector<Slice> batch = scheduler_.NextBatch(now_us, &stats_);  // target/admit
  // Drafts that wait may hold all the pages: then nothing will change by itself.
  stalled_ = batch.empty() && stats_.preemptions == preemptions;
  if (batch.empty()) return out;
  ++stats_.steps;
  const std::vector<SliceResult> results = Forward(batch);  // target/prefill, target/verify
  const int64_t end_us = options_.clock_us ? options_.clock_us() : now_us;
  const uint64_t distrusted = step_output_.distrusted;
  if (distrusted != 0 && !step_failed_) {  // nothing of the step counts: its rows are run again
    ++stats_.distrusted_steps;
    Distrust(distrusted, end_us, &out);
    return out;
  }
  if (!step_failed_) NoteMakers(batch);
  std::vector<Acceptance> accepted = GroupBySequence(batch, results);  // sampling/accept
  const auto sample = [&](int64_t i, int thread) {
    Sample(&accepted[static_cast<size_t>(i)], &scratch_[static_cast<size_t>(thread)]);
  };
  const auto num_accepted = static_cast<int64_t>(accepted.size());
  if (options_.pool != nullptr && num_accepted > 1) {
    options_.pool->ParallelFor(num_accepted, std::cref(sample));
  } else {
    for (int64_t i = 0; i < num_accepted; ++i) sample(i, 0);
  }
  for (Acceptance& a : accepted) Accept(&a, end_us, &out);
  if (distrusted != 0) Distrust(distrusted, end_us, &out);
  if (options_.clock_us) {
    int32_t rows = 0;
    for (const Slice& slice : batch) rows += slice.prefill ? kManyRows : slice.num_rows;
    drafter_.ObserveStep(rows, options_.clock_us() - now_us);
  }
  return out;
}

std::vector<Generation::Acceptance> Generation::GroupBySequence(
    std::span<const Slice> batch, std::span<const SliceResult> results) {
  std::vector<Acceptance> groups;
  for (size_t begin = 0; begin < batch.size();) {
    size_t end = begin;
    while (end < batch.size() && batch[end].sequence == batch[begin].sequence) ++end;
    const Sequence& s = *batch[begin].sequence;
    Acceptance& a = groups.emplace_back();
    a.slices = batch.subspan(begin, end - begin);
    a.results = results.subspan(begin, end - begin);
    a.output.id = s.request.id;
    a.output.first_index = static_cast<int32_t>(s.history.num_output());
    begin = end;
  }
  return groups;
}

void Generation::ExpireDeadlines(int64_t now_us, std::vector<SequenceOutput>* out) {
  for (SequenceId id : std::exchange(finished_at_once_, {})) {
    Sequence* s = sequences_.at(id).get();
    SequenceOutput output{.id = id, .first_index = static_cast<int32_t>(s->history.num_output())};
    if (s->wants_prompt_logprobs) output.prompt_tokens = std::move(s->prompt_tokens);
    FinishReason reason = FinishReason::kLength;
    if (s->history.num_output() > 0) MeetsEnd(*s, s->history.output().back(), &reason);
    Finish(s, reason, absl::OkStatus(), now_us, &output);
    out->push_back(std::move(output));
  }
  ExpireQueued(now_us, out);
  if (num_with_deadline_ == 0) return;
  std::vector<Sequence*> expired;
  for (const auto& [id, s] : sequences_) {
    if (s->request.deadline_us != 0 && now_us >= s->request.deadline_us) expired.push_back(s.get());
  }
  std::sort(expired.begin(), expired.end(), BeforeOrder());
  for (Sequence* s : expired) {
    SequenceOutput output{.id = s->request.id,
                          .first_index = static_cast<int32_t>(s->history.num_output())};
    Finish(s, FinishReason::kDeadline,
           absl::DeadlineExceededError("the sequence's deadline has passed"), now_us, &output);
    out->push_back(std::move(output));
  }
}

void Generation::ExpireQueued(int64_t now_us, std::vector<SequenceOutput>* out) {
  constexpr int64_t kBetweenLooksUs = 50'000;
  if (options_.max_queue_us == 0 || scheduler_.num_waiting() == 0) return;
  if (now_us - queue_looked_at_us_ < std::min(kBetweenLooksUs, options_.max_queue_us)) return;
  queue_looked_at_us_ = now_us;
  std::vector<Sequence*> expired;
  for (const auto& [id, s] : sequences_) {
    if (IsQueued(*s) && now_us - s->submit_us >= options_.max_queue_us) expired.push_back(s.get());
  }
  std::sort(expired.begin(), expired.end(), BeforeOrder());
  for (Sequence* s : expired) {
    SequenceOutput output{.id = s->request.id};
    Finish(s, FinishReason::kError, QueueTooSlow("waited", now_us - s->submit_us), now_us, &output);
    out->push_back(std::move(output));
  }
}

std::vector<Generation::SliceResult> Generation::Forward(const std::vector<Slice>& batch) {
  std::vector<model::SequenceSlice> slices;
  slices.reserve(batch.size());
  size_t num_logits = 0;
  for (const Slice& b : batch) {
    const Lane& lane = b.sequence->lanes[b.lane];
    const auto num_rows = static_cast<size_t>(b.num_rows);
    std::span<const int32_t> tokens =
        b.sequence->tokens(b.lane).subspan(static_cast<size_t>(lane.computed));
    if (num_rows > tokens.size()) {  // the last token, and guesses
      Speculation& spec = b.sequence->speculation;
      spec.rows.assign(tokens.begin(), tokens.end());
      spec.rows.insert(spec.rows.end(), spec.draft.tokens.begin(), spec.draft.tokens.end());
      tokens = spec.rows;
    }
    slices.push_back({.tokens = tokens.first(num_rows),
                      .first_pos = lane.computed,
                      .pages = lane.pages,
                      .num_logits = b.num_logits,
                      .seed = b.sequence->request.params.seed});
    num_logits += static_cast<size_t>(b.num_logits);
    if (b.prefill) stats_.prefill_tokens += static_cast<uint64_t>(b.num_rows);
  }
  absl::Status status = model_->Forward(slices, store_.pool(), &step_output_);
  const size_t vocab = static_cast<size_t>(model_->info().vocab_size);
  if (status.ok() && (step_output_.logits.size() != num_logits * vocab ||
                      step_output_.slice_status.size() != batch.size())) {
    status = absl::InternalError("the model's output has the wrong shape");
  }
  step_failed_ = !status.ok();
  std::vector<SliceResult> results;
  results.reserve(batch.size());
  const float* logits = step_output_.logits.data();
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!status.ok()) {
      results.push_back({.status = status});
      continue;
    }
    results.push_back({.status = step_output_.slice_status[i],
                       .logits = {logits, static_cast<size_t>(batch[i].num_logits) * vocab}});
    logits += results.back().logits.size();
  }
  return results;
}

bool Generation::MeetsEnd(const Sequence& s, int32_t token, FinishReason* reason) const {
  const auto holds = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (!s.request.params.ignore_eos && holds(model_->info().eos_ids)) {
    *reason = FinishReason::kEos;
    return true;
  }
  if (holds(s.request.params.stop_ids)) {
    *reason = FinishReason::kStopId;
    return true;
  }
  return false;
}

void Generation::Sample(Acceptance* a, sampling::Scratch* scratch) const {
  Sequence* s = a->slices[0].sequence;
  if (!a->slices[0].prefill && !s->beams && !s->ends_at_goal()) return SampleRows(a, scratch);
  for (const SliceResult& result : a->results) {
    a->status = result.status;
    // A logit that is not a number is never sampled, whatever the model says of the slice.
    if (a->status.ok() && !kernels::Kernels().all_finite(
                              result.logits.data(), static_cast<int64_t>(result.logits.size()))) {
      a->status = NotFinite();
    }
    if (!a->status.ok()) return;
  }
  for (const Slice& slice : a->slices) s->lanes[slice.lane].computed += slice.num_rows;
  if (s->scoring_prompt()) ScorePrompt(s, a->slices[0], a->results[0].logits);
  if (s->verifying()) VerifyOutput(a, scratch);
  if (!a->status.ok()) return;
  a->at_goal = s->num_remaining() == 0;
  if (a->at_goal && !s->ends_at_goal() && !s->beams) {
    const size_t vocab = static_cast<size_t>(model_->info().vocab_size);
    SampleNext(s, a->results.back().logits.last(vocab), scratch, &a->output);
  }
}

void Generation::SampleRows(Acceptance* a, sampling::Scratch* scratch) const {
  Sequence* s = a->slices[0].sequence;
  const std::vector<int32_t>& guesses = s->speculation.draft.tokens;
  const auto num_rows = static_cast<size_t>(a->slices[0].num_rows);
  const auto vocab = static_cast<size_t>(model_->info().vocab_size);
  a->status = a->results[0].status;
  for (size_t row = 0; a->status.ok() && row < num_rows; ++row) {
    const auto logits = a->results[0].logits.subspan(row * vocab, vocab);
    if (!kernels::Kernels().all_finite(logits.data(), static_cast<int64_t>(vocab))) {
      a->status = NotFinite();
      break;
    }
    SampleNext(s, logits, scratch, &a->output);
    ++s->lanes[0].computed;
    if (a->output.finish != FinishReason::kNone) break;
    if (row + 1 < num_rows && a->output.tokens.back().token_id != guesses[row]) break;
  }
  if (!a->status.ok() && num_rows > 1) {
    a->status = absl::OkStatus();
    a->undone = true;
  }
  a->at_goal = !a->output.tokens.empty();
}

void Generation::Accept(Acceptance* a, int64_t now_us, std::vector<SequenceOutput>* out) {
  Sequence* s = a->slices[0].sequence;
  SequenceOutput& output = a->output;
  stats_.verified_tokens += static_cast<uint64_t>(a->num_verified);
  if (!a->status.ok()) {
    if (ReasonOf(a->status) == kResumeMismatch) {
      ++stats_.resume_mismatches;
      if (s->distrusted) a->status = SentWrong(std::string(a->status.message()));
    }
    Finish(s, FinishReason::kError, a->status, now_us, &output);
    out->push_back(std::move(output));
    return;
  }
  if (a->undone) s->speculation.allowed = false;
  // Output of beams is not worth keeping; all else may be the prefix of the next request.
  if (s->lanes.size() == 1) {
    int32_t end = std::numeric_limits<int32_t>::max();
    if (s->beams) end = s->num_prompt();
    if (s->is_draft()) end = s->num_prompt() + s->confirmed;  // the rest may be taken back
    s->made_by |= store_.Register(&s->lanes[0], s->tokens(0), end, s->kv_seed);
  }
  if (!s->prompt_reported && s->wants_prompt_logprobs && !s->scoring_prompt()) {
    s->prompt_reported = true;
    output.prompt_tokens = std::move(s->prompt_tokens);
    s->wants_prompt_logprobs = false;
  }
  if (a->at_goal && s->ends_at_goal()) {
    FinishReason reason = FinishReason::kLength;
    if (s->complete) MeetsEnd(*s, s->history.output().back(), &reason);
    Finish(s, reason, absl::OkStatus(), now_us, &output);
  } else if (a->at_goal) {
    if (!s->sampled_before) {
      s->sampled_before = true;
      s->first_token_us = now_us;
      s->usage.prefill_us = now_us - s->admit_us;
    }
    if (s->beams) AcceptBeams(s, a->results, &output);
    CountTokens(*a);
    output.usage = s->usage;
    if (output.finish != FinishReason::kNone)
      Finish(s, output.finish, absl::OkStatus(), now_us, &output);
  }
  if (!output.tokens.empty() || !output.prompt_tokens.empty() ||
      output.finish != FinishReason::kNone) {
    out->push_back(std::move(output));
  }
}

void Generation::CountTokens(const Acceptance& a) {
  Sequence* s = a.slices[0].sequence;
  const auto num_tokens = static_cast<int32_t>(a.output.tokens.size());
  stats_.decode_tokens += static_cast<uint64_t>(s->beams ? 1 : num_tokens);
  scheduler_.ChargeOutput(*s, s->beams ? static_cast<int64_t>(a.slices.size()) : num_tokens);
  if (a.slices[0].prefill || s->beams) return;
  ++stats_.decode_slices;
  const int32_t proposed = a.slices[0].num_rows - 1, accepted = std::max(0, num_tokens - 1);
  stats_.proposed_tokens += static_cast<uint64_t>(proposed);
  stats_.accepted_tokens += static_cast<uint64_t>(accepted);
  s->usage.proposed_tokens += proposed;
  s->usage.accepted_tokens += accepted;
  const auto& kinds = s->speculation.draft.kinds;
  const auto hinted = static_cast<int32_t>(
      std::count_if(kinds.begin(), kinds.begin() + accepted, speculation::IsHint));
  stats_.accepted_hint_tokens += static_cast<uint64_t>(hinted);
  s->usage.accepted_hint_tokens += hinted;
  drafter_.Observe(s, static_cast<size_t>(a.output.first_index));
}

TokenOutput Generation::Describe(std::span<const float> logits, int32_t token, int num_top) const {
  TokenOutput out{.token_id = token};
  sampling::TokenLogprobs logprobs = sampling::ComputeLogprobs(logits, token, num_top);
  out.logprob = logprobs.logprob;
  for (const auto& [id, logprob] : logprobs.top)
    out.top.push_back({.token_id = id, .logprob = logprob});
  return out;
}

void Generation::ScorePrompt(Sequence* s, const Slice& slice, std::span<const float> logits) const {
  const size_t vocab = static_cast<size_t>(model_->info().vocab_size);
  const std::span<const int32_t> tokens = s->history.tokens();
  const int32_t end = s->lanes[slice.lane].computed;
  for (int32_t row = end - slice.num_logits; row < end; ++row, logits = logits.subspan(vocab)) {
    if (row + 1 >= s->num_prompt()) break;  // the last row is for sampling
    TUTTI_CHECK(row == s->first_scored_row());
    s->prompt_tokens.push_back(Describe(logits.first(vocab), tokens[static_cast<size_t>(row) + 1],
                                        s->request.params.prompt_logprobs));
  }
}

void Generation::VerifyOutput(Acceptance* a, sampling::Scratch* scratch) const {
  Sequence* s = a->slices[0].sequence;
  const auto vocab = static_cast<size_t>(model_->info().vocab_size);
  const Slice& slice = a->slices[0];
  std::span<const float> logits = a->results[0].logits;
  const int32_t end = s->lanes[slice.lane].computed;
  for (int32_t row = end - slice.num_logits; row < end && s->verifying();
       ++row, logits = logits.subspan(vocab)) {
    TUTTI_CHECK(row == s->first_verified_row());
    const int32_t token = s->history.tokens()[static_cast<size_t>(row) + 1];
    a->status = s->verification.Next(s->request.params, model_->info().eos_ids, token,
                                     logits.first(vocab), scratch);
    if (!a->status.ok()) return;
    ++a->num_verified;
  }
}

void Generation::SampleNext(Sequence* s, std::span<const float> logits, sampling::Scratch* scratch,
                            SequenceOutput* out) const {
  const sampling::SamplingParams& params = s->request.params;
  const int32_t token =
      sampling::SampleToken(params, s->history, model_->info().eos_ids, logits, scratch);
  if (!s->is_draft()) s->digest = ExtendDigest(s->digest, logits);
  s->history.Append(token);
  s->usage.output_tokens = static_cast<int32_t>(s->history.num_output());
  TokenOutput described{.token_id = token};
  if (params.logprobs >= 0) described = Describe(logits, token, params.logprobs);
  described.digest = s->digest;
  out->tokens.push_back(std::move(described));
  out->digest = s->digest;
  if (s->is_draft()) {
    out->epoch = s->epoch;
    out->confirmed = s->confirmed;
    return UpdatePause(s);
  }
  if (!MeetsEnd(*s, token, &out->finish) && s->usage.output_tokens >= s->max_output) {
    out->finish = FinishReason::kLength;
  }
}

void Generation::AcceptBeams(Sequence* s, std::span<const SliceResult> results,
                             SequenceOutput* out) {
  // Lanes are consecutive in the batch, so their rows are one block.
  const float* first = results.front().logits.data();
  const float* last = results.back().logits.data() + results.back().logits.size();
  std::span<const float> rows(first, last);
  if (s->lanes.size() == 1)
    rows = rows.last(static_cast<size_t>(model_->info().vocab_size));  // after prompt rows
  s->digest = ExtendDigest(s->digest, rows);
  const std::vector<int32_t> parents = s->beams->Step(rows);
  std::vector<Lane> lanes;
  for (int32_t parent : parents)
    lanes.push_back(store_.Fork(s->lanes[static_cast<size_t>(parent)]));
  for (Lane& lane : s->lanes) store_.Release(&lane);
  s->lanes = std::move(lanes);
  out->digest = s->digest;
  if (!s->beams->done()) return;
  for (sampling::Hypothesis& h : s->beams->Best()) {
    s->usage.output_tokens += static_cast<int32_t>(h.token_ids.size());
    out->beams.push_back({.token_ids = std::move(h.token_ids), .score = h.score});
  }
  out->finish = s->beams->best_met_end() ? FinishReason::kEos : FinishReason::kLength;
}

void Generation::Finish(Sequence* s, FinishReason reason, absl::Status status, int64_t now_us,
                        SequenceOutput* out) {
  out->finish = reason;
  out->status = std::move(status);
  out->digest = s->digest;
  if (!s->admitted_before) s->usage.queue_us = now_us - s->submit_us;
  if (s->sampled_before) s->usage.decode_us = now_us - s->first_token_us;
  out->usage = s->usage;
  if (!s->is_draft()) drafter_.Ended(*s);
  scheduler_.Remove(s);
  if (s->request.deadline_us != 0) --num_with_deadline_;
  std::erase(finished_at_once_, s->request.id);
  sequences_.erase(s->request.id);  // s is gone
}

}  // namespace tutti::engine
