#include "shared/engine/drafter.h"

#include <algorithm>

namespace tutti::engine {
namespace {

// A step without guesses now and then keeps the measured cost of one true.
constexpr int32_t kPlainEvery = 64;

// How fast what was seen fades, per token tried; and how many tries the first figures are worth.
constexpr float kDecay = 0.998f, kWeightOfPrior = 16;

// Less likely tokens are not worth thinking about.
constexpr float kLeastGain = 0.02f;

// A match as long as this is a passage that is being copied; it may go on after a few changes.
constexpr int32_t kPassage = 4, kMostMisses = 3;

// Who leaves some words or a sentence of a text out goes on soon after where he was.
constexpr int64_t kNear = 60;

}  // namespace

void Drafter::Hint(Sequence* s, int32_t position, std::span<const int32_t> tokens) {
  if (options_.max_draft_tokens == 0 || position < 0) return;
  Speculation& spec = s->speculation;
  FollowHints(s);
  const auto valid = [this](int32_t t) { return t >= 0 && t < vocab_size_; };
  tokens = tokens.first(
      static_cast<size_t>(std::find_if_not(tokens.begin(), tokens.end(), valid) - tokens.begin()));
  constexpr size_t kMostAhead = 1024;
  const auto hint_end = spec.hint_first + static_cast<int32_t>(spec.hint.size());
  const auto num_output = static_cast<int32_t>(s->history.num_output());
  const bool joins = position >= spec.hint_first && position <= hint_end && !spec.hint.empty();
  if (joins) {
    spec.hint.resize(static_cast<size_t>(position - spec.hint_first));
  } else if (position <= num_output) {
    spec.hint.clear();
    spec.hint_first = position;
  } else {  // it begins beyond what is known: what it rests on was not said, or came otherwise
    if (position == spec.stale_first + static_cast<int32_t>(spec.stale.size()) &&
        !spec.stale.empty() && spec.stale.size() < kMostAhead) {
      spec.stale.insert(spec.stale.end(), tokens.begin(), tokens.end());
    }
    return;
  }
  spec.hint.insert(spec.hint.end(), tokens.begin(), tokens.end());
  const auto past = static_cast<size_t>(std::max(0, num_output - spec.hint_first));
  if (spec.hint.size() > past + kMostAhead) spec.hint.resize(past + kMostAhead);
}

// Drops what has come to pass of the hints, and finds out where they were wrong.
void Drafter::FollowHints(Sequence* s) {
  Speculation& spec = s->speculation;
  const std::span<const int32_t> output = s->history.output();
  const auto num_output = static_cast<int32_t>(output.size());
  const auto drop = [](std::vector<int32_t>* v, size_t n) {
    v->erase(v->begin(), v->begin() + static_cast<ptrdiff_t>(n));
  };
  for (; !spec.stale.empty() && spec.stale_first < num_output; ++spec.stale_first) {
    const bool agrees = spec.stale[0] == output[static_cast<size_t>(spec.stale_first)];
    drop(&spec.stale, 1);
    spec.stale_agreed = agrees ? spec.stale_agreed + 1 : 0;
    if (spec.stale_agreed >= kPassage) spec.stale_misses = 0;
    if (!agrees && ++spec.stale_misses > kMostMisses) spec.stale.clear();
  }
  if (spec.hint.empty() || spec.hint_first >= num_output) return;
  const std::span<const int32_t> came = output.subspan(static_cast<size_t>(spec.hint_first));
  const size_t past = std::min(spec.hint.size(), came.size());
  const auto agreed = static_cast<size_t>(
      std::mismatch(spec.hint.begin(), spec.hint.begin() + static_cast<ptrdiff_t>(past),
                    came.begin())
          .first -
      spec.hint.begin());
  spec.hint_first += static_cast<int32_t>(agreed);
  drop(&spec.hint, agreed);
  if (agreed == past) return;
  if (spec.hint.size() > 1) {
    spec.stale.swap(spec.hint);
    spec.stale_first = spec.hint_first;
    spec.stale_agreed = spec.stale_misses = 0;
  }
  spec.hint.clear();
  FollowHints(s);
}

void Drafter::ProposeHint(Sequence* s, int32_t most) {
  FollowHints(s);
  Speculation& spec = s->speculation;
  const auto num_output = static_cast<int32_t>(s->history.num_output());
  if (spec.hint.empty()) spec.hint_first = num_output;
  if (spec.hint_first > num_output) return;
  speculation::Draft& draft = spec.draft;
  const size_t n = std::min(spec.hint.size(), static_cast<size_t>(most));
  draft.tokens.assign(spec.hint.begin(), spec.hint.begin() + static_cast<ptrdiff_t>(n));
  draft.kinds.assign(n, speculation::kHintKind);
  // Behind the end of a hint, what an older one had said there.
  int32_t agreed = spec.stale_agreed;
  for (size_t i = 0; i < spec.stale.size() && draft.tokens.size() < static_cast<size_t>(most);
       ++i) {
    const size_t at = static_cast<size_t>(spec.stale_first - num_output) + i;
    if (at < n) {
      agreed = draft.tokens[at] == spec.stale[i] ? agreed + 1 : 0;
    } else {
      if (at != draft.tokens.size()) return;
      draft.tokens.push_back(spec.stale[i]);
      draft.kinds.push_back(speculation::KindOfStaleHint(agreed++));
    }
  }
}

void Drafter::ProposeNgram(Sequence* s, int32_t most) {
  Speculation& spec = s->speculation;
  const std::span<const int32_t> tokens = s->history.tokens();
  spec.ngrams.Extend(tokens);
  const speculation::NgramMatch own = spec.ngrams.Find(tokens, &nexts_);
  const speculation::NgramMatch recent = recent_.Find(tokens);
  // kind_of(i): of token i of other_.
  const auto take = [&](const auto& kind_of) {
    other_.kinds.clear();
    for (size_t i = 0; i < other_.tokens.size(); ++i)
      other_.kinds.push_back(kind_of(static_cast<int32_t>(i)));
    Offer(s);
  };
  if (own.length > 0) {
    speculation::Continue(tokens, own.next, most, &other_.tokens);
    take([&](int32_t i) {
      const bool contested =
          speculation::IsContested(tokens, other_.tokens, static_cast<size_t>(i), &nexts_);
      const auto source = contested                        ? speculation::Source::kContested
                          : own.next + i < s->num_prompt() ? speculation::Source::kPrompt
                                                           : speculation::Source::kOutput;
      return speculation::KindOfMatch(own.length + i, source);
    });
  }
  if (recent.length > 0) {
    recent_.Continue(recent.next, most, &other_.tokens);
    take([&](int32_t i) {
      return speculation::KindOfMatch(recent.length + i, speculation::Source::kRecentOutputs);
    });
  }
  if (own.length < kPassage && spec.copied_to >= 0) {
    const speculation::NgramMatch near =
        speculation::FindWithin(tokens, spec.copied_to, spec.copied_to + kNear);
    if (near.length > 0) {
      speculation::Continue(tokens, near.next, most, &other_.tokens);
      take([&](int32_t i) { return speculation::KindOfNearMatch(near.length + i); });
    }
  }
  if (own.length >= kPassage && own.length > spec.copy.agreed) {
    spec.copy = {own.next, own.length, 0};
  } else if (spec.copy.next >= 0 && spec.copy.misses > 0) {
    speculation::Continue(tokens, spec.copy.next, most, &other_.tokens);
    take([&](int32_t i) { return speculation::KindAfterMiss(spec.copy.agreed + i); });
  }
  if (spec.copy.next >= 0) spec.copied_to = spec.copy.next;
}

float Drafter::SumOfGains(const Sequence& s, const speculation::Draft& draft) const {
  float gain = 1, sum = 0;
  for (const speculation::Kind kind : draft.kinds) sum += gain *= Chance(s, kind);
  return sum;
}

void Drafter::Offer(Sequence* s) {
  speculation::Draft& draft = s->speculation.draft;
  if (draft.tokens.empty() || SumOfGains(*s, other_) > SumOfGains(*s, draft)) {
    std::swap(draft, other_);
  }
}

void Drafter::Propose(Sequence* s) {
  Speculation& spec = s->speculation;
  spec.draft.Clear();
  spec.verify = 0;
  if (s->beams || !spec.allowed) return;
  // The last token is never stored, so its row is never needed.
  const int32_t most = std::min(options_.max_draft_tokens,
                                s->max_output - static_cast<int32_t>(s->history.num_output()) - 1);
  if (most <= 0) return;
  ProposeHint(s, most);
  if (options_.ngram_drafts) ProposeNgram(s, most);
}

float Drafter::Chance(const Sequence& s, speculation::Kind kind) const {
  const float of_all = acceptance_.Chance(kind, speculation::PriorChance(kind), kWeightOfPrior);
  return s.speculation.odds.Chance(kind, of_all);
}

void Drafter::AppendGains(const Sequence& s) {
  float gain = 1;
  for (const speculation::Kind kind : s.speculation.draft.kinds) {
    gain *= Chance(s, kind);
    if (gain < kLeastGain) return;
    gains_.push_back(gain);
  }
}

void Drafter::Plan(std::span<Sequence* const> decoders, int32_t base_rows, int32_t max_rows) {
  if (options_.max_draft_tokens == 0) return;
  gains_.clear();
  std::vector<size_t> ends;
  for (Sequence* s : decoders) {
    Propose(s);
    if (options_.adapt_drafts) {
      AppendGains(*s);
    } else {
      gains_.insert(gains_.end(), s->speculation.draft.tokens.size(), 1.0f);
    }
    ends.push_back(gains_.size());
  }
  if (gains_.empty() || max_rows <= 0) return;
  if (!options_.adapt_drafts) {
    for (Sequence* s : decoders) {
      const int32_t n =
          std::min(max_rows, static_cast<int32_t>(s->speculation.draft.tokens.size()));
      s->speculation.verify = n;
      max_rows -= n;
    }
    return;
  }
  // What guesses cost is what they add to a plain step, so that is measured first.
  const bool unknown =
      options_.clock_us && base_rows <= speculation::StepCost::kMaxRows && !cost_.Knows(base_rows);
  if (++steps_since_plain_ >= kPlainEvery || unknown) {
    steps_since_plain_ = 0;
    return;
  }
  offers_.clear();
  for (size_t i = 0; i < ends.size(); ++i) {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    offers_.push_back({std::span(gains_).subspan(begin, ends[i] - begin)});
  }
  const std::vector<int> counts = speculation::PlanDrafts(offers_, base_rows, max_rows, cost_);
  bool plain = true;
  for (size_t i = 0; i < decoders.size(); ++i) {
    decoders[i]->speculation.verify = counts[i];
    plain &= counts[i] == 0;
  }
  if (plain) steps_since_plain_ = 0;
}

void Drafter::FollowCopy(Sequence* s, size_t first) {
  Speculation::Copy& copy = s->speculation.copy;
  const std::span<const int32_t> tokens = s->history.tokens();
  for (size_t i = first; i < tokens.size() && copy.next >= 0; ++i) {
    if (tokens[static_cast<size_t>(copy.next)] == tokens[i]) {
      if (++copy.agreed >= kPassage) copy.misses = 0;
    } else {
      copy.agreed = 0;
      ++copy.misses;
    }
    copy.next = copy.misses > kMostMisses ? -1 : copy.next + 1;
  }
}

void Drafter::Observe(Sequence* s, size_t first_index) {
  Speculation& spec = s->speculation;
  FollowCopy(s, s->history.num_prompt() + first_index);
  if (spec.draft.tokens.empty()) return;
  const std::span<const int32_t> came = s->history.output().subspan(first_index);
  for (size_t i = 0; i < std::min(spec.draft.tokens.size(), came.size()); ++i) {
    const speculation::Kind kind = spec.draft.kinds[i];
    const bool hit = spec.draft.tokens[i] == came[i];
    spec.odds.Observe(kind, hit, Chance(*s, kind));
    acceptance_.Observe(kind, hit, kDecay);
    if (!hit) break;
  }
  spec.draft.Clear();
  spec.verify = 0;
}

void Drafter::Ended(const Sequence& s) {
  if (!s.beams) recent_.Add(s.history.output());
}

}  // namespace tutti::engine
