// Whether a draft is a help: what the tokens of its targets cost with its hints, and without.
#pragma once

#include <cstdint>

namespace tutti::router {

// A draft whose hints give hardly any token is no help. Beyond that, how right they are says little
// of what it gives: one on the target's own cores takes as much from it as it gives, one on a slow
// network is late. So both are timed: some tokens with hints, as many without. A draft that makes
// them come no sooner is not asked for a while, longer each time; one that does is timed again
// after growing numbers of tokens, which are few beside those it hastens.
//
// Times are of one choice, from its tokens before to these. They are compared only when about as
// many choices were under way in both windows.
//
// Thread safety: one thread at a time. Determinism: `free` in all that it says, which changes no
// token.
class DraftTrial {
 public:
  struct Options {
    int32_t window = 0;      // tokens of each choice that are timed; 0: never
    double least_share = 0;  // of the tokens, that hints must give
    int64_t pause_us = 0, pause_most_us = 0;
  };
  explicit DraftTrial(const Options& options) : options_(options) {}

  // Tokens of a choice that came `us` (0: unknown) after its tokens before.
  struct Tokens {
    int32_t count = 0, accepted = 0;  // those that hints gave
    int64_t us = 0;
    bool drafted = false;     // it had the draft beside it
    int32_t num_drafted = 1;  // choices that had
    int32_t num_choices = 1;  // on the target
  };
  void Note(const Tokens& tokens, int64_t now_us);

  // Nobody should ask it now.
  bool paused(int64_t now_us) const { return timing_without(now_us) || now_us < paused_until_us_; }
  // Wants to be told of tokens without it.
  bool timing_without(int64_t now_us) const {
    return phase_ == Phase::kWithout && now_us < without_until_us_;
  }
  // It was let be for a while, and is on trial: with one choice that shows.
  bool on_trial() const { return pause_us_ > 0; }

 private:
  enum class Phase { kWith, kWithout, kKept };
  struct Window {
    int64_t tokens = 0, us = 0, choices = 0;
    double UsPerToken() const { return static_cast<double>(us) / static_cast<double>(tokens); }
    double Choices() const { return static_cast<double>(choices) / static_cast<double>(tokens); }
  };
  void LookAtShare(const Tokens& tokens, int64_t now_us);
  void Decide(int64_t now_us);
  void Pause(int64_t now_us);
  void Begin(Phase phase, int64_t now_us);

  const Options options_;
  int64_t hinted_ = 0, accepted_ = 0;  // since the share was last looked at
  Phase phase_ = Phase::kWith;
  Window with_, without_;
  int64_t unwindowed_ = 0;        // tokens of this phase in no window: skipped first, or kept
  int64_t needed_ = 0;            // tokens of a window, of all drafted choices
  int64_t keep_for_ = 0;          // until it is timed again
  int64_t without_until_us_ = 0;  // should no tokens come
  int64_t pause_us_ = 0, paused_until_us_ = 0;
};

}  // namespace tutti::router
