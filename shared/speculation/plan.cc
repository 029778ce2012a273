#include "shared/speculation/plan.h"

#include <algorithm>

namespace tutti::speculation {

std::vector<int> PlanDrafts(std::span<const Offer> offers, int base_rows, int max_rows,
                            const StepCost& cost, double least_profit) {
  struct Row {
    float gain;
    int offer;
  };
  std::vector<Row> rows;
  for (size_t i = 0; i < offers.size(); ++i) {
    for (const float gain : offers[i].gains) rows.push_back({gain, static_cast<int>(i)});
  }
  // Gains fall within an offer and equal ones keep their order, so a prefix of `rows` takes a
  // prefix of each draft.
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.gain > b.gain; });
  if (static_cast<int>(rows.size()) > max_rows)
    rows.resize(static_cast<size_t>(std::max(max_rows, 0)));
  std::vector<int> counts(offers.size(), 0);
  if (rows.empty()) return counts;
  double tokens = base_rows;
  double best = (1 + least_profit) * tokens / cost.Estimate(base_rows);
  size_t take = 0;
  for (size_t n = 1; n <= rows.size(); ++n) {
    tokens += static_cast<double>(rows[n - 1].gain);
    const double rate = tokens / cost.Estimate(base_rows + static_cast<int>(n));
    if (rate > best) best = rate, take = n;
  }
  for (size_t n = 0; n < take; ++n) ++counts[static_cast<size_t>(rows[n].offer)];
  return counts;
}

}  // namespace tutti::speculation
