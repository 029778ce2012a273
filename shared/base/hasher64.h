// Hash64 of bytes that come piece by piece. Determinism: exact; how they are cut changes nothing.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <span>

namespace tutti {

class Hasher64 {
 public:
  Hasher64() : state_(XXH3_createState()) { XXH3_64bits_reset(state_.get()); }
  void Add(std::span<const std::byte> bytes) {
    XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
  }
  uint64_t Value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace tutti
