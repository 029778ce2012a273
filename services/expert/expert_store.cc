#include "services/expert/expert_store.h"

#include "shared/base/clock.h"

namespace tutti::expert {
namespace {

constexpr int64_t kBusyUs = 1'000'000;  // used so lately: a load in advance does not take its place
constexpr int64_t kIdleUs =
    30'000'000;  // what nobody assigned and nobody asked for goes after that

}  // namespace

void ExpertStore::LetGoLocked(Entry* e) {
  if (e->weights == nullptr) return;
  resident_bytes_ -= e->bytes;
  e->weights.reset();
}

// An expert that a batch holds is not let go: that would free nothing. Those that no router wants
// held go first.
bool ExpertStore::MakeRoomLocked(int64_t bytes, Evict evict, int64_t now_us) {
  while (budget_bytes_ > 0 && resident_bytes_ + bytes > budget_bytes_) {
    auto worst = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      const Entry& e = it->second;
      if (e.weights == nullptr || e.pinned || e.pinned_here || e.weights.use_count() > 1) continue;
      if (evict == Evict::kOnlyIdle && (e.held || now_us - e.used_us < kBusyUs)) continue;
      if (worst == entries_.end() ||
          std::pair(e.held, e.used) < std::pair(worst->second.held, worst->second.used)) {
        worst = it;
      }
    }
    if (worst == entries_.end()) return false;
    LetGoLocked(&worst->second);
    if (worst->second.held) missing_.insert(worst->first);
  }
  return true;
}

absl::StatusOr<std::shared_ptr<const model::FfnWeights>> ExpertStore::Load(int moe_layer,
                                                                           int expert) {
  TUTTI_ASSIGN_OR_RETURN(
      model::FfnWeights loaded,
      model::LoadExpert(*files_.files, files_.model,
                        files_.experts.layers[static_cast<size_t>(moe_layer)], expert));
  return std::make_shared<const model::FfnWeights>(std::move(loaded));
}

absl::StatusOr<std::shared_ptr<const model::FfnWeights>> ExpertStore::Get(int moe_layer,
                                                                          int expert) {
  const int number = Number(moe_layer, expert);
  const auto full = [&] {
    return absl::ResourceExhaustedError("--memory: no room for expert " +
                                        std::to_string(moe_layer) + "/" + std::to_string(expert));
  };
  const int64_t now = SteadyNowUs();
  {
    std::lock_guard lock(mutex_);
    Entry& e = entries_[number];
    e.used = ++clock_;
    e.used_us = now;
    if (e.weights != nullptr) return e.weights;
    if (!MakeRoomLocked(expert_bytes_, Evict::kAny, now)) return full();
  }
  TUTTI_ASSIGN_OR_RETURN(auto weights, Load(moe_layer, expert));
  std::lock_guard lock(mutex_);
  Entry& e = entries_[number];
  if (e.weights != nullptr) return e.weights;  // another thread was quicker
  if (!KeepLocked(number, weights, Evict::kAny, now)) return full();
  return weights;
}

bool ExpertStore::KeepLocked(int number, std::shared_ptr<const model::FfnWeights> weights,
                             Evict evict, int64_t now_us) {
  const auto bytes = static_cast<int64_t>(
      weights->gate.weight.bytes() + weights->up.weight.bytes() + weights->down.weight.bytes());
  if (!MakeRoomLocked(bytes, evict, now_us)) return false;
  Entry& e = entries_[number];
  e.weights = std::move(weights);
  e.bytes = bytes;
  ++e.loads;
  missing_.erase(number);
  resident_bytes_ += bytes;
  return true;
}

void ExpertStore::Count(int moe_layer, int expert, int64_t rows, int64_t queue_us, int64_t run_us) {
  std::lock_guard lock(mutex_);
  Entry& e = entries_[Number(moe_layer, expert)];
  e.rows += rows;
  e.queue_us += queue_us;
  e.run_us += run_us;
}

