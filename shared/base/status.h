// Status helpers: the error type of every library here is absl::Status (docs/errors.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expr` is not OK.
#define TUTTI_RETURN_IF_ERROR(expr)                                         \
  do {                                                                      \
    if (absl::Status tutti_st_ = (expr); !tutti_st_.ok()) return tutti_st_; \
  } while (0)

#define TUTTI_CONCAT_INNER_(a, b) a##b
#define TUTTI_CONCAT_(a, b) TUTTI_CONCAT_INNER_(a, b)

// TUTTI_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's status.
#define TUTTI_ASSIGN_OR_RETURN(lhs, expr) \
  TUTTI_ASSIGN_OR_RETURN_(TUTTI_CONCAT_(tutti_sor_, __LINE__), lhs, expr)
#define TUTTI_ASSIGN_OR_RETURN_(tmp, lhs, expr)  \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = std::move(tmp).value()

namespace tutti {

// The same code and payloads, with "<context>: " in front of the message; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// Attaches a machine-readable reason in UPPER_SNAKE (it becomes google.rpc.ErrorInfo.reason, domain
// "tutti") to a status that is not OK. `ReasonOf` reads it back; "" when there is none.
absl::Status WithReason(absl::Status status, std::string_view reason);
std::string ReasonOf(const absl::Status& status);

// Attaches when it makes sense to try again (it becomes google.rpc.RetryInfo, and Retry-After over
// HTTP). `RetryAfterMs` reads it back; -1 when there is none.
absl::Status WithRetryAfterMs(absl::Status status, int64_t ms);
int64_t RetryAfterMs(const absl::Status& status);

}  // namespace tutti
