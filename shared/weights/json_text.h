// JSON from files that others wrote.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "shared/base/status.h"

namespace tutti::weights {

struct JsonLimits {
  size_t bytes_max = size_t{256} << 20;
  int depth_max = 64;
};

// Parses one document. Stricter than the library: a key that stands twice in an object, nesting
// past the limit, bytes that are not UTF-8 and text after the document are errors. `name` is the
// file. Errors: INVALID_ARGUMENT "<name>:<line>:<column>: <what>"
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& name,
                                         const JsonLimits& limits = {});

// Reads and parses a file. Errors: NOT_FOUND, and as above.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

}  // namespace tutti::weights
