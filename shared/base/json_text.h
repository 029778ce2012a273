// JSON from outside: read in one pass, in time and memory linear in the text, within the limits of
// limits.h. nlohmann's own parser looks for each key of an ordered object in all keys before it,
// which is quadratic; this one does not.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "shared/base/limits.h"
#include "shared/base/status.h"

namespace tutti {

struct JsonLimits {
  size_t bytes = limits::kMaxBodyBytes;
  int depth = limits::kMaxJsonDepth;
  size_t keys = limits::kMaxJsonKeys;
  size_t key_bytes = limits::kMaxJsonKeyBytes;
  size_t containers = limits::kMaxJsonContainers;
  size_t values = limits::kMaxJsonValues;
};

// What is wrong with a text that ParseJsonText refuses.
struct JsonFault {
  enum class Kind { kNone, kSyntax, kLimit, kDuplicateKey };
  Kind kind = Kind::kNone;
  std::string path;     // of the value ("messages[3].tool_calls"); of a duplicate, the key's own
  std::string message;  // without the path
};

// Operations of one parse, for tests of growth.
struct JsonWork {
  int64_t key_comparisons = 0;
  int64_t values = 0;  // the parse stops at the first one past a limit
};

// The value of `text`; objects keep the order of their keys, and no key stands twice in one object.
//
// Errors: INVALID_ARGUMENT  not JSON (with the place), not UTF-8, a limit, a key twice; the message
//                           begins with the path where there is one. `fault`, when given, says the
//                           same in parts.
// Cost: linear; a text past a limit is read up to that limit alone.
absl::StatusOr<nlohmann::ordered_json> ParseJsonText(std::string_view text,
                                                     const JsonLimits& limits = {},
                                                     JsonFault* fault = nullptr,
                                                     JsonWork* work = nullptr);

}  // namespace tutti
