// How much each client has had, so that the one who had least goes first: virtual token counters
// (Sheng et al., "Fairness in serving large language models", arXiv:2401.00588, section 4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace tutti::engine {

// A client's counter grows by what is done for it. Whoever comes back after a pause starts level
// with the least served one who is there: time away is no credit, and leaving does not pay debts.
//
// Thread safety: none. Determinism: depends on the calls alone; it decides who waits, never a
// result.
class FairShare {
 public:
  static constexpr int64_t kPromptTokenCost = 1;
  static constexpr int64_t kOutputTokenCost = 2;  // a decode row reads all weights for one token

  // One more, or one less, live sequence of `client`.
  void Arrive(uint64_t client);
  void Leave(uint64_t client);

  void Charge(uint64_t client, int64_t cost);
  // Of a client with live sequences; what others have is 0.
  int64_t Served(uint64_t client) const;

  size_t num_known() const { return clients_.size(); }

 private:
  static constexpr size_t kMaxIdleClients = 1024;

  struct Client {
    int64_t served = 0;
    int32_t live = 0;
  };
  int64_t LeastServed() const;  // among clients with live sequences; 0 when there is none
  void ForgetIdle();

  std::unordered_map<uint64_t, Client> clients_;
};

}  // namespace tutti::engine
