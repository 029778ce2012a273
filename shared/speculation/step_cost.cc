#include "shared/speculation/step_cost.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace tutti::speculation {
namespace {

constexpr int64_t kForgetAfter = 500;  // observations
constexpr double kLeastWeight = 0.05;
constexpr double kMostSurprise = 0.7;  // a step that slept for a while counts as twice as slow

double Guess(int rows) { return rows <= 4 ? 1 + 0.05 * (rows - 1) : 1.15 + 0.1 * (rows - 4); }

}  // namespace

StepCost::StepCost() = default;

double StepCost::LogPace() const {
  const size_t n = std::min(static_cast<size_t>(num_observed_), log_paces_.size());
  std::array<double, 7> sorted = log_paces_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(n / 2);
  std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(n));
  return *middle;
}

void StepCost::Observe(int rows, int64_t us) {
  if (rows < 1 || rows > kMaxRows || us <= 0) return;
  const double sample = std::log(static_cast<double>(us) / Guess(rows));
  Entry& e = entries_[static_cast<size_t>(rows)];
  if (!Knows(rows)) {
    e.visits = 0;
    e.log_ratio = LogRatio(rows);
  }
  if (num_observed_ > 0) {
    const double surprise = sample - LogPace() - e.log_ratio;
    e.log_ratio += e.visits == 0 ? surprise
                                 : std::max(kLeastWeight, 1.0 / (e.visits + 1)) *
                                       std::clamp(surprise, -kMostSurprise, kMostSurprise);
  }
  ++e.visits;
  log_paces_[static_cast<size_t>(num_observed_) % log_paces_.size()] = sample - e.log_ratio;
  e.seen = ++num_observed_;
}

bool StepCost::Knows(int rows) const {
  if (rows < 1 || rows > kMaxRows) return false;
  const Entry& e = entries_[static_cast<size_t>(rows)];
  return e.seen > 0 && num_observed_ - e.seen < kForgetAfter;
}

double StepCost::LogRatio(int rows) const {
  const auto ratio = [this](int r) { return entries_[static_cast<size_t>(r)].log_ratio; };
  if (Knows(rows)) return ratio(rows);
  int below = rows - 1, above = rows + 1;
  while (below > 0 && !Knows(below)) --below;
  while (above <= kMaxRows && !Knows(above)) ++above;
  if (below > 0 && above <= kMaxRows) {
    return ratio(below) + (ratio(above) - ratio(below)) * (rows - below) / (above - below);
  }
  if (below > 0) return ratio(below);
  return above <= kMaxRows ? ratio(above) : 0;
}

double StepCost::Known(int rows) const { return Guess(rows) * std::exp(LogRatio(rows)); }

double StepCost::Estimate(int rows) const {
  const int within = std::clamp(rows, 1, kMaxRows);
  double least = Known(within);
  for (int r = within + 1; r <= kMaxRows; ++r) {
    if (Knows(r)) least = std::min(least, Known(r));
  }
  return rows > kMaxRows ? least * rows / kMaxRows : least;
}

}  // namespace tutti::speculation
