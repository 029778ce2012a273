// What a decode step of so many rows takes, relative to one of fewer, as measured.
#pragma once

#include <array>
#include <cstdint>

namespace tutti::speculation {

// A row more is nearly free while the weights are what takes the time, and dear where a kernel
// begins another tile: the table has an entry for each number of rows.
//
// Shared machines have a pace that changes from one second to the next, and all steps with it. So a
// step is compared with its neighbours in time: the median of the last few, each divided by the
// entry of its rows, is the pace; what a step took beyond that moves the entry of its own rows. A
// number of rows that was not seen for long is forgotten and taken to lie, as a multiple of a first
// guess, between those that are known. The guess is low, so that somebody tries it. No row more
// makes a step cheaper: an entry is never taken to be dearer than one of more rows.
//
// Thread safety: none. Determinism: free: it decides how many tokens are guessed, not which come.
class StepCost {
 public:
  static constexpr int kMaxRows = 128;

  StepCost();
  void Observe(int rows, int64_t us);

  // Observed, and not too long ago.
  bool Knows(int rows) const;

  // In units of its own; only ratios mean something.
  // Cost: a table look-up; the first one after an Observe takes some microseconds.
  double Estimate(int rows) const;

 private:
  struct Entry {
    double log_ratio = 0;  // of its cost to the guess
    int64_t seen = 0;      // at which observation; 0: never
    int visits = 0;
  };
  double LogRatio(int rows) const;
  double LogPace() const;
  void Tabulate() const;

  std::array<Entry, kMaxRows + 1> entries_;
  std::array<double, 7> log_paces_{};  // of the last steps
  int64_t num_observed_ = 0;
  mutable std::array<double, kMaxRows + 1> estimates_{}, log_ratios_{};
  mutable int64_t tabulated_ = -1;  // num_observed_ at that time
};

}  // namespace tutti::speculation
