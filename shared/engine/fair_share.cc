#include "shared/engine/fair_share.h"

#include <algorithm>
#include <limits>

#include "shared/base/check.h"

namespace tutti::engine {

int64_t FairShare::LeastServed() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& [id, client] : clients_) {
    if (client.live > 0) least = std::min(least, client.served);
  }
  return least == std::numeric_limits<int64_t>::max() ? 0 : least;
}

void FairShare::Arrive(uint64_t id) {
  const auto it = clients_.find(id);
  if (it == clients_.end() || it->second.live == 0) {
    const int64_t level = LeastServed();
    Client& client = clients_[id];
    client.served = std::max(client.served, level);
    client.live = 1;
  } else {
    ++it->second.live;
  }
}

void FairShare::Leave(uint64_t id) {
  const auto it = clients_.find(id);
  TUTTI_CHECK(it != clients_.end() && it->second.live > 0);
  --it->second.live;
  if (it->second.live == 0 && clients_.size() > kMaxIdleClients) ForgetIdle();
}

// An idle client at or below the level of the others would come back at that level anyway. When all
// are above it the debts of all are forgiven, so that memory is bounded.
void FairShare::ForgetIdle() {
  const int64_t level = LeastServed();
  std::erase_if(clients_, [level](const auto& entry) {
    return entry.second.live == 0 && entry.second.served <= level;
  });
  if (clients_.size() <= kMaxIdleClients) return;
  std::erase_if(clients_, [](const auto& entry) { return entry.second.live == 0; });
}

void FairShare::Charge(uint64_t id, int64_t cost) {
  const auto it = clients_.find(id);
  if (it != clients_.end()) it->second.served += cost;
}

int64_t FairShare::Served(uint64_t id) const {
  const auto it = clients_.find(id);
  return it == clients_.end() ? 0 : it->second.served;
}

}  // namespace tutti::engine
