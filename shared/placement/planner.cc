#include "shared/placement/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>
#include <tuple>

#include "shared/base/check.h"

namespace tutti::placement {
namespace {

constexpr double kPrior = 0.01;     // of a layer's mean load, for experts that nobody has asked for
constexpr double kMoveGain = 0.25;  // of the load that is moved
constexpr int kPasses = 4;          // of balance: what one layer gives up can be another's room
constexpr double kSwapGain = 0.02;  // of a fair share: two loads are worth that
constexpr double kDisplace = 4;  // times heavier: takes the place of another without room for both

bool Contains(const std::vector<int>& all, int one) {
  return std::binary_search(all.begin(), all.end(), one);
}
void Insert(std::vector<int>* all, int one) {
  all->insert(std::lower_bound(all->begin(), all->end(), one), one);
}
void Remove(std::vector<int>* all, int one) {
  all->erase(std::lower_bound(all->begin(), all->end(), one));
}

// Every expert weighs something, or those never asked for would pile up on one shard; a layer
// without load counts as one of average load that is even.
std::vector<double> Weights(const PlanInput& in) {
  const auto layers = static_cast<size_t>(in.num_layers);
  const auto width = static_cast<size_t>(in.experts_per_layer);
  std::vector<double> weights = in.load;
  if (weights.empty()) weights.assign(layers * width, 0);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double mean = total > 0 ? total / static_cast<double>(weights.size()) : 1;
  for (size_t l = 0; l < layers; ++l) {
    double* const w = weights.data() + l * width;
    const double layer_mean = std::accumulate(w, w + width, 0.0) / static_cast<double>(width);
    for (size_t e = 0; e < width; ++e) w[e] = layer_mean > 0 ? w[e] + kPrior * layer_mean : mean;
  }
  return weights;
}

class Planner {
 public:
  Planner(const PlanInput& in, const PlanOptions& options)
      : in_(in),
        options_(options),
        num_experts_(in.num_layers * in.experts_per_layer),
        num_shards_(static_cast<int>(in.slots.size())),
        weight_(Weights(in)),
        shards_of_(Size(num_experts_)),
        copies_(Size(num_experts_), 1),
        pinned_(Size(num_experts_)),
        room_(in.slots),
        layer_load_(Size(in.num_layers), std::vector<double>(Size(num_shards_), 0)),
        layer_fair_(Size(in.num_layers), 0),
        shard_load_(Size(num_shards_), 0) {
    for (auto& r : room_) {
      if (r < 0) r = num_experts_;
    }
    for (int e = 0; e < num_experts_; ++e)
      layer_fair_[LayerOf(e)] += weight_[Size(e)] / std::max(1, num_shards_);
  }

  Plan Run() {
    if (num_shards_ > 0 && num_experts_ > 0) {
      Keep();
      if (options_.rebalance) {
        ChooseCopies();
      } else {
        for (int e = 0; e < num_experts_; ++e) copies_[Size(e)] = std::max(1, Held(e));
      }
      Trim();
      if (options_.rebalance) Displace();
      Place();
      for (int pass = 0; options_.rebalance && pass < kPasses; ++pass) {
        moved_ = false;
        for (int l = 0; l < in_.num_layers; ++l) BalanceLayer(l);
        BalanceShards();
        if (!moved_) break;
      }
    }
    Plan plan;
    for (const auto& shards : shards_of_) plan.unplaced += shards.empty() ? 1 : 0;
    plan.shards_of = std::move(shards_of_);
    return plan;
  }

 private:
  static size_t Size(int n) { return static_cast<size_t>(n); }
  size_t LayerOf(int e) const { return Size(e / in_.experts_per_layer); }
  double PerCopy(int e) const {
    return weight_[Size(e)] / std::max<double>(1, static_cast<double>(copies_[Size(e)]));
  }
  int Held(int e) const { return static_cast<int>(shards_of_[Size(e)].size()); }
  bool Holds(int s, int e) const { return Contains(shards_of_[Size(e)], s); }

  void Put(int e, int s) {
    Insert(&shards_of_[Size(e)], s);
    --room_[Size(s)];
    layer_load_[LayerOf(e)][Size(s)] += PerCopy(e);
    shard_load_[Size(s)] += PerCopy(e);
  }
  void Take(int e, int s) {
    Remove(&shards_of_[Size(e)], s);
    ++room_[Size(s)];
    layer_load_[LayerOf(e)][Size(s)] -= PerCopy(e);
    shard_load_[Size(s)] -= PerCopy(e);
  }

