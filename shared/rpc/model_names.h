// The rule for the names under which a model is served, one for `tutti up` and the services.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::rpc {

// At most 16 names, each one word (strings.h, OneWord) of at most 256 bytes.
// Errors: INVALID_ARGUMENT naming --served-model-name and the name
absl::Status CheckModelNames(const std::vector<std::string>& names);

}  // namespace tutti::rpc
