#include "shared/sampling/ranges.h"

#include <charconv>

#include "absl/strings/str_format.h"
#include "shared/base/check.h"
#include "shared/base/strings.h"

namespace tutti::sampling {
namespace {

using P = SamplingParams;

constexpr Range kRanges[] = {
    {"temperature", &P::temperature, 0.0f, 1e6f},
    {"top_p", &P::top_p, 0.0f, 1.0f, /*min_allowed=*/false},
    {"min_p", &P::min_p, 0.0f, 1.0f, true, /*max_allowed=*/false},
    {"typical_p", &P::typical_p, 0.0f, 1.0f, /*min_allowed=*/false},
    {"repetition_penalty", &P::repetition_penalty, 0.0f, 100.0f, /*min_allowed=*/false},
    {"presence_penalty", &P::presence_penalty, -2.0f, 2.0f},
    {"frequency_penalty", &P::frequency_penalty, -2.0f, 2.0f},
    {"length_penalty", &P::length_penalty, -100.0f, 100.0f},
};

}  // namespace

bool Range::Holds(double v) const {
  return (v > min || (min_allowed && v == min)) && (v < max || (max_allowed && v == max));
}

std::string Range::Text() const {
  return absl::StrFormat("in %c%g, %g%c", min_allowed ? '[' : '(', min, max,
                         max_allowed ? ']' : ')');
}

std::span<const Range> Ranges() { return kRanges; }

const Range& RangeOf(std::string_view name) {
  for (const Range& r : kRanges) {
    if (r.name == name) return r;
  }
  TUTTI_CHECK(false);
  return kRanges[0];
}

absl::StatusOr<uint64_t> SeedFromText(std::string_view text) {
  const char *begin = text.data(), *end = begin + text.size();
  std::from_chars_result r{};
  uint64_t seed = 0;
  if (text.starts_with('-')) {
    int64_t negative = 0;
    r = std::from_chars(begin, end, negative);
    seed = SeedFromInt(negative);
  } else {
    r = std::from_chars(begin, end, seed);
  }
  if (r.ec == std::errc() && r.ptr == end && !text.empty()) return seed;
  return absl::InvalidArgumentError("seed: \"" + Printable(text) +
                                    "\" is no integer from -2^63 to 2^64 - 1");
}

}  // namespace tutti::sampling
