#include "shared/speculation/step_cost.h"

#include <algorithm>

namespace tutti::speculation {
namespace {

constexpr int64_t kForgetAfter = 1000;  // observations
constexpr double kWeight = 0.25, kMostSurprise = 1.5;

// Before anything is known, relative to one row: a low guess.
double Guess(int rows) { return 1 + 0.08 * (rows - 1); }

}  // namespace

void StepCost::Observe(int rows, int64_t us) {
  if (rows < 1 || rows > kMaxRows || us <= 0) return;
  Entry& e = entries_[static_cast<size_t>(rows)];
  const double sample = static_cast<double>(us);
  e.us = Knows(rows) ? e.us + kWeight * (std::min(sample, kMostSurprise * e.us) - e.us) : sample;
  e.seen = ++num_observed_;
}

bool StepCost::Knows(int rows) const {
  if (rows < 1 || rows > kMaxRows) return false;
  const Entry& e = entries_[static_cast<size_t>(rows)];
  return e.seen > 0 && num_observed_ - e.seen < kForgetAfter;
}

double StepCost::Interpolated(int rows) const {
  if (Knows(rows)) return entries_[static_cast<size_t>(rows)].us;
  int below = rows - 1, above = rows + 1;
  while (below > 0 && !Knows(below)) --below;
  while (above <= kMaxRows && !Knows(above)) ++above;
  const auto us = [this](int r) { return entries_[static_cast<size_t>(r)].us; };
  if (below > 0 && above <= kMaxRows) {
    return us(below) + (us(above) - us(below)) * (rows - below) / (above - below);
  }
  if (below > 0) return us(below) * Guess(rows) / Guess(below);
  if (above <= kMaxRows) return us(above) * Guess(rows) / Guess(above);
  return Guess(rows);
}

double StepCost::Estimate(int rows) const {
  const int within = std::clamp(rows, 1, kMaxRows);
  double least = Interpolated(within);
  for (int r = within + 1; r <= kMaxRows; ++r) {
    if (Knows(r)) least = std::min(least, entries_[static_cast<size_t>(r)].us);
  }
  return rows > kMaxRows ? least * rows / kMaxRows : least;
}

}  // namespace tutti::speculation
