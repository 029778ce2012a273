// What a client may ask. Everything here is decided before any other process hears of the request.
#pragma once

#include <cstdint>
#include <string_view>

#include "shared/base/limits.h"
#include "shared/router/types.h"

namespace tutti::router {

using limits::kMaxChoices;
using limits::kMaxClientBytes;
using limits::kMaxRequestIdBytes;
using limits::kMaxStopBytes;
using limits::kMaxStops;

// Everything that can be checked without knowing the model. A traceparent that is not one is
// dropped. Errors: INVALID_ARGUMENT naming the field, its value and what would be right.
absl::Status ValidateRequest(RequestSpec* spec, const RouterOptions& options);

// The rest, once the model and the prompt's ids are known; sets sampling.max_tokens to what fits.
// Errors: INVALID_ARGUMENT
absl::Status ValidateForModel(RequestSpec* spec, std::span<const int32_t> prompt_ids,
                              const ModelInfo& model);

absl::Status ValidateRequestId(std::string_view id);

// "00-<32 hex>-<16 hex>-<2 hex>" with ids that are not all zero (W3C Trace Context, level 1).
bool IsTraceparent(std::string_view s);

}  // namespace tutti::router
