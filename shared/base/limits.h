// The limits of requests: one table for every surface (HTTP, gRPC, KServe, the command line). The
// same table for users is in docs/http-api.md. Going past a limit is INVALID_ARGUMENT (HTTP 400;
// 413 for a body that is too large) and the message says the limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tutti::limits {

// Sizes.
inline constexpr size_t kMaxBodyBytes = size_t{8} << 20;  // one HTTP body
inline constexpr size_t kMaxTextBytes = size_t{8} << 20;  // a prompt's text; each JSON of a chat
inline constexpr size_t kMaxPromptIds = size_t{1} << 20;  // token ids of one prompt

// The shape of JSON, in a body, in a chat's fields and in KServe's sampling_parameters.
inline constexpr int kMaxJsonDepth = 64;                       // arrays and objects in each other
inline constexpr size_t kMaxJsonKeys = 4096;                   // of one object
inline constexpr size_t kMaxJsonKeyBytes = 1024;               // of one key
inline constexpr size_t kMaxJsonContainers = size_t{1} << 17;  // arrays and objects in one text
inline constexpr size_t kMaxJsonValues = size_t{5} << 18;      // values of every kind in one text

// Lists.
inline constexpr int kMaxPrompts = 64;   // of one request
inline constexpr int kMaxChoices = 128;  // prompts times n
inline constexpr size_t kMaxMessages = 4096;
inline constexpr size_t kMaxTools = 1024;
inline constexpr size_t kMaxStops = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr size_t kMaxStopIds = 64;
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxBeams = 64;

// Names.
inline constexpr size_t kMaxModelNameBytes = 256;
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxClientBytes = 512;

}  // namespace tutti::limits
