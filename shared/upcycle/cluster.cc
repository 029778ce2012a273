#include "shared/upcycle/cluster.h"

#include <algorithm>
#include <cmath>

#include "shared/base/philox.h"

namespace tutti::upcycle {
namespace {

constexpr int kRoundsMax = 64;
constexpr int64_t kLanes = 16;
constexpr int kSmallShare = 16;  // of an even share: below 1/16 a cluster starts again

class Clustering {
 public:
  Clustering(std::span<const float> rows, int64_t dim, int num)
      : rows_(rows), dim_(dim), num_(num), n_(static_cast<int64_t>(rows.size()) / dim) {
    likeness_.assign(static_cast<size_t>(n_), -1.0f);
    out_.of.assign(static_cast<size_t>(n_), -1);
    for (int64_t r = 0; r < n_; ++r) {
      const auto row = Row(r);
      if (std::any_of(row.begin(), row.end(), [](float v) { return v != 0; })) used_.push_back(r);
    }
  }

  Clusters Run(uint64_t seed, uint32_t stream) {
    if (!Seed(seed, stream)) return {};
    for (int round = 0; round < kRoundsMax; ++round) {
      const bool moved = Assign();
      const bool restarted = RestartSmall();
      if (!moved && !restarted) break;
      if (!restarted) Center();
    }
    Assign();  // of the centers that are returned
    return std::any_of(out_.sizes.begin(), out_.sizes.end(), [](int64_t s) { return s == 0; })
               ? Clusters{}
               : std::move(out_);
  }

 private:
  std::span<const float> Row(int64_t r) const {
    return rows_.subspan(static_cast<size_t>(r * dim_), static_cast<size_t>(dim_));
  }
  std::span<float> CenterOf(int c) {
    return std::span(out_.centers)
        .subspan(static_cast<size_t>(c * dim_), static_cast<size_t>(dim_));
  }

  // Every further center is a row, drawn with a chance that grows with its distance, 1 - cosine, to
  // the nearest center so far.
  bool Seed(uint64_t seed, uint32_t stream) {
    if (used_.empty()) return false;
    out_.centers.assign(static_cast<size_t>(num_ * dim_), 0.0f);
    for (int c = 0; c < num_; ++c) {
      const auto block = Philox4x32(seed, {static_cast<uint32_t>(c), stream, 0, 0});
      double total = 0;
      const auto distance = [&](int64_t r) {
        // Rows of one direction differ by rounding alone.
        const double d = 1.0 - static_cast<double>(likeness_[static_cast<size_t>(r)]);
        return c == 0 ? 1.0 : d > 1e-5 ? d : 0.0;
      };
      for (const int64_t r : used_) total += distance(r);
      if (total == 0) return false;
      double left = static_cast<double>(UnitUniform(block[0])) * total;
      int64_t drawn = -1;
      for (const int64_t r : used_) {
        if (distance(r) == 0) continue;
        drawn = r;
        left -= distance(r);
        if (left <= 0) break;
      }
      std::copy_n(Row(drawn).begin(), dim_, CenterOf(c).begin());
      for (const int64_t r : used_) {
        float& best = likeness_[static_cast<size_t>(r)];
        best = std::max(best, Dot(Row(r), CenterOf(c)));
      }
    }
    return true;
  }

  // Every row to the center that is most like it, ties to the lower one. Whether any row moved.
  bool Assign() {
    bool moved = false;
    out_.sizes.assign(static_cast<size_t>(num_), 0);
    for (const int64_t r : used_) {
      int best = 0;
      float most = -2.0f;
      for (int c = 0; c < num_; ++c) {
        const float like = Dot(Row(r), CenterOf(c));
        if (like > most) {
          most = like;
          best = c;
        }
      }
      moved |= out_.of[static_cast<size_t>(r)] != best;
      out_.of[static_cast<size_t>(r)] = best;
      likeness_[static_cast<size_t>(r)] = most;
      ++out_.sizes[static_cast<size_t>(best)];
    }
    return moved;
  }

  // A center is the direction of the sum of its rows.
  void Center() {
    std::vector<float> sums(out_.centers.size(), 0.0f);
    for (const int64_t r : used_) {
      float* sum = sums.data() + out_.of[static_cast<size_t>(r)] * dim_;
      const auto row = Row(r);
      for (int64_t i = 0; i < dim_; ++i) sum[i] += row[static_cast<size_t>(i)];
    }
    for (int c = 0; c < num_; ++c) {
      const auto sum =
          std::span(sums).subspan(static_cast<size_t>(c * dim_), static_cast<size_t>(dim_));
      // Opposite rows may cancel: the old center stays.
      if (Normalize(sum)) std::copy(sum.begin(), sum.end(), CenterOf(c).begin());
    }
  }

  // Gives a cluster that is next to nothing the place of a typical row of the largest one: the row
  // at the middle of that cluster's likenesses. (The row that is least like its center would draw
  // outliers alone, and be small again.) One at a time, since the largest one changes.
  bool RestartSmall() {
    const auto small = std::min_element(out_.sizes.begin(), out_.sizes.end());
    const auto large = std::max_element(out_.sizes.begin(), out_.sizes.end());
    const auto share = static_cast<int64_t>(used_.size()) / (int64_t{num_} * kSmallShare);
    if (*small > share || restarts_ == kRoundsMax / 2) return false;
    ++restarts_;
    std::vector<int64_t> members;
    for (const int64_t r : used_) {
      if (out_.of[static_cast<size_t>(r)] == large - out_.sizes.begin()) members.push_back(r);
    }
    const auto middle = members.begin() + static_cast<ptrdiff_t>(members.size() / 2);
    std::nth_element(members.begin(), middle, members.end(), [&](int64_t a, int64_t b) {
      const float x = likeness_[static_cast<size_t>(a)], y = likeness_[static_cast<size_t>(b)];
      return x != y ? x < y : a < b;
    });
    std::copy_n(Row(*middle).begin(), dim_,
                CenterOf(static_cast<int>(small - out_.sizes.begin())).begin());
    return true;
  }

  const std::span<const float> rows_;
  const int64_t dim_;
  const int num_;
  const int64_t n_;
  std::vector<int64_t> used_;    // rows that have a direction
  std::vector<float> likeness_;  // [n] of a row to its center
  int restarts_ = 0;
  Clusters out_;
};

}  // namespace

float Dot(std::span<const float> a, std::span<const float> b) {
  float lanes[kLanes] = {};
  const auto n = static_cast<int64_t>(a.size());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  for (int64_t l = 0; i + l < n; ++l) lanes[l] += a[i + l] * b[i + l];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

bool Normalize(std::span<float> x) {
  const float length = std::sqrt(Dot(x, x));
  const bool has_direction = length > 1e-12f;
  for (float& v : x) v = has_direction ? v / length : 0.0f;
  return has_direction;
}

Clusters ClusterDirections(std::span<const float> rows, int64_t dim, int num, uint64_t seed,
                           uint32_t stream) {
  return Clustering(rows, dim, num).Run(seed, stream);
}

}  // namespace tutti::upcycle
