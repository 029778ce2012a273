// Which requests of browsers and strangers the gateway answers: hosts, origins, keys, types.
// Thread safety: constant after construction.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/http/message.h"

namespace tutti::gateway {

struct HttpPolicyOptions {
  std::vector<std::string> api_keys;  // none: open to all
  // Origins whose pages may use the API, comma separated; "*": all; "": none.
  std::string cors_origin;
  // Host names under which the gateway answers, beside those below; none: see CheckHost.
  std::vector<std::string> allowed_hosts;
};

class HttpPolicy {
 public:
  explicit HttpPolicy(HttpPolicyOptions options);

  // Against DNS rebinding, where a page of the attacker's own name reaches a server on the reader's
  // machine. With allowed hosts, every request must name one of them, an IP address or "localhost".
  // Without, this holds for connections to a loopback address when no key guards the API, and names
  // without a dot pass too (no attacker owns one). Errors: PERMISSION_DENIED
  absl::Status CheckHost(const http::Request& request) const;

  // Errors: UNAUTHENTICATED
  absl::Status CheckKey(const http::Request& request) const;

  // What a POST must say of itself. Errors: INVALID_ARGUMENT (Content-Type)
  static absl::Status CheckJson(const http::Request& request);

  // For fairness among clients: the key (hashed), else the user the request names, else the
  // address.
  std::string ClientOf(const http::Request& request, const std::string& user) const;

  // Adds the CORS headers of an answer. `request` may be null (it could not be read).
  void AddCors(const http::Request* request, http::Headers* headers) const;
  // Adds those of an answer to a preflight (OPTIONS with Access-Control-Request-Method).
  void AddPreflight(const http::Request& request, std::string_view methods,
                    http::Headers* headers) const;

 private:
  bool OriginAllowed(std::string_view origin) const;

  const HttpPolicyOptions options_;
  std::vector<std::string> origins_;
  bool any_origin_ = false;
};

}  // namespace tutti::gateway
