// Any bytes as what a connection brings: requests or an error, never a crash, and the same ones
// however the bytes are cut. The first byte says how.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "shared/http/request_parser.h"

namespace {

using tutti::http::RequestParser;

// What the bytes mean, as text.
std::string Read(std::string_view bytes, size_t piece) {
  tutti::http::ParserLimits limits;
  limits.line_bytes = 200;
  limits.header_bytes = 600;
  limits.headers = 10;
  limits.body_bytes = 500;
  limits.chunk_overhead_bytes = 200;
  RequestParser p(limits);
  std::string out;
  size_t at = 0;
  while (at < bytes.size()) {
    at += p.Feed(bytes.substr(at, piece));
    if (p.state() == RequestParser::State::kError) {
      return out + "error " + std::to_string(p.status()) + p.message();
    }
    if (p.state() != RequestParser::State::kDone) continue;
    const auto& q = p.request();
    out += q.method + ' ' + q.path + ' ' + q.host + ' ' + q.body + '\n';
    for (const auto& h : q.headers) out += h.name + '=' + h.value + '\n';
    p.Reset();
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  if (Read(bytes, SIZE_MAX) != Read(bytes, static_cast<size_t>(data[0] % 32) + 1)) abort();
  return 0;
}
