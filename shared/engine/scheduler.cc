#include "shared/engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "shared/base/check.h"

namespace tutti::engine {

namespace {

// Rows of prompt logprobs or of a verification in one step: their logits are kept, [rows, vocab].
constexpr int32_t kMaxScoredRows = 32;

// Rows of guesses in one step: their logits are kept, too.
constexpr int32_t kMaxDraftRows = 64;

// Waiting sequences that are compared with running ones in one step.
constexpr int kMaxSiblingsLookedAt = 32;

bool Decoding(const Sequence& s) {
  return s.num_remaining() == 1 && !s.needs_many_logits() && !s.paused;
}

}  // namespace

void Scheduler::Add(Sequence* sequence) {
  waiting_.insert(sequence);
  share_.Arrive(sequence->request.client);
}

void Scheduler::Remove(Sequence* sequence) {
  if (sequence->running) {
    StopRunning(sequence);
  } else if (waiting_.erase(sequence) == 0) {
    return;  // it never came here: nothing of it was to be run
  }
  share_.Leave(sequence->request.client);
}

void Scheduler::StopRunning(Sequence* sequence) {
  for (Lane& lane : sequence->lanes) store_->Release(&lane);
  running_.erase(std::find(running_.begin(), running_.end(), sequence));
  sequence->running = false;
}

// waiting_ is in order of priority and arrival, so the first of equals is the right one.
Sequence* Scheduler::NextWaiting() const {
  Sequence* best = nullptr;
  int64_t least = 0;
  for (Sequence* s : waiting_) {
    if (best != nullptr && s->request.priority != best->request.priority) break;
    if (s->looked_at_step == step_ || s->paused) continue;
    const int64_t served = share_.Served(s->request.client);
    if (best != nullptr && served >= least) continue;
    best = s;
    least = served;
  }
  return best;
}

void Scheduler::Preempt(Sequence* sequence, EngineStats* stats) {
  StopRunning(sequence);
  sequence->lanes.assign(1, Lane());
  if (sequence->beams) {  // nothing of it was emitted yet, so it starts over
    sequence->beams.emplace(sequence->request.params, eos_ids_, sequence->max_output,
                            sequence->history.tokens());
    sequence->digest = 0;
  }
  waiting_.insert(sequence);
  ++sequence->usage.preemptions;
  ++stats->preemptions;
  preempted_in_step_ = true;
}

void Scheduler::Recompute(Sequence* sequence, EngineStats* stats) {
  if (sequence->running) Preempt(sequence, stats);
}

bool Scheduler::SecurePages(Sequence* sequence, int32_t num_rows, EngineStats* stats) {
  for (Lane& lane : sequence->lanes) {
    while (!store_->Grow(&lane, lane.computed + num_rows)) {
      Sequence* last = running_.back();
      Preempt(last, stats);
      if (last == sequence) return false;
    }
  }
  return true;
}

void Scheduler::TrimDraft(Sequence* s) const {
  int32_t& verify = s->speculation.verify;
  if (verify == 0) return;
  const Lane& lane = s->lanes[0];
  const auto have = static_cast<int32_t>(lane.pages.size());
  const int32_t need = PagesFor(lane.computed + 1 + verify) - have;
  if (need <= 0 || store_->HasAvailable(need)) return;
  verify = std::max(0, have * kv_cache::kPageTokens - lane.computed - 1);
}

int32_t Scheduler::PrefillRows(const Sequence& s, int32_t budget) const {
  int32_t rows = std::min(s.num_remaining(), budget);
  if (options_.prefill_chunk_tokens > 0) rows = std::min(rows, options_.prefill_chunk_tokens);
  if (s.needs_many_logits()) {
    rows = std::min(rows, std::max(0, s.first_logits_row() - s.lanes[0].computed) + kMaxScoredRows);
  }
  return rows;
}

void Scheduler::AppendPrefill(Sequence* s, int32_t num_rows, std::vector<Slice>* batch) {
  const int32_t begin = s->lanes[0].computed, end = begin + num_rows;
  int32_t num_logits = end == s->goal() && !s->ends_at_goal() ? 1 : 0;
  if (s->needs_many_logits())
    num_logits = std::max(0, end - std::max(begin, s->first_logits_row()));
  batch->push_back(
      {.sequence = s, .lane = 0, .num_rows = num_rows, .num_logits = num_logits, .prefill = true});
}

// Those that get their row. When there are more rows than a step may have, who waited longest is
// first.
std::vector<Sequence*> Scheduler::DecodersOfStep() const {
  std::vector<Sequence*> decoders;
  int64_t rows = 0;
  for (Sequence* s : running_) {
    if (!Decoding(*s)) continue;
    decoders.push_back(s);
    rows += static_cast<int64_t>(s->lanes.size());
  }
  if (rows <= options_.max_batch_tokens) return decoders;
  std::stable_sort(decoders.begin(), decoders.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_step < b->last_step;
  });
  int64_t budget = options_.max_batch_tokens;
  std::erase_if(decoders, [&](const Sequence* s) {
    const int64_t need = static_cast<int64_t>(s->lanes.size());
    if (need > budget) {
      budget = 0;  // nobody overtakes it, so that its turn comes
      return true;
    }
    budget -= need;
    return false;
  });
  return decoders;
}

