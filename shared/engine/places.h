// How many of the running places each client and each request holds, and who gives one up.
//
// A request with many choices (n) takes all free places when nobody else wants them. When somebody
// with at least two fewer wants one, it gives its last one up: so the choices of one request, or
// the many requests of one client, delay others by a step and no more. A sequence that gave its
// place up is computed again later (decision 0041); each such change makes the shares more even, so
// they come to an end.
//
// Thread safety: none. Determinism: depends on the calls alone; it decides who waits, never a
// result.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "shared/engine/sequence.h"

namespace tutti::engine {

class Places {
 public:
  // Counts the places of `running`, which is in the order Before.
  explicit Places(const std::vector<Sequence*>& running);

  // Who gives a place up for `sequence`, which waits: the last sequence of the client with most
  // places, if it has at least two more than the sequence's own; else, of the sequence's own
  // client, of the request with most, by the same rule. Never one of higher priority, and never the
  // first running sequence. nullptr: nobody.
  Sequence* GivesWay(const Sequence& sequence) const;

  // The waiting sequence that is entitled to somebody's place and has least: of its client, then of
  // its request; then the first of `waiting`. `looked_at`: sequences with this looked_at_step, and
  // paused ones, are passed over. nullptr: none.
  template <typename Waiting>
  Sequence* MostEntitled(const Waiting& waiting, uint64_t looked_at) const {
    Sequence* best = nullptr;
    if (!uneven()) return best;
    for (Sequence* s : waiting) {
      if (s->looked_at_step == looked_at || s->paused) continue;
      if (best != nullptr && !HasLess(*s, *best)) continue;
      if (MayBeEntitled(*s) && GivesWay(*s) != nullptr) best = s;
    }
    return best;
  }

 private:
  using Request = std::pair<uint64_t, uint64_t>;  // client, group
  static Request RequestOf(const Sequence& s) { return {s.request.client, s.request.group}; }
  int32_t OfClient(const Sequence& s) const;
  int32_t OfRequest(const Sequence& s) const;
  bool HasLess(const Sequence& a, const Sequence& b) const;
  bool uneven() const { return most_of_client_ >= 2 || most_of_request_ >= 2; }
  bool MayBeEntitled(const Sequence& s) const {
    return most_of_client_ - OfClient(s) >= 2 || most_of_request_ - OfRequest(s) >= 2;
  }

  const std::vector<Sequence*>& running_;
  std::map<uint64_t, int32_t> clients_;
  std::map<Request, int32_t> requests_;
  int32_t most_of_client_ = 0, most_of_request_ = 0;
};

}  // namespace tutti::engine
