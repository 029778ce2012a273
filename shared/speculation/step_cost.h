// What a decode step of so many rows takes, as measured.
#pragma once

#include <array>
#include <cstdint>

namespace tutti::speculation {

// A row more is nearly free while the weights are what takes the time, and dear where a kernel
// begins another tile: the table has an entry for each number of rows. One that was not visited for
// long is forgotten, since other things may have changed; what it may cost is then guessed low, so
// that somebody tries it. No row more makes a step cheaper: an entry is never taken to be dearer
// than one of more rows.
//
// Thread safety: none. Determinism: free: it decides how many tokens are guessed, not which come.
class StepCost {
 public:
  static constexpr int kMaxRows = 128;

  // A step that slept for a while (a paused process) moves its entry by an eighth at most.
  void Observe(int rows, int64_t us);

  // Observed, and not too long ago.
  bool Knows(int rows) const;

  // For comparing numbers of rows; in microseconds once anything was observed.
  double Estimate(int rows) const;

 private:
  struct Entry {
    double us = 0;
    int64_t seen = 0;  // at which observation; 0: never
  };
  double Interpolated(int rows) const;

  std::array<Entry, kMaxRows + 1> entries_;
  int64_t num_observed_ = 0;
};

}  // namespace tutti::speculation