  // What is there, without loads: those follow once the number of copies is known. Pins first.
  void Keep() {
    for (const Pin& p : in_.pins) {
      if (p.expert < 0 || p.expert >= num_experts_ || p.shard < 0 || p.shard >= num_shards_)
        continue;
      if (Holds(p.shard, p.expert) || room_[Size(p.shard)] == 0) continue;
      Insert(&shards_of_[Size(p.expert)], p.shard);
      Insert(&pinned_[Size(p.expert)], p.shard);
      --room_[Size(p.shard)];
    }
    // Where more is held than fits, the heaviest stay.
    std::vector<std::vector<int>> held(Size(num_shards_));
    for (size_t e = 0; e < in_.current.size() && e < shards_of_.size(); ++e) {
      for (const int s : in_.current[e]) {
        if (s >= 0 && s < num_shards_ && !Contains(shards_of_[e], s))
          held[Size(s)].push_back(static_cast<int>(e));
      }
    }
    for (int s = 0; s < num_shards_; ++s) {
      auto& all = held[Size(s)];
      if (static_cast<int64_t>(all.size()) > room_[Size(s)]) {
        std::stable_sort(all.begin(), all.end(),
                         [&](int a, int b) { return weight_[Size(a)] > weight_[Size(b)]; });
        all.resize(static_cast<size_t>(room_[Size(s)]));
      }
      for (const int e : all) {
        Insert(&shards_of_[Size(e)], s);
        --room_[Size(s)];
      }
    }
    // An expert that is pinned somewhere stays where it is.
    for (const Pin& p : in_.pins) {
      if (p.expert < 0 || p.expert >= num_experts_ || p.shard != -1) continue;
      auto& shards = shards_of_[Size(p.expert)];
      if (pinned_[Size(p.expert)].empty() && !shards.empty())
        Insert(&pinned_[Size(p.expert)], shards.front());
    }
  }

  // How many copies each expert is to have: at least one, and more of the heavy ones while there is
  // room for all.
  void ChooseCopies() {
    int64_t free = -num_experts_;
    for (const int64_t slots : in_.slots) free += slots < 0 ? num_experts_ : slots;
    for (int e = 0; e < num_experts_; ++e) {
      const double shares = weight_[Size(e)] / layer_fair_[LayerOf(e)];
      int n = std::max(1, Held(e));
      while (n > 1 && shares / (n - 1) < options_.merge_below) --n;
      copies_[Size(e)] = std::max(n, static_cast<int>(pinned_[Size(e)].size()));
      free -= copies_[Size(e)] - 1;
    }
    using Item = std::pair<double, int>;  // fair shares, then the lower number first
    const auto lighter = [](const Item& a, const Item& b) {
      return a.first != b.first ? a.first < b.first : a.second > b.second;
    };
    std::priority_queue<Item, std::vector<Item>, decltype(lighter)> heaviest(lighter);
    const auto shares = [&](int e, int n) {
      return weight_[Size(e)] / layer_fair_[LayerOf(e)] / n;
    };
    for (int e = 0; e < num_experts_; ++e) heaviest.push({shares(e, copies_[Size(e)]), e});
    while (free > 0 && !heaviest.empty()) {
      const auto [share, e] = heaviest.top();
      if (share <= options_.replicate_above) break;
      heaviest.pop();
      int& n = copies_[Size(e)];
      if (n >= num_shards_) continue;
      ++n;
      --free;
      heaviest.push({shares(e, n), e});
    }
    // Shards may have left, or others need the room: the copies that gain least go.
    std::priority_queue<Item, std::vector<Item>, std::greater<>> lightest;
    if (free < 0) {
      for (int e = 0; e < num_experts_; ++e) {
        const int n = copies_[Size(e)];
        if (n > static_cast<int>(std::max<size_t>(1, pinned_[Size(e)].size())))
          lightest.push({shares(e, n - 1), e});
      }
    }
    while (free < 0 && !lightest.empty()) {
      const int e = lightest.top().second;
      lightest.pop();
      const int n = --copies_[Size(e)];
      ++free;
      if (n > static_cast<int>(std::max<size_t>(1, pinned_[Size(e)].size())))
        lightest.push({shares(e, n - 1), e});
    }
  }

  // Loads of what is there; copies that are too many go from the most loaded shards.
  void Trim() {
    for (int e = 0; e < num_experts_; ++e) {
      for (const int s : shards_of_[Size(e)]) {
        layer_load_[LayerOf(e)][Size(s)] += PerCopy(e);
        shard_load_[Size(s)] += PerCopy(e);
      }
    }
    for (int e = 0; e < num_experts_; ++e) {
      while (Held(e) > copies_[Size(e)]) {
        int worst = -1;
        for (const int s : shards_of_[Size(e)]) {
          if (Contains(pinned_[Size(e)], s)) continue;
          if (worst < 0 || Cost(e, s) > Cost(e, worst)) worst = s;
        }
        if (worst < 0) break;
        Take(e, worst);
      }
    }
  }

