// 64-bit hashing (xxHash, XXH3) for digests, fingerprints and tables.
// Determinism: exact; the same on every machine.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tutti {

inline uint64_t Hash64(const void* data, size_t bytes, uint64_t seed = 0) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}
inline uint64_t Hash64(std::string_view s, uint64_t seed = 0) {
  return Hash64(s.data(), s.size(), seed);
}

// The digest of a sequence (docs/determinism.md): a chain over the raw f32 logits of every sampled
// position, before any filter. The initial state is 0.
inline uint64_t ExtendDigest(uint64_t state, std::span<const float> logits) {
  return Hash64(logits.data(), logits.size_bytes(), state);
}

// 16 lower-case hex digits; `ParseHex64` reads them back (false when they are not that).
std::string Hex64(uint64_t value);
bool ParseHex64(std::string_view hex, uint64_t* value);

}  // namespace tutti