bool Scheduler::ShouldWaitForSibling(const Sequence& s) const {
  if (!store_->caching() || s.scoring_prompt()) return false;
  const std::span<const int32_t> mine = s.tokens(0);
  const int32_t limit = s.first_logits_row() / kv_cache::kPageTokens;
  int32_t cached = -1;
  for (const Sequence* r : running_) {
    if (r->num_remaining() <= 1 || r->paused || r->kv_seed != s.kv_seed) continue;
    const std::span<const int32_t> theirs = r->tokens(0);
    const auto [a, b] = std::mismatch(mine.begin(), mine.end(), theirs.begin(), theirs.end());
    const int32_t common =
        std::min(static_cast<int32_t>(a - mine.begin()) / kv_cache::kPageTokens, limit);
    if (common == 0) continue;
    if (cached < 0) cached = store_->PeekPrefix(mine, limit, s.kv_seed);
    if (common > cached) return true;
  }
  return false;
}

Sequence* Scheduler::GivesWay(const Sequence& s) const {
  if (running_.empty()) return nullptr;
  if (running_.back()->request.priority < s.request.priority) return running_.back();
  return Places(running_).GivesWay(s);
}

bool Scheduler::Admit(Sequence* s, int64_t now_us, EngineStats* stats) {
  const int32_t max_pages = std::min(s->goal() - 1, s->first_logits_row()) / kv_cache::kPageTokens;
  Lane& lane = s->lanes[0];
  while (true) {
    store_->AdoptPrefix(&lane, s->tokens(0), max_pages, s->kv_seed);
    // Pages of the whole prompt, and one for each of the others to go on for a while: who starts
    // should not be sent back at once.
    const int32_t need = PagesFor(s->goal()) - static_cast<int32_t>(lane.pages.size());
    const int32_t reserve = num_running() + (s->beams ? s->request.params.num_beams : 0);
    const int32_t want = need + (running_.empty() ? 0 : reserve);
    if (num_running() < options_.max_running && store_->HasAvailable(want)) break;
    store_->Release(&lane);
    Sequence* gives_way = GivesWay(*s);
    if (gives_way == nullptr) return false;
    Preempt(gives_way, stats);
  }
  const int32_t num_cached = lane.computed;
  if (!store_->Grow(&lane, s->goal())) {
    store_->Release(&lane);
    return false;
  }
  s->made_by |= store_->MadeBy(lane);
  waiting_.erase(s);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), s, BeforeOrder()), s);
  s->running = true;
  if (!s->admitted_before) {
    s->admitted_before = true;
    ++started_in_step_;
    s->admit_us = now_us;
    s->usage.queue_us = now_us - s->submit_us;
    s->usage.cached_tokens = std::min(num_cached, s->num_prompt());
    share_.Charge(s->request.client,
                  (s->num_prompt() - s->usage.cached_tokens) * FairShare::kPromptTokenCost);
    stats->prefix_query_tokens += static_cast<uint64_t>(s->num_prompt());
    stats->prefix_hit_tokens += static_cast<uint64_t>(s->usage.cached_tokens);
  }
  return true;
}

