// Errors in OpenAI's shape, made from statuses.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace tutti::gateway {

struct ApiError {
  int http_status = 500;
  std::string message;
  std::string type;       // "invalid_request_error", "server_error", ...
  std::string param;      // the field of the request; "": none
  std::string code;       // machine-readable; "": none
  int retry_after_s = 0;  // 0: no Retry-After header
};

// An INVALID_ARGUMENT that knows which field of the request it is about, and a code.
absl::Status BadParam(std::string_view param, std::string_view message, std::string_view code = "");

// Statuses of our own and of the router. A message that begins with the name of a field of the
// GenerateRequest ("sampling.top_p: ...") gets the name that the field has in the HTTP API.
ApiError ErrorFromStatus(const absl::Status& status);

// {"error":{"message","type","param","code"}}
std::string ErrorJson(const ApiError& error);

}  // namespace tutti::gateway
