#include "services/gateway/http_policy.h"

#include <arpa/inet.h>

#include <algorithm>

#include "services/gateway/api_error.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::gateway {
namespace {

// Equal in a time that does not tell how much of it is.
bool SameSecret(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ (b.empty() ? '\xff' : b[i % b.size()]));
  }
  return difference == 0;
}

bool IsIpAddress(const std::string& host) {
  in_addr v4;
  in6_addr v6;
  return inet_pton(AF_INET, host.c_str(), &v4) == 1 || inet_pton(AF_INET6, host.c_str(), &v6) == 1;
}

constexpr char kExposed[] =
    "X-Request-Id, Retry-After, X-Tutti-Ignored, X-Tutti-Resume-Token, Date, Content-Length";
constexpr char kPreflightSeconds[] = "7200";

}  // namespace

HttpPolicy::HttpPolicy(HttpPolicyOptions options) : options_(std::move(options)) {
  for (std::string_view o : http::ListMembers(options_.cors_origin)) {
    while (o.ends_with('/')) o.remove_suffix(1);
    if (o == "*") any_origin_ = true;
    origins_.emplace_back(o);
  }
}

absl::Status HttpPolicy::CheckHost(const http::Request& request) const {
  const std::string host = http::HostName(request.host);
  if (host.empty() && request.minor == 0) return absl::OkStatus();  // HTTP/1.0 need not say
  if (host == "localhost" || host.ends_with(".localhost") || IsIpAddress(host))
    return absl::OkStatus();
  if (options_.allowed_hosts.empty()) {
    if (!request.peer_is_loopback || !options_.api_keys.empty()) return absl::OkStatus();
    if (host.find('.') == std::string::npos) return absl::OkStatus();
  }
  for (const std::string& allowed : options_.allowed_hosts) {
    if (allowed == "*" || http::SameWord(allowed, host)) return absl::OkStatus();
    if (allowed.starts_with("*.") && host.size() > allowed.size() - 1 &&
        http::SameWord(std::string_view(host).substr(host.size() - (allowed.size() - 1)),
                       std::string_view(allowed).substr(1))) {
      return absl::OkStatus();
    }
  }
  return absl::PermissionDeniedError("the host '" + Printable(host) +
                                     "' is not served here; the gateway's --allowed-hosts names "
                                     "those that are");
}

absl::Status HttpPolicy::CheckKey(const http::Request& request) const {
  if (options_.api_keys.empty()) return absl::OkStatus();
  const std::string_view given = http::Credentials(request.headers.Get("Authorization"), "Bearer");
  bool known = false;
  for (const std::string& key : options_.api_keys) known |= SameSecret(given, key);
  if (known && !given.empty()) return absl::OkStatus();
  return absl::UnauthenticatedError("no valid API key: send 'Authorization: Bearer <key>'");
}

absl::Status HttpPolicy::CheckJson(const http::Request& request) {
  // A page of another site can send any other type without asking first.
  const std::string_view type = request.headers.Get("Content-Type");
  if (http::MediaType(type) == "application/json") return absl::OkStatus();
  return BadParam("Content-Type", "must be application/json, not '" + Printable(type) +
                                      "' (curl: -H 'Content-Type: application/json')");
}

std::string HttpPolicy::ClientOf(const http::Request& request, const std::string& user) const {
  // A key is a better name than what the request calls itself, which costs nothing to change. The
  // key itself goes no further.
  if (!options_.api_keys.empty()) {
    return "key:" + Hex64(Hash64(std::string(
                        http::Credentials(request.headers.Get("Authorization"), "Bearer"))));
  }
  return user.empty() ? "address:" + request.peer : "user:" + user;
}

bool HttpPolicy::OriginAllowed(std::string_view origin) const {
  return any_origin_ || std::any_of(origins_.begin(), origins_.end(), [&](const std::string& o) {
           return http::SameWord(o, origin);
         });
}

void HttpPolicy::AddCors(const http::Request* request, http::Headers* headers) const {
  if (origins_.empty()) return;
  const std::string_view origin =
      request == nullptr ? std::string_view() : request->headers.Get("Origin");
  if (any_origin_) {
    headers->Set("Access-Control-Allow-Origin", "*");
  } else {
    headers->Add("Vary", "Origin");
    if (!origin.empty() && !OriginAllowed(origin)) return;
    if (origin.empty() && origins_.size() > 1) return;
    headers->Set("Access-Control-Allow-Origin", origin.empty() ? origins_[0] : std::string(origin));
    // Cookies and keys kept by the browser: never for "*" (the standard forbids it).
    headers->Set("Access-Control-Allow-Credentials", "true");
  }
  headers->Set("Access-Control-Expose-Headers", kExposed);
}

void HttpPolicy::AddPreflight(const http::Request& request, std::string_view methods,
                              http::Headers* headers) const {
  if (origins_.empty()) return;
  headers->Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers");
  const std::string_view origin = request.headers.Get("Origin");
  if (!origin.empty() && !OriginAllowed(origin)) return;
  headers->Set("Access-Control-Allow-Methods", std::string(methods));
  // Those that the page asks for: clients send more than any list foresees (x-stainless-*), and no
  // header here gives rights that a client outside a browser does not have.
  std::string allowed;
  for (const std::string_view name :
       http::ListMembers(request.headers.Get("Access-Control-Request-Headers"))) {
    if (!http::IsToken(name)) continue;
    if (!allowed.empty()) allowed += ", ";
    allowed += name;
  }
  if (allowed.empty()) allowed = "Authorization, Content-Type, X-Request-Id, traceparent";
  headers->Set("Access-Control-Allow-Headers", allowed);
  headers->Set("Access-Control-Max-Age", kPreflightSeconds);
  // A page on the internet that asks for a server in a private network (Chromium asks first).
  if (http::SameWord(request.headers.Get("Access-Control-Request-Private-Network"), "true"))
    headers->Set("Access-Control-Allow-Private-Network", "true");
}

}  // namespace tutti::gateway
