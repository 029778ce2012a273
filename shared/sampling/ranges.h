// What each number of a request may be: one table for every surface (HTTP, gRPC, KServe, the
// command line), and how each of them reads a seed.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/sampling/params.h"

namespace tutti::sampling {

struct Range {
  std::string_view name;
  float SamplingParams::*field;
  float min, max;
  bool min_allowed = true, max_allowed = true;

  bool Holds(double v) const;  // false for NaN
  std::string Text() const;    // "in (0, 1]"
};

std::span<const Range> Ranges();
// REQUIRES: the table has `name`
const Range& RangeOf(std::string_view name);

// Seeds that Tutti draws are below 2^53, so that JavaScript and typed clients can hold them.
inline constexpr uint64_t kDrawnSeedMask = (uint64_t{1} << 53) - 1;

// A seed is an integer from -2^63 to 2^64 - 1. A negative one is the unsigned one with the same 64
// bits: -1 is 2^64 - 1. It is a seed as any other, not a wish for a random one.
inline uint64_t SeedFromInt(int64_t seed) { return static_cast<uint64_t>(seed); }
// The same from decimal text. Errors: INVALID_ARGUMENT
absl::StatusOr<uint64_t> SeedFromText(std::string_view text);

}  // namespace tutti::sampling