bool Scheduler::QueueFull() const {
  const int64_t room = int64_t{options_.max_waiting} + options_.max_running - num_running();
  return num_waiting() >= room;
}

// Requests ahead of it, not their sequences: of a request with many choices each place that is free
// goes to others first (places.h). Its own choices are all ahead.
int64_t Scheduler::EstimateWaitUs(const SequenceRequest& r, int64_t now_us) const {
  std::set<std::pair<uint64_t, uint64_t>> requests;
  int32_t before = 0, own = 0;
  for (const Sequence* s : waiting_) {
    if (s->paused || s->request.priority < r.priority) continue;
    if (s->request.client == r.client && s->request.group == r.group && r.group != 0) {
      ++own;
    } else if (s->request.group == 0 ||
               requests.insert({s->request.client, s->request.group}).second) {
      ++before;
    }
  }
  if (before + own < options_.max_running / 4) return 0;
  return queue_clock_.EstimateUs(now_us, before + own);
}

std::vector<Slice> Scheduler::NextBatch(int64_t now_us, EngineStats* stats) {
  ++step_;
  preempted_in_step_ = false;
  started_in_step_ = 0;
  std::vector<Slice> batch;

  std::vector<Sequence*> decoders = DecodersOfStep();
  int32_t budget = options_.max_batch_tokens;
  for (const Sequence* s : decoders) budget -= static_cast<int32_t>(s->lanes.size());
  std::sort(decoders.begin(), decoders.end(), BeforeOrder());
  const int32_t base_rows = options_.max_batch_tokens - budget;
  drafter_->Plan(decoders, base_rows, std::min(kMaxDraftRows, budget / 2));  // draft/propose
  for (const Sequence* s : decoders) budget -= s->speculation.verify;

  // Running sequences in order; a victim is always behind the one that needs its pages.
  auto decoder = decoders.begin();
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* s = running_[i];
    if (s->paused) continue;
    if (Decoding(*s)) {
      if (decoder == decoders.end() || *decoder != s) continue;
      ++decoder;
      TrimDraft(s);
      const int32_t rows = 1 + s->speculation.verify;
      if (!SecurePages(s, rows, stats)) break;
      for (size_t lane = 0; lane < s->lanes.size(); ++lane) {
        batch.push_back({.sequence = s, .lane = lane, .num_rows = rows, .num_logits = rows});
      }
    } else {
      const int32_t rows = PrefillRows(*s, budget);
      if (rows == 0) continue;
      if (!SecurePages(s, rows, stats)) break;
      budget -= rows;
      AppendPrefill(s, rows, &batch);
    }
  }

  int num_siblings = 0;
  bool blocked =
      false;  // the next to run has to wait: only who is entitled to another's place goes on
  while (budget > 0 && !preempted_in_step_) {
    Sequence* s = blocked ? Places(running_).MostEntitled(waiting_, step_) : NextWaiting();
    if (s == nullptr) break;
    s->looked_at_step = step_;
    if (num_siblings < kMaxSiblingsLookedAt && ShouldWaitForSibling(*s)) {
      ++num_siblings;
      continue;
    }
    const bool admitted = Admit(s, now_us, stats);
    if (preempted_in_step_) {  // the rows of whom it pushed out
      std::erase_if(batch, [](const Slice& slice) { return !slice.sequence->running; });
    }
    if (!admitted) {
      if (blocked) break;
      blocked = true;
      continue;
    }
    const int32_t rows = PrefillRows(*s, budget);
    budget -= rows;
    AppendPrefill(s, rows, &batch);
  }
  queue_clock_.OnStep(now_us, started_in_step_, !waiting_.empty());
  for (const Slice& slice : batch) slice.sequence->last_step = step_;
  return batch;
}

}  // namespace tutti::engine