absl::Status ExpertStore::Pin(int moe_layer, int expert) {
  TUTTI_RETURN_IF_ERROR(Get(moe_layer, expert).status());
  std::lock_guard lock(mutex_);
  entries_[Number(moe_layer, expert)].pinned_here = true;
  return absl::OkStatus();
}

void ExpertStore::Assign(const placement::ExpertAssignment& assignment) {
  std::lock_guard lock(mutex_);
  assignment_epoch_ = assignment.epoch;
  assigned_nothing_ = assignment.hold.empty();
  for (auto& [number, e] : entries_) e.held = e.pinned = false;
  for (const uint32_t number : assignment.hold) entries_[static_cast<int>(number)].held = true;
  for (const uint32_t number : assignment.pinned) entries_[static_cast<int>(number)].pinned = true;
  missing_.clear();
  for (auto& [number, e] : entries_) {
    if (e.held && e.weights == nullptr) missing_.insert(number);
    if (!e.held && !e.pinned_here) LetGoLocked(&e);
  }
}

bool ExpertStore::LoadNext(int64_t now_us) {
  int number = -1;
  {
    std::lock_guard lock(mutex_);
    if (assignment_epoch_ != 0) {
      for (auto& [n, e] : entries_) {
        if (!e.held && !e.pinned_here && now_us - e.used_us > kIdleUs) LetGoLocked(&e);
      }
    }
    if (missing_.empty() || !MakeRoomLocked(expert_bytes_, Evict::kOnlyIdle, now_us)) return false;
    number = *missing_.begin();
    for (const int n : missing_) {  // pinned ones first
      if (entries_[n].pinned) {
        number = n;
        break;
      }
    }
  }
  const int width = files_.experts.experts_per_layer;
  const auto weights = Load(number / width, number % width);
  std::lock_guard lock(mutex_);
  Entry& e = entries_[number];
  if (!weights.ok()) {  // a file that went bad: whoever asks for it is told
    missing_.erase(number);
    return true;
  }
  if (!e.held || e.weights != nullptr) return true;  // meanwhile not wanted, or there
  if (!KeepLocked(number, *weights, Evict::kOnlyIdle, now_us)) return false;
  e.used = ++clock_;
  e.used_us = now_us;
  return true;
}

int64_t ExpertStore::resident_bytes() const {
  std::lock_guard lock(mutex_);
  return resident_bytes_;
}

bool ExpertStore::assigned_nothing() const {
  std::lock_guard lock(mutex_);
  return assigned_nothing_;
}

std::vector<ExpertCounters> ExpertStore::Counters() const {
  std::lock_guard lock(mutex_);
  const int width = files_.experts.experts_per_layer;
  std::vector<ExpertCounters> out;
  for (const auto& [number, e] : entries_) {
    out.push_back({number / width, number % width, e.weights != nullptr, e.pinned || e.pinned_here,
                   e.loads, e.rows});
  }
  return out;
}

placement::ExpertReport ExpertStore::Report() const {
  std::lock_guard lock(mutex_);
  placement::ExpertReport r;
  r.num_layers = static_cast<uint32_t>(files_.experts.num_layers);
  r.experts_per_layer = static_cast<uint32_t>(files_.experts.experts_per_layer);
  r.memory_bytes = resident_bytes_;
  r.memory_budget_bytes = budget_bytes_;
  r.expert_bytes = expert_bytes_;
  r.assignment_epoch = assignment_epoch_;
  for (const auto& [number, e] : entries_) {
    if (e.loads == 0 && !e.pinned) continue;
    r.entries.push_back({.number = static_cast<uint32_t>(number),
                         .resident = e.weights != nullptr,
                         .pinned = e.pinned,
                         .pinned_here = e.pinned_here,
                         .rows = static_cast<uint64_t>(e.rows),
                         .queue_us = static_cast<uint64_t>(e.queue_us),
                         .run_us = static_cast<uint64_t>(e.run_us)});
  }
  return r;
}

}  // namespace tutti::expert
