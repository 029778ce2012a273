// What an HTTP request and its answer are, and the grammar of the headers that a server reads
// (RFC 9110). Names of headers compare without case.
// Thread safety: values, and pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tutti::http {

struct Header {
  std::string name, value;
};

// "a" and "A" are the same.
bool SameWord(std::string_view a, std::string_view b);

struct Headers : std::vector<Header> {
  using std::vector<Header>::vector;
  // The first value of that name; "" when there is none.
  std::string_view Get(std::string_view name) const;
  bool Has(std::string_view name) const { return Count(name) > 0; }
  size_t Count(std::string_view name) const;
  void Add(std::string name, std::string value) { push_back({std::move(name), std::move(value)}); }
  // Replaces all values of that name.
  void Set(std::string_view name, std::string value);
};

struct Request {
  std::string method;  // as it came: methods are case-sensitive
  std::string target;  // as it came
  std::string path;    // of the target, before '?', percent-decoded; "*" of "OPTIONS *"
  std::string query;   // after '?', as it came
  std::string host;    // of the target or the Host header, with the port, in lower case
  int minor = 1;       // HTTP/1.minor; 1 for HTTP/2 as well
  Headers headers;
  std::string body;
  std::string peer;               // the client's IP address
  bool peer_is_loopback = false;  // whether the connection came to a loopback address
};

struct Response {
  int status = 200;
  Headers headers;  // without Content-Length, Transfer-Encoding, Connection and Date: the server's
  std::string body;
  bool close = false;  // the connection ends after this answer
};

// "Not Found"; "Status" for a number that has no name.
std::string_view StatusName(int status);

// "Tue, 01 Dec 2026 01:10:05 GMT" (RFC 9110, 5.6.7). unix_s >= 0.
std::string HttpDate(int64_t unix_s);

// A method or a header's name: one or more tchar (RFC 9110, 5.6.2).
bool IsToken(std::string_view s);

// Without spaces and tabs at both ends.
std::string_view TrimBlanks(std::string_view s);

// The members of a comma-separated list, trimmed, without empty ones. Commas in quotes do not part.
std::vector<std::string_view> ListMembers(std::string_view value);

// Whether a comma-separated list has that word as a member.
bool ListHas(std::string_view value, std::string_view word);

// "application/json" of "Application/JSON ; charset=utf-8": in lower case; "" when it is no type.
std::string MediaType(std::string_view content_type);

// Whether an Accept header refuses a type ("text/event-stream") outright: the most specific range
// that covers it says "q=0". A type that no range covers is not refused: RFC 9110 (12.5.1) lets a
// server send it all the same, and clients ask for JSON while they stream.
bool Refuses(std::string_view accept, std::string_view type);

// Whether an Accept-Encoding header admits an answer without any coding ("identity"): all do,
// except "identity;q=0" and "*;q=0" without an identity of its own.
bool AcceptsIdentity(std::string_view accept_encoding);

// The credentials of an Authorization header of that scheme ("Bearer"), whose case does not matter;
// "" when it has another one.
std::string_view Credentials(std::string_view authorization, std::string_view scheme);

// "localhost" of "LocalHost:8080", "::1" of "[::1]:8080"; "" when it is no host. In lower case.
std::string HostName(std::string_view host_and_port);

// %XX decoded. False: a '%' without two hex digits, or a decoded NUL.
bool PercentDecode(std::string_view in, std::string* out);

}  // namespace tutti::http
