#include "services/expert/expert_store.h"

namespace tutti::expert {

// An expert that a batch holds is not let go: that would free nothing.
bool ExpertStore::MakeRoom(int64_t bytes) {
  while (budget_bytes_ > 0 && resident_bytes_ + bytes > budget_bytes_) {
    Entry* oldest = nullptr;
    for (auto& [key, e] : entries_) {
      if (e.weights == nullptr || e.pinned || e.weights.use_count() > 1) continue;
      if (oldest == nullptr || e.used < oldest->used) oldest = &e;
    }
    if (oldest == nullptr) return false;
    resident_bytes_ -= oldest->bytes;
    oldest->weights.reset();
  }
  return true;
}

absl::StatusOr<std::shared_ptr<const model::FfnWeights>> ExpertStore::Get(int moe_layer, int expert,
                                                                          int64_t rows) {
  const auto full = [&] {
    return absl::ResourceExhaustedError("--memory: no room for expert " +
                                        std::to_string(moe_layer) + "/" + std::to_string(expert));
  };
  {
    std::lock_guard lock(mutex_);
    Entry& e = entries_[{moe_layer, expert}];
    e.used = ++clock_;
    if (e.weights != nullptr) {
      e.rows += rows;
      return e.weights;
    }
    if (!MakeRoom(last_bytes_)) return full();
  }
  TUTTI_ASSIGN_OR_RETURN(
      model::FfnWeights loaded,
      model::LoadExpert(*files_.files, files_.model,
                        files_.experts.layers[static_cast<size_t>(moe_layer)], expert));
  auto weights = std::make_shared<const model::FfnWeights>(std::move(loaded));
  const auto bytes = static_cast<int64_t>(
      weights->gate.weight.bytes() + weights->up.weight.bytes() + weights->down.weight.bytes());
  std::lock_guard lock(mutex_);
  last_bytes_ = bytes;
  if (!MakeRoom(bytes)) return full();
  Entry& e = entries_[{moe_layer, expert}];
  e.weights = weights;
  e.bytes = bytes;
  e.rows += rows;
  ++e.loads;
  resident_bytes_ += bytes;
  return weights;
}

absl::Status ExpertStore::Pin(int moe_layer, int expert) {
  TUTTI_RETURN_IF_ERROR(Get(moe_layer, expert, 0).status());
  std::lock_guard lock(mutex_);
  entries_[{moe_layer, expert}].pinned = true;
  return absl::OkStatus();
}

int64_t ExpertStore::resident_bytes() const {
  std::lock_guard lock(mutex_);
  return resident_bytes_;
}

std::vector<ExpertCounters> ExpertStore::Counters() const {
  std::lock_guard lock(mutex_);
  std::vector<ExpertCounters> out;
  for (const auto& [key, e] : entries_) {
    out.push_back({key.first, key.second, e.weights != nullptr, e.pinned, e.loads, e.rows});
  }
  return out;
}

}  // namespace tutti::expert
