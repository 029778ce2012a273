// draft_network: what a draft gains over a network, hints against a lock-step, by simulation.
//
//   build/bin/draft_network [--tokens 20000] [--lookahead 32] [--acceptance 0.6 0.8 0.9]
//                           [--cost 0.05 0.1 0.3] [--rtt 0 0.5 1 2 4]
//
// Time is counted in steps of the target, which cost the same for any number of guesses (weights
// are what takes the time). A guess is right with the chance `acceptance` if those before it were.
// `cost`: the draft's time for a token. `rtt`: from the draft to the target and back.
//
// Hints (docs/decisions/0103): the target never waits; at each step it verifies the guesses that
// have come. The draft runs ahead, at most `lookahead` tokens past the last confirmed one; what it
// says and what it is told travel half an rtt. It looks at what it was told between two tokens.
// Lock-step: k guesses, their way, one step, the way back, and so on; k is the best of 1 to 16 for
// each case.
//
// The figures are tokens per step of the target's time: 1 is a target without a draft. They come
// from one seed and are the same on every machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <deque>
#include <limits>
#include <random>
#include <vector>

namespace tutti {
namespace {

struct Network {
  double acceptance, stale, cost, rtt;
  int lookahead, tokens;
};

// Whether a draft that knows all before it is right, by position.
std::vector<bool> Right(const Network& n) {
  std::mt19937_64 random(42);
  std::vector<bool> right(static_cast<size_t>(n.tokens) + 4096);
  for (size_t i = 0; i < right.size(); ++i)
    right[i] = static_cast<double>(random() >> 11) * 0x1p-53 < n.acceptance;
  return right;
}

// A word of the draft: right if what it rests on was right, or else by chance.
class HintSimulation {
 public:
  explicit HintSimulation(const Network& n) : n_(n), right_(Right(n)), draft_free_(n.cost) {}

  double TokensPerStep() {
    while (decided_ < n_.tokens) {
      // A step begins: what has come by now is verified.
      RunDraft(now_);
      Hear();
      int end = decided_;  // of what it gives: words that were right, then one that it drew itself
      while (end < known_ && right_[static_cast<size_t>(end)]) ++end;
      const bool all_right = end >= known_;
      if (all_right) {
        while (end < stale_end_ && Chance() < n_.stale) ++end;
      } else {
        stale_end_ = std::max(stale_end_, known_);
      }
      RunDraft(now_ + 1);  // in the meantime, on what it knows
      now_ += 1;
      decided_ = end + 1;
      if (!all_right) known_ = decided_;
      confirms_.push_back({now_ + n_.rtt / 2, decided_});
    }
    return static_cast<double>(decided_) / now_;
  }

 private:
  struct Hint {
    double arrival;
    int position;
    int told;  // tokens that the draft had been told of
  };
  struct Confirm {
    double arrival;
    int decided;
  };

  void Hear() {
    known_ = std::max(known_, decided_);
    while (!on_way_.empty() && on_way_.front().arrival <= now_) {
      const Hint h = on_way_.front();
      on_way_.pop_front();
      bool mistaken = false;  // and not told of it yet
      for (int i = h.told; i < std::min(decided_, h.position); ++i)
        mistaken |= !right_[static_cast<size_t>(i)];
      if (mistaken) {
        stale_end_ = std::max(stale_end_, h.position + 1);
      } else if (h.position == known_) {
        ++known_;
      }
    }
  }

  // Lets the draft make its tokens up to time `until`.
  void RunDraft(double until) {
    while (true) {
      while (!confirms_.empty() && confirms_.front().arrival <= draft_free_) {
        const int decided = confirms_.front().decided;
        confirms_.pop_front();
        // It goes on behind what was decided: after a mistake, or when it was overtaken.
        bool off = draft_next_ < decided;
        for (int i = draft_told_; i < std::min(decided, draft_next_); ++i)
          off |= !right_[static_cast<size_t>(i)];
        draft_told_ = decided;
        if (off) draft_next_ = decided;
      }
      if (draft_next_ - draft_told_ >= n_.lookahead) {  // it waits for a confirm
        if (confirms_.empty() || confirms_.front().arrival > until) return;
        draft_free_ = std::max(draft_free_, confirms_.front().arrival);
        continue;
      }
      if (draft_free_ + n_.cost > until) return;
      draft_free_ += n_.cost;
      on_way_.push_back({draft_free_ + n_.rtt / 2, draft_next_++, draft_told_});
    }
  }
  double Chance() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

  const Network n_;
  const std::vector<bool> right_;
  std::mt19937_64 random_{43};
  double now_ = 1;  // the target's first token, of the prompt
  int decided_ = 1, known_ = 1, stale_end_ = 1;
  std::deque<Hint> on_way_;
  std::deque<Confirm> confirms_;
  double draft_free_;
  int draft_next_ = 0, draft_told_ = 0;
};

double LockStep(const Network& n, int k) {
  const std::vector<bool> right = Right(n);
  double now = 0;
  int decided = 0;
  while (decided < n.tokens) {
    int yield = 0;
    while (yield < k && right[static_cast<size_t>(decided + yield)]) ++yield;
    decided += yield + 1;
    now += k * n.cost + 1 + n.rtt;
  }
  return static_cast<double>(decided) / now;
}

int Main(int argc, char** argv) {
  CLI::App app("What a draft gains over a network: hints against a lock-step.");
  std::vector<double> acceptances = {0.6, 0.7, 0.8, 0.9}, costs = {0.05, 0.1, 0.25, 0.5},
                      rtts = {0, 0.5, 1, 2, 4};
  int tokens = 20000, lookahead = 32;
  double stale = 0.1;
  app.add_option("--acceptance", acceptances)->check(CLI::Range(0.0, 1.0));
  app.add_option("--stale", stale, "chance of a word behind a mistake")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--cost", costs)->check(CLI::Range(0.001, 100.0));
  app.add_option("--rtt", rtts)->check(CLI::Range(0.0, 1000.0));
  app.add_option("--tokens", tokens)->check(CLI::Range(100, 10'000'000));
  app.add_option("--lookahead", lookahead)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  std::printf("| acceptance | draft cost |");
  for (const double rtt : rtts) std::printf(" rtt %g: hints / lock-step (k) |", rtt);
  std::printf("\n| --- | --- |");
  for (size_t i = 0; i < rtts.size(); ++i) std::printf(" --- |");
  std::printf("\n");
  for (const double acceptance : acceptances) {
    for (const double cost : costs) {
      std::printf("| %g | %g |", acceptance, cost);
      for (const double rtt : rtts) {
        const Network n{acceptance, stale, cost, rtt, lookahead, tokens};
        int best_k = 1;
        double best = 0;
        for (int k = 1; k <= 16; ++k) {
          const double rate = LockStep(n, k);
          if (rate > best) best = rate, best_k = k;
        }
        std::printf(" %.2f / %.2f (%d) |", HintSimulation(n).TokensPerStep(), best, best_k);
      }
      std::printf("\n");
    }
  }
  return 0;
}

}  // namespace
}  // namespace tutti

int main(int argc, char** argv) { return tutti::Main(argc, argv); }
