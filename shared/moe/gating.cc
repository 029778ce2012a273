#include "shared/moe/gating.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace tutti::moe {
namespace {

constexpr int kMaxExperts = 1 << 12;

// A row's sum as docs/determinism.md has it: 16 lanes, folded 8, 4, 2, 1.
float LaneSum(std::span<const float> x) {
  float lanes[16] = {};
  for (size_t i = 0; i < x.size(); ++i) lanes[i % 16] += x[i];
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void Softmax(std::span<const float> logits, std::span<float> p) {
  const float most = *std::max_element(logits.begin(), logits.end());
  for (size_t e = 0; e < logits.size(); ++e) p[e] = logits[e] - most;
  kernels::Kernels().exp(p.data(), static_cast<int64_t>(p.size()), p.data());
  const float sum = LaneSum(p);
  for (float& v : p) v = v / sum;
}

void Sigmoid(std::span<const float> logits, std::span<float> p) {
  for (size_t e = 0; e < logits.size(); ++e) p[e] = -logits[e];
  kernels::Kernels().exp(p.data(), static_cast<int64_t>(p.size()), p.data());
  for (float& v : p) v = 1.0f / (1.0f + v);
}

// The `k` best of `candidates` by (score descending, id ascending).
void KeepBest(std::span<const float> scores, size_t k, std::vector<int32_t>* candidates) {
  const auto better = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  k = std::min(k, candidates->size());
  std::partial_sort(candidates->begin(), candidates->begin() + static_cast<ptrdiff_t>(k),
                    candidates->end(), better);
  candidates->resize(k);
}

// Experts of the best groups.
void KeepGroups(const GatingOptions& o, std::span<const float> scores,
                std::vector<int32_t>* candidates) {
  const size_t size = static_cast<size_t>(o.num_experts / o.num_groups);
  std::vector<float> worth;
  for (int g = 0; g < o.num_groups; ++g) {
    std::vector<float> group(scores.begin() + static_cast<ptrdiff_t>(size) * g,
                             scores.begin() + static_cast<ptrdiff_t>(size) * (g + 1));
    const size_t best = std::min<size_t>(static_cast<size_t>(o.group_best), size);
    std::partial_sort(group.begin(), group.begin() + static_cast<ptrdiff_t>(best), group.end(),
                      std::greater<float>());
    float sum = 0;
    for (size_t i = 0; i < best; ++i) sum += group[i];
    worth.push_back(sum);
  }
  std::vector<int32_t> groups;
  for (int g = 0; g < o.num_groups; ++g) groups.push_back(g);
  KeepBest(worth, static_cast<size_t>(o.top_groups), &groups);
  candidates->clear();
  for (int32_t g : groups) {
    for (size_t i = 0; i < size; ++i)
      candidates->push_back(g * static_cast<int32_t>(size) + static_cast<int32_t>(i));
  }
}

absl::Status Bad(const char* field, int value, const std::string& want) {
  return absl::InvalidArgumentError(std::string(field) + " is " + std::to_string(value) + "; " +
                                    want);
}

}  // namespace

absl::Status GatingOptions::Validate() const {
  if (num_experts < 1 || num_experts > kMaxExperts)
    return Bad("num_experts", num_experts,
               "it must be in [1, " + std::to_string(kMaxExperts) + "]");
  if (num_groups < 1 || num_experts % num_groups != 0)
    return Bad("num_groups", num_groups,
               "it must divide num_experts = " + std::to_string(num_experts));
  if (top_groups < 1 || top_groups > num_groups)
    return Bad("top_groups", top_groups, "it must be in [1, " + std::to_string(num_groups) + "]");
  if (group_best < 1 || group_best > num_experts / num_groups)
    return Bad("group_best", group_best, "a group does not have that many experts");
  const int left = num_experts / num_groups * top_groups;
  if (top_k < 1 || top_k > left)
    return Bad("top_k", top_k, "it must be in [1, " + std::to_string(left) + "]");
  if (!(scale > 0 && scale < 1e6f)) return absl::InvalidArgumentError("scale must be in (0, 1e6)");
  if (random_second && (top_k != 2 || !renormalize || scale != 1.0f)) {
    return absl::InvalidArgumentError(
        "random_second needs top_k = 2 and weights that sum to 1 (renormalize, scale 1)");
  }
  if (!(capacity_factor >= 0 && capacity_factor <= kMaxExperts))
    return absl::InvalidArgumentError("capacity_factor must be in [0, 4096]; 0 is no limit");
  return absl::OkStatus();
}

void Route(const GatingOptions& o, std::span<const float> logits,
           std::span<const float> choice_bias, std::span<int32_t> ids, std::span<float> weights) {
  const size_t n = logits.size(), k = ids.size();
  if (!kernels::Kernels().all_finite(logits.data(), static_cast<int64_t>(n))) {
    for (size_t i = 0; i < k; ++i) {
      ids[i] = static_cast<int32_t>(i);
      weights[i] = std::numeric_limits<float>::quiet_NaN();
    }
    return;
  }
  std::vector<float> scores(n), choice;
  if (o.score == GatingOptions::Score::kSoftmax) {
    Softmax(logits, scores);
  } else {
    Sigmoid(logits, scores);
  }
  // A softmax rounds; the logits themselves do not.
  choice.assign(logits.begin(), logits.end());
  if (o.score == GatingOptions::Score::kSigmoid || !choice_bias.empty()) choice = scores;
  for (size_t e = 0; e < choice_bias.size(); ++e) choice[e] += choice_bias[e];

  std::vector<int32_t> chosen;
  if (o.num_groups > 1) {
    KeepGroups(o, o.group_best > 1 ? std::span<const float>(choice) : scores, &chosen);
  } else {
    for (size_t e = 0; e < n; ++e) chosen.push_back(static_cast<int32_t>(e));
  }
  KeepBest(choice, k, &chosen);
  std::sort(chosen.begin(), chosen.end());
  float sum = 0;
  for (size_t i = 0; i < k; ++i) {
    ids[i] = chosen[i];
    weights[i] = scores[static_cast<size_t>(chosen[i])];
    sum += weights[i];
  }
  for (size_t i = 0; i < k; ++i) {
    if (o.renormalize) weights[i] = weights[i] / (sum + 1e-20f);
    if (o.scale != 1.0f) weights[i] = weights[i] * o.scale;
  }
}

double LoadBalancingLoss(const GatingOptions& o, int64_t rows, std::span<const float> logits,
                         std::span<const int32_t> ids) {
  const auto n = static_cast<size_t>(o.num_experts);
  std::vector<double> assigned(n), probability(n);
  std::vector<float> p(n);
  for (int64_t r = 0; r < rows; ++r) {
    Softmax(logits.subspan(static_cast<size_t>(r) * n, n), p);
    for (size_t e = 0; e < n; ++e) probability[e] += p[e];
  }
  for (int32_t id : ids) assigned[static_cast<size_t>(id)] += 1;
  double sum = 0;
  const auto count = static_cast<double>(rows);
  for (size_t e = 0; e < n; ++e) sum += assigned[e] / count * (probability[e] / count);
  return sum * static_cast<double>(n);
}

}  // namespace tutti::moe
