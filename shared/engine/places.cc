#include "shared/engine/places.h"

#include <algorithm>
#include <tuple>

namespace tutti::engine {

Places::Places(const std::vector<Sequence*>& running) : running_(running) {
  for (const Sequence* s : running) {
    most_of_client_ = std::max(most_of_client_, ++clients_[s->request.client]);
    most_of_request_ = std::max(most_of_request_, ++requests_[RequestOf(*s)]);
  }
}

int32_t Places::OfClient(const Sequence& s) const {
  const auto it = clients_.find(s.request.client);
  return it == clients_.end() ? 0 : it->second;
}

int32_t Places::OfRequest(const Sequence& s) const {
  const auto it = requests_.find(RequestOf(s));
  return it == requests_.end() ? 0 : it->second;
}

bool Places::HasLess(const Sequence& a, const Sequence& b) const {
  return std::tuple(-a.request.priority, OfClient(a), OfRequest(a)) <
         std::tuple(-b.request.priority, OfClient(b), OfRequest(b));
}

Sequence* Places::GivesWay(const Sequence& s) const {
  Sequence* best = nullptr;
  std::pair<bool, int32_t> best_lead;  // another client before another request of the same
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    Sequence* r = *it;
    if (r->request.priority > s.request.priority || r == running_.front()) continue;
    const bool other_client = r->request.client != s.request.client;
    if (!other_client && r->request.group == s.request.group) continue;
    const int32_t lead = other_client ? OfClient(*r) - OfClient(s) : OfRequest(*r) - OfRequest(s);
    if (lead < 2) continue;
    const std::pair<bool, int32_t> candidate(other_client, lead);
    if (best != nullptr && candidate <= best_lead) continue;
    best = r;
    best_lead = candidate;
  }
  return best;
}

}  // namespace tutti::engine
