#include "shared/speculation/step_cost.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "kernels/kernels.h"

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
  const double sample = kernels::DetLog(static_cast<double>(us) / Guess(rows));
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
  if (tabulated_ != num_observed_) Tabulate();
  return log_ratios_[static_cast<size_t>(rows)];
}

void StepCost::Tabulate() const {
  tabulated_ = num_observed_;
  int below = 0, above = 0;  // known ones around r
  for (int r = 1; r <= kMaxRows; ++r) {
    if (Knows(r)) {
      below = r;
    } else if (above < r) {
      above = r + 1;
      while (above <= kMaxRows && !Knows(above)) ++above;
    }
    const auto ratio = [this](int n) { return entries_[static_cast<size_t>(n)].log_ratio; };
    double log_ratio = 0;
    if (below == r) {
      log_ratio = ratio(r);
    } else if (below > 0 && above <= kMaxRows) {
      log_ratio = ratio(below) + (ratio(above) - ratio(below)) * (r - below) / (above - below);
    } else if (below > 0) {
      log_ratio = ratio(below);
    } else if (above <= kMaxRows) {
      log_ratio = ratio(above);
    }
    log_ratios_[static_cast<size_t>(r)] = log_ratio;
    estimates_[static_cast<size_t>(r)] = Guess(r) * kernels::DetExp(log_ratio);
  }
  double least = std::numeric_limits<double>::infinity();
  for (int r = kMaxRows; r >= 1; --r) {
    double& estimate = estimates_[static_cast<size_t>(r)];
    estimate = std::min(estimate, least);
    if (Knows(r)) least = estimate;
  }
}

double StepCost::Estimate(int rows) const {
  if (tabulated_ != num_observed_) Tabulate();
  if (rows > kMaxRows) return estimates_[kMaxRows] * rows / kMaxRows;
  return estimates_[static_cast<size_t>(std::max(rows, 1))];
}

}  // namespace tutti::speculation
