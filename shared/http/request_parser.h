// Reads HTTP/1.1 requests from bytes as they come, strictly (RFC 9112). A state machine without
// I/O.
//
// Nothing is guessed: what the grammar does not allow, or what two readers could take for different
// requests (request smuggling), is an error, and after an error nothing more is read. The
// connection must then be closed. Refused are: lines that end in a bare LF or hold a bare CR or
// NUL; folded headers; spaces before a colon; methods and names that are no tokens; a
// Content-Length that is not 1 to 18 digits, or that differs from another; Content-Length beside
// Transfer-Encoding; Transfer-Encoding in HTTP/1.0, or other than exactly "chunked"; chunk sizes
// that are not 1 to 15 hex digits; a missing, repeated or malformed Host in HTTP/1.1; other
// versions than 1.0 and 1.1; targets with bytes outside printable ASCII. One empty line before a
// request line is skipped (RFC 9112, 2.2). Trailers are checked and dropped.
//
// Thread safety: none. Determinism: the result does not depend on how the bytes are cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shared/http/message.h"

namespace tutti::http {

struct ParserLimits {
  size_t line_bytes = 16 << 10;    // the request line (414), one header's line, one chunk's line
  size_t header_bytes = 64 << 10;  // all header lines of a request (431), and all of its trailers
  size_t headers = 128;            // header lines of a request (431), and trailers
  size_t body_bytes = 8 << 20;     // a body after chunked coding was taken off (413)
  size_t chunk_overhead_bytes = 1 << 20;  // sizes and extensions of all chunks of a body
};

class RequestParser {
 public:
  explicit RequestParser(const ParserLimits& limits) : limits_(limits) {}

  enum class State {
    kStart,  // no byte of a request yet
    kHead,   // in the request line or the headers
    kBody,   // the head is complete, the body is not
    kDone,   // request() is complete
    kError,  // status() and message() say why; the connection must be closed
  };

  // Takes bytes until the head or the request is complete or an error is found, and returns how
  // many it took. The rest belongs to the body (call again) or to the next request. Stops once when
  // the head is complete, so that the caller can look at it before the body comes.
  size_t Feed(std::string_view bytes);

  State state() const { return state_; }
  Request& request() { return request_; }
  const Request& request() const { return request_; }
  // While kBody: what is known of the body's length; -1 when it is chunked.
  int64_t content_length() const { return chunked_ ? -1 : content_length_; }
  // The body's bytes are counted and dropped from now on.
  void DropBody() { drop_body_ = true; }
  // What the client asked for: "keep-alive" in 1.0, no "close" in 1.1.
  bool keep_alive() const { return keep_alive_; }
  // The header Expect is there: "100-continue" (true in *known), or something else.
  bool expects(bool* known) const;

  int status() const { return status_; }  // 400, 413, 414, 431, 501 or 505
  const std::string& message() const { return message_; }

  // Ready for the next request. REQUIRES: kDone or kStart.
  void Reset();

 private:
  enum class Step {
    kRequestLine,
    kHeaderLine,
    kFixedBody,
    kChunkSize,
    kChunkData,
    kChunkEnd,
    kTrailer,
  };

  void Fail(int status, std::string message);
  // Takes bytes up to a CR LF into line_. True when the line is complete.
  bool TakeLine(std::string_view bytes, size_t* at);
  void RequestLine();
  void HeaderLine();
  void HeadComplete();
  void ChunkSize();
  void Trailer();
  void Finish();

  const ParserLimits limits_;
  State state_ = State::kStart;
  Step step_ = Step::kRequestLine;
  Request request_;
  std::string line_;
  bool line_has_cr_ = false;  // the line's CR came, its LF did not
  bool skipped_empty_ = false;
  size_t section_bytes_ = 0, section_lines_ = 0;  // of the headers, then of the trailers
  size_t chunk_overhead_ = 0;
  int64_t content_length_ = 0;
  bool chunked_ = false, keep_alive_ = true, drop_body_ = false;
  uint64_t body_left_ = 0;  // of the body or the chunk
  uint64_t body_taken_ = 0;
  int status_ = 0;
  std::string message_;
};

}  // namespace tutti::http
