#include "shared/upcycle/router_rows.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "shared/upcycle/cluster.h"

namespace tutti::upcycle {
namespace {

constexpr float kMedianGap = 1.0986123f;  // ln 3

// Takes the part along `direction` (of length 1, or 0) out of x.
void TakeOut(std::span<const float> direction, std::span<float> x) {
  const float along = Dot(direction, x);
  for (size_t i = 0; i < x.size(); ++i) x[i] -= along * direction[i];
}

// The median over rows of the gap between the best and the `rank`-th best product with a center.
float MedianGap(std::span<const float> inputs, std::span<const float> centers, size_t hidden,
                size_t rank) {
  std::vector<float> gaps, products(centers.size() / hidden);
  for (size_t at = 0; at < inputs.size(); at += hidden) {
    for (size_t e = 0; e < products.size(); ++e)
      products[e] = Dot(inputs.subspan(at, hidden), centers.subspan(e * hidden, hidden));
    std::partial_sort(products.begin(), products.begin() + static_cast<ptrdiff_t>(rank),
                      products.end(), std::greater<float>());
    gaps.push_back(products[0] - products[rank - 1]);
  }
  const auto middle = gaps.begin() + static_cast<ptrdiff_t>(gaps.size() / 2);
  std::nth_element(gaps.begin(), middle, gaps.end());
  return *middle;
}

}  // namespace

absl::StatusOr<std::vector<float>> MakeRouterRows(std::span<const float> inputs, int64_t hidden,
                                                  const RouterOptions& o) {
  const auto width = static_cast<size_t>(hidden);
  std::vector<float> rows(inputs.begin(), inputs.end()), mean(width, 0.0f);
  const auto row = [&](size_t at) { return std::span(rows).subspan(at, width); };
  for (size_t at = 0; at < rows.size(); at += width) {
    Normalize(row(at));
    for (size_t i = 0; i < width; ++i) mean[i] += rows[at + i];
  }
  Normalize(mean);
  for (size_t at = 0; at < rows.size(); at += width) {
    TakeOut(mean, row(at));
    Normalize(row(at));
  }
  Clusters clusters = ClusterDirections(rows, hidden, o.num_experts, o.seed, o.layer);
  if (clusters.centers.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", o.layer, ": the ", rows.size() / width,
                     " rows of the texts have fewer than ", o.num_experts,
                     " directions; more texts, or more kinds of them, or fewer experts would do"));
  }
  for (size_t at = 0; at < clusters.centers.size(); at += width) {
    const auto center = std::span(clusters.centers).subspan(at, width);
    TakeOut(mean, center);
    Normalize(center);
  }
  if (o.num_experts == 1) return std::move(clusters.centers);
  const float gap =
      MedianGap(inputs, clusters.centers, width, static_cast<size_t>(std::max(2, o.top_k)));
  const float scale = gap > 0 ? kMedianGap / gap : 1.0f;
  for (float& v : clusters.centers) v *= scale;
  return std::move(clusters.centers);
}

}  // namespace tutti::upcycle
