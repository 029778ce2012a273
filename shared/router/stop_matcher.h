// Finds stop strings in text that arrives in pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tutti::router {

// The first stop string to be complete wins (of several that end on the same byte, the longest), so
// the result depends on the text alone and not on how it was cut into pieces.
//
// Text that may yet become a stop string is held back; for well-formed UTF-8 in whole characters,
// what is released is in whole characters too.
//
// Copyable. Determinism: exact. Cost: one table step per byte and stop string.
class StopMatcher {
 public:
  // REQUIRES: no stop is empty (ValidateRequest saw to it).
  explicit StopMatcher(std::vector<std::string> stops);

  struct Result {
    std::string
        text;  // now certain; on a match, everything before the stop (and the stop, if wanted)
    int matched = -1;  // which stop, or -1
  };
  // REQUIRES: nothing matched before.
  Result Push(std::string_view text, bool include_stop);

  // The text held back; no stop can come any more.
  std::string Flush();

  const std::string& stop(int index) const { return (*stops_)[static_cast<size_t>(index)].text; }

 private:
  struct Stop {
    std::string text;
    std::vector<uint16_t> fail;  // Knuth-Morris-Pratt: longest border of text[0..i]
  };
  std::shared_ptr<const std::vector<Stop>> stops_;
  std::vector<uint16_t> matched_bytes_;  // [stops] how much of it the text ends with
  std::string held_;
};

}  // namespace tutti::router