  std::tuple<double, double, int> Cost(int e, int s) const {
    return {layer_load_[LayerOf(e)][Size(s)], shard_load_[Size(s)], s};
  }

  // Where not all fit: experts that are nowhere take the place of much lighter ones (of some that a
  // target keeps itself, say, so that shards see no load of theirs).
  void Displace() {
    if (in_.load.empty()) return;
    std::vector<int> missing;
    for (int e = 0; e < num_experts_; ++e) {
      if (Held(e) == 0) missing.push_back(e);
    }
    int64_t room = 0;
    for (const int64_t r : room_) room += std::max<int64_t>(0, r);
    if (room >= static_cast<int64_t>(missing.size())) return;
    const std::vector<double>& load = in_.load;  // as it is: not asked for is not asked for
    const auto heavier = [&](int a, int b) { return load[Size(a)] > load[Size(b)]; };
    std::stable_sort(missing.begin(), missing.end(), heavier);
    std::vector<int> there;  // in one place each, and free to leave it
    for (int e = 0; e < num_experts_; ++e) {
      if (Held(e) == 1 && pinned_[Size(e)].empty()) there.push_back(e);
    }
    std::stable_sort(there.begin(), there.end(), heavier);
    // The heaviest ones have the room that there is.
    for (size_t m = static_cast<size_t>(room); m < missing.size() && !there.empty(); ++m) {
      const int lightest = there.back();
      if (load[Size(missing[m])] <= kDisplace * load[Size(lightest)]) return;
      there.pop_back();
      Take(lightest, shards_of_[Size(lightest)].front());
    }
  }

  // First copies before further ones, so that no expert is left out while there is room.
  void Place() {
    std::vector<std::pair<bool, int>> missing;  // a further copy, expert
    for (int e = 0; e < num_experts_; ++e) {
      for (int n = Held(e); n < copies_[Size(e)]; ++n) missing.emplace_back(n > 0, e);
    }
    std::stable_sort(missing.begin(), missing.end(), [&](const auto& a, const auto& b) {
      return a.first != b.first ? a.first < b.first : PerCopy(a.second) > PerCopy(b.second);
    });
    for (const auto& [further, e] : missing) {
      int best = -1;
      for (int s = 0; s < num_shards_; ++s) {
        if (room_[Size(s)] <= 0 || Holds(s, e)) continue;
        if (best < 0 || Cost(e, s) < Cost(e, best)) best = s;
      }
      if (best >= 0) Put(e, best);
    }
    // Copies that found no place leave more load to the others.
    for (int e = 0; e < num_experts_; ++e) {
      const int held = Held(e);
      if (held == 0 || held == copies_[Size(e)]) continue;
      const std::vector<int> shards = shards_of_[Size(e)];
      for (const int s : shards) Take(e, s);
      copies_[Size(e)] = held;
      for (const int s : shards) Put(e, s);
    }
  }

  struct Move {
    double worst = 0;  // load of the more loaded one of the two shards afterwards
    int expert = -1, to = -1, back = -1;  // back: what comes in exchange
  };

  // While the layer's most loaded shard has too much and can get rid of something.
  void BalanceLayer(int layer) {
    const int begin = layer * in_.experts_per_layer, end = begin + in_.experts_per_layer;
    const auto& load = layer_load_[Size(layer)];
    const double fair = layer_fair_[Size(layer)];
    // Each round gains something; the bound is for rounding errors.
    for (int round = 0; round < 4 * in_.experts_per_layer; ++round) {
      const int from = static_cast<int>(std::max_element(load.begin(), load.end()) - load.begin());
      if (load[Size(from)] <= fair * (1 + options_.tolerance)) return;
      Move best{.worst = load[Size(from)]};
      for (int e = begin; e < end; ++e) {
        if (!Movable(e, from)) continue;
        for (int s = 0; s < num_shards_; ++s) {
          if (room_[Size(s)] > 0) Consider(e, from, s, -1, 0, load, &best);
        }
      }
      for (int a = begin; best.expert < 0 && a < end; ++a) {
        if (!Movable(a, from)) continue;
        for (int b = begin; b < end; ++b) {
          if (PerCopy(b) >= PerCopy(a) || Holds(from, b)) continue;
          for (const int s : shards_of_[Size(b)]) {
            if (Movable(b, s)) Consider(a, from, s, b, kSwapGain * fair, load, &best);
          }
        }
      }
      if (best.expert < 0) return;
      Apply(best, from);
    }
  }

