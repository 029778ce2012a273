#include "shared/router/draft_trial.h"

#include <algorithm>

namespace tutti::router {
namespace {

// A draft that hastens tokens by less is not worth what it takes, nor to be told from none.
constexpr double kLeastGain = 1.02;
// Tokens of each choice at the start of a window that still show what was before.
constexpr int64_t kSkip = 4;
// Windows in which the number of choices differs by more say nothing of each other.
constexpr double kAlike = 1.25;
constexpr int64_t kShareTokens = 96;
constexpr int64_t kKeepWindows = 8, kKeepWindowsMost = 256;

}  // namespace

void DraftTrial::Begin(Phase phase, int64_t now_us) {
  phase_ = phase;
  unwindowed_ = 0;
  if (phase == Phase::kWith) {
    with_ = {};
    needed_ = 0;
  }
  if (phase == Phase::kWithout) {
    without_ = {};
    without_until_us_ = now_us + options_.pause_us;
  }
}

void DraftTrial::Note(const Tokens& t, int64_t now_us) {
  if (t.drafted) LookAtShare(t, now_us);
  if (options_.window == 0 || t.count <= 0 || t.us <= 0 || now_us < paused_until_us_) return;
  if (phase_ == Phase::kWithout && !timing_without(now_us)) Begin(Phase::kWith, now_us);
  if (t.drafted != (phase_ != Phase::kWithout)) return;  // from before the phase
  if (phase_ == Phase::kKept) {
    unwindowed_ += t.count;
    if (unwindowed_ >= keep_for_ * std::max(1, t.num_drafted)) Begin(Phase::kWith, now_us);
    return;
  }
  if (phase_ == Phase::kWith)
    needed_ = std::max(needed_, int64_t{options_.window} * std::max(1, t.num_drafted));
  if (unwindowed_ < kSkip * needed_ / options_.window) {
    unwindowed_ += t.count;
    return;
  }
  Window& w = phase_ == Phase::kWith ? with_ : without_;
  w.tokens += t.count;
  w.us += t.us;
  w.choices += int64_t{t.count} * t.num_choices;
  if (w.tokens < needed_) return;
  if (phase_ == Phase::kWith) return Begin(Phase::kWithout, now_us);
  Decide(now_us);
}

void DraftTrial::LookAtShare(const Tokens& t, int64_t now_us) {
  hinted_ += t.count;
  accepted_ += t.accepted;
  if (hinted_ < kShareTokens) return;
  const bool helps =
      static_cast<double>(accepted_) >= options_.least_share * static_cast<double>(hinted_);
  hinted_ = accepted_ = 0;
  if (!helps) {
    Pause(now_us);
  } else if (options_.window == 0) {
    pause_us_ = 0;  // nothing else will say so
  }
}

void DraftTrial::Decide(int64_t now_us) {
  const double more = std::max(with_.Choices(), without_.Choices());
  const double fewer = std::min(with_.Choices(), without_.Choices());
  if (more > kAlike * fewer) return Begin(Phase::kWith, now_us);
  if (without_.UsPerToken() < kLeastGain * with_.UsPerToken()) return Pause(now_us);
  pause_us_ = 0;
  keep_for_ = keep_for_ == 0 ? kKeepWindows * options_.window
                             : std::min(2 * keep_for_, kKeepWindowsMost * options_.window);
  Begin(Phase::kKept, now_us);
}

void DraftTrial::Pause(int64_t now_us) {
  pause_us_ = pause_us_ == 0 ? options_.pause_us : std::min(2 * pause_us_, options_.pause_most_us);
  paused_until_us_ = now_us + pause_us_;
  keep_for_ = 0;
  Begin(Phase::kWith, now_us);
}

}  // namespace tutti::router