  bool Movable(int e, int s) const { return Holds(s, e) && !Contains(pinned_[Size(e)], s); }
  // A move has to gain a good part of what it moves, or a copy would wander for next to nothing.
  void Consider(int e, int from, int to, int back, double gain, const std::vector<double>& load,
                Move* best) {
    if (to == from || Holds(to, e)) return;
    const double w = PerCopy(e) - (back < 0 ? 0 : PerCopy(back));
    const double worst = std::max(load[Size(from)] - w, load[Size(to)] + w);
    if (worst >= best->worst || load[Size(from)] - worst < std::max(gain, kMoveGain * w)) return;
    *best = {worst, e, to, back};
  }
  void Apply(const Move& m, int from) {
    moved_ = true;
    Take(m.expert, from);
    if (m.back >= 0) {
      Take(m.back, m.to);
      Put(m.back, from);
    }
    Put(m.expert, m.to);
  }

  // Layers with fewer experts than shards are as good as they get in many ways; over all layers
  // every shard should have its part. No layer gets worse.
  void BalanceShards() {
    const double fair = std::accumulate(layer_fair_.begin(), layer_fair_.end(), 0.0);
    std::vector<double> layer_max(Size(in_.num_layers));
    for (int round = 0; round < 2 * num_experts_; ++round) {
      const auto& load = shard_load_;
      const int from = static_cast<int>(std::max_element(load.begin(), load.end()) - load.begin());
      std::vector<int> order(Size(num_shards_));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return load[Size(a)] < load[Size(b)]; });
      if (load[Size(from)] <= fair * (1 + options_.tolerance)) return;
      for (size_t l = 0; l < layer_max.size(); ++l)
        layer_max[l] = *std::max_element(layer_load_[l].begin(), layer_load_[l].end());
      Move best{.worst = load[Size(from)]};
      for (const int s : order) {
        if (room_[Size(s)] <= 0) continue;
        for (int e = 0; e < num_experts_; ++e) {
          if (!Movable(e, from)) continue;
          const size_t l = LayerOf(e);
          const double allowed = layer_max[l] + 1e-9 * layer_fair_[l];
          if (layer_load_[l][Size(s)] + PerCopy(e) > allowed) continue;
          Consider(e, from, s, -1, 0, load, &best);
        }
        if (best.expert >= 0) break;
      }
      if (best.expert < 0) return;
      Apply(best, from);
    }
  }

  const PlanInput& in_;
  const PlanOptions& options_;
  const int num_experts_, num_shards_;
  const std::vector<double> weight_;
  Assignment shards_of_;
  std::vector<int> copies_;                      // wanted
  Assignment pinned_;                            // shards that an expert must not leave
  std::vector<int64_t> room_;                    // free slots
  std::vector<std::vector<double>> layer_load_;  // [layers][shards]
  std::vector<double> layer_fair_;               // a shard's fair share
  std::vector<double> shard_load_;               // over all layers
  bool moved_ = false;
};

}  // namespace

Plan MakePlan(const PlanInput& input, const PlanOptions& options) {
  const auto n =
      static_cast<size_t>(input.num_layers) * static_cast<size_t>(input.experts_per_layer);
  TUTTI_CHECK(input.load.empty() || input.load.size() == n);
  return Planner(input, options).Run();
}

double Imbalance(const PlanInput& input, const Assignment& assignment) {
  const size_t num_shards = input.slots.size();
  if (num_shards == 0 || input.load.empty()) return 0;
  double worst = 0, total = 0;
  std::vector<double> load(num_shards);
  size_t e = 0;
  for (int l = 0; l < input.num_layers; ++l) {
    std::fill(load.begin(), load.end(), 0);
    for (int i = 0; i < input.experts_per_layer; ++i, ++e) {
      total += input.load[e];
      if (e >= assignment.size()) continue;
      for (const int s : assignment[e]) {
        if (s >= 0 && s < static_cast<int>(num_shards))
          load[static_cast<size_t>(s)] += input.load[e] / static_cast<double>(assignment[e].size());
      }
    }
    worst += *std::max_element(load.begin(), load.end());
  }
  return total > 0 ? worst / (total / static_cast<double>(num_shards)) : 0;
}

int CountLoads(const Assignment& from, const Assignment& to) {
  int loads = 0;
  for (size_t e = 0; e < to.size(); ++e) {
    for (const int s : to[e]) {
      if (e >= from.size() || !Contains(from[e], s)) ++loads;
    }
  }
  return loads;
}

}  // namespace tutti::placement
