#include "shared/http/request_parser.h"

#include <algorithm>

#include "shared/base/strings.h"

namespace tutti::http {
namespace {

bool IsVisible(char c) { return c > 0x20 && c < 0x7f; }

// A header's value: visible ASCII, blanks and bytes above 0x7f (obs-text).
bool IsValueByte(char c) {
  const auto u = static_cast<unsigned char>(c);
  return u == '\t' || (u >= 0x20 && u != 0x7f);
}

bool AllDigits(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string Quoted(std::string_view s) { return "'" + Printable(s, 60) + "'"; }

}  // namespace

void RequestParser::Fail(int status, std::string message) {
  state_ = State::kError;
  status_ = status;
  message_ = std::move(message);
}

void RequestParser::Reset() {
  request_ = Request();
  line_.clear();
  line_.shrink_to_fit();
  line_has_cr_ = skipped_empty_ = false;
  state_ = State::kStart;
  step_ = Step::kRequestLine;
  section_bytes_ = section_lines_ = chunk_overhead_ = 0;
  content_length_ = 0;
  chunked_ = drop_body_ = false;
  keep_alive_ = true;
  body_left_ = body_taken_ = 0;
}

bool RequestParser::expects(bool* known) const {
  if (request_.minor == 0) return false;  // RFC 9110, 10.1.1: ignored in HTTP/1.0
  bool found = false;
  *known = true;
  for (const Header& h : request_.headers) {
    if (!SameWord(h.name, "expect")) continue;
    found = true;
    if (!SameWord(TrimBlanks(h.value), "100-continue")) *known = false;
  }
  return found;
}

bool RequestParser::TakeLine(std::string_view bytes, size_t* at) {
  if (line_has_cr_) {
    if (bytes[*at] != '\n') {
      Fail(400, "a CR that no LF follows");
      return false;
    }
    ++*at;
    line_has_cr_ = false;
    return true;
  }
  const std::string_view rest = bytes.substr(*at);
  const size_t end = rest.find_first_of(std::string_view("\r\n\0", 3));
  const size_t take = std::min(end, rest.size());
  if (line_.size() + take > limits_.line_bytes) {
    const std::string size = std::to_string(limits_.line_bytes) + " bytes";
    if (step_ == Step::kRequestLine) {
      Fail(414, "the request line is longer than " + size);
    } else if (step_ == Step::kHeaderLine) {
      Fail(431, "a header is longer than " + size);
    } else {
      Fail(400, "a line of the chunked body is longer than " + size);
    }
    return false;
  }
  line_.append(rest, 0, take);
  *at += take;
  if (end == rest.npos) return false;
  if (rest[end] != '\r') {
    Fail(400, rest[end] == '\n' ? "a line ends in LF without CR" : "a NUL byte");
    return false;
  }
  ++*at;
  line_has_cr_ = true;
  if (*at == bytes.size()) return false;
  return TakeLine(bytes, at);
}

size_t RequestParser::Feed(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size() && state_ != State::kDone && state_ != State::kError) {
    if (step_ == Step::kFixedBody || step_ == Step::kChunkData) {
      const size_t take = static_cast<size_t>(std::min<uint64_t>(body_left_, bytes.size() - at));
      if (!drop_body_) request_.body.append(bytes, at, take);
      at += take;
      body_left_ -= take;
      body_taken_ += take;
      if (body_left_ > 0) break;
      if (step_ == Step::kChunkData) {
        step_ = Step::kChunkEnd;
      } else {
        Finish();
      }
      continue;
    }
    if (state_ == State::kStart) state_ = State::kHead;
    if (!TakeLine(bytes, &at)) continue;
    const bool was_head = state_ == State::kHead;
    switch (step_) {
      case Step::kRequestLine:
        RequestLine();
        break;
      case Step::kHeaderLine:
        HeaderLine();
        break;
      case Step::kChunkSize:
        ChunkSize();
        break;
      case Step::kChunkEnd:
        if (!line_.empty()) Fail(400, "a chunk is longer than its size says");
        step_ = Step::kChunkSize;
        break;
      case Step::kTrailer:
        Trailer();
        break;
      case Step::kFixedBody:
      case Step::kChunkData:
        break;
    }
    line_.clear();
    if (was_head && state_ == State::kBody) break;
  }
  return at;
}

void RequestParser::RequestLine() {
  if (line_.empty()) {
    if (skipped_empty_) return Fail(400, "empty lines before the request line");
    skipped_empty_ = true;
    state_ = State::kStart;
    return;
  }
  const size_t first = line_.find(' ');
  const size_t last = line_.rfind(' ');
  if (first == line_.npos || first == last) {
    return Fail(400, "the request line is not 'METHOD TARGET HTTP/1.1': " + Quoted(line_));
  }
  const std::string_view line = line_;
  const std::string_view method = line.substr(0, first), version = line.substr(last + 1);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  if (!IsToken(method)) return Fail(400, "the method is not a token: " + Quoted(method));
  if (version.size() != 8 || !version.starts_with("HTTP/") || version[6] != '.' ||
      HexDigit(version[5]) < 0 || HexDigit(version[5]) > 9 || HexDigit(version[7]) < 0 ||
      HexDigit(version[7]) > 9) {
    return Fail(400, "the version is not HTTP/1.1: " + Quoted(version));
  }
  if (version[5] != '1') return Fail(505, "only HTTP/1.1 and HTTP/1.0: " + Quoted(version));
  if (target.empty() || !std::all_of(target.begin(), target.end(), IsVisible)) {
    return Fail(400, "the target holds a byte that is not printable ASCII: " + Quoted(target));
  }
  if (target.find('#') != target.npos) {
    return Fail(400, "the target has a fragment ('#'): " + Quoted(target));
  }
  request_.method = method;
  request_.target = target;
  request_.minor = version[7] == '0' ? 0 : 1;  // 1.2 and later are read as 1.1 (RFC 9110, 2.5)

  std::string_view path = target;
  if (target == "*") {
    if (method != "OPTIONS") return Fail(400, "the target '*' is for OPTIONS alone");
  } else if (target[0] != '/') {
    // absolute-form, as to a proxy; the host in it counts, not the Host header's (RFC 9112, 3.2.2)
    const size_t scheme = target.find("://");
    if (method == "CONNECT") return Fail(501, "CONNECT: this server is no proxy");
    if (scheme == target.npos || (!SameWord(target.substr(0, scheme), "http") &&
                                  !SameWord(target.substr(0, scheme), "https"))) {
      return Fail(400, "the target must begin with '/' or 'http://': " + Quoted(target));
    }
    const std::string_view rest = target.substr(scheme + 3);
    const size_t end = std::min(rest.find_first_of("/?"), rest.size());
    const std::string_view host = rest.substr(0, end);
    if (HostName(host).empty()) return Fail(400, "the target has no valid host: " + Quoted(target));
    request_.host = host;
    path = rest.substr(end);
    if (path.empty() || path[0] == '?') {
      request_.path = "/";
      if (!path.empty()) request_.query = path.substr(1);
      step_ = Step::kHeaderLine;
      return;
    }
  }
  const size_t question = std::min(path.find('?'), path.size());
  if (!PercentDecode(path.substr(0, question), &request_.path)) {
    return Fail(400, "a '%' in the path needs two hex digits, not 00: " + Quoted(path));
  }
  if (question < path.size()) request_.query = path.substr(question + 1);
  step_ = Step::kHeaderLine;
}

void RequestParser::HeaderLine() {
  section_bytes_ += line_.size() + 2;
  if (section_bytes_ > limits_.header_bytes) {
    return Fail(431, "the headers are larger than " + std::to_string(limits_.header_bytes) +
                         " bytes together");
  }
  if (line_.empty()) return HeadComplete();
  if (++section_lines_ > limits_.headers) {
    return Fail(431, "more than " + std::to_string(limits_.headers) + " headers");
  }
  if (line_[0] == ' ' || line_[0] == '\t') {
    return Fail(400, "a header that goes on over several lines (obs-fold)");
  }
  const std::string_view line = line_;
  const size_t colon = line.find(':');
  if (colon == line.npos) return Fail(400, "a header without a colon: " + Quoted(line));
  const std::string_view name = line.substr(0, colon);
  if (!IsToken(name)) return Fail(400, "the name of a header is not a token: " + Quoted(name));
  const std::string_view value = TrimBlanks(line.substr(colon + 1));
  if (!std::all_of(value.begin(), value.end(), IsValueByte)) {
    return Fail(400, "a control character in the header " + Quoted(name));
  }
  request_.headers.Add(std::string(name), std::string(value));
}

void RequestParser::HeadComplete() {
  const Headers& headers = request_.headers;
  const size_t hosts = headers.Count("host");
  if (hosts > 1) return Fail(400, "several Host headers");
  if (hosts == 0 && request_.minor == 1) return Fail(400, "no Host header");
  if (hosts == 1) {
    const std::string_view host = headers.Get("host");
    if (!host.empty() && HostName(host).empty()) {
      return Fail(400, "the Host header is no host: " + Quoted(host));
    }
    if (request_.host.empty()) request_.host = host;
  }

  bool has_length = false;
  std::string_view length;
  bool has_coding = false;
  bool close = false, keep = false;
  for (const Header& h : headers) {
    if (SameWord(h.name, "content-length")) {
      if (!AllDigits(h.value) || h.value.size() > 18) {
        return Fail(400, "Content-Length is not a number: " + Quoted(h.value));
      }
      if (has_length) {
        return Fail(400, "several Content-Length headers");
      }
      has_length = true;
      length = h.value;
    } else if (SameWord(h.name, "transfer-encoding")) {
      if (has_coding) return Fail(400, "several Transfer-Encoding headers");
      has_coding = true;
      if (!SameWord(h.value, "chunked")) {
        // The last coding must be chunked, or the end is unknown (RFC 9112, 6.3).
        const auto codings = ListMembers(h.value);
        const bool known_end = !codings.empty() && SameWord(codings.back(), "chunked") &&
                               std::count_if(codings.begin(), codings.end(),
                                             [](auto c) { return SameWord(c, "chunked"); }) == 1;
        return Fail(known_end ? 501 : 400,
                    "Transfer-Encoding: only 'chunked', not " + Quoted(h.value));
      }
    } else if (SameWord(h.name, "connection")) {
      close = close || ListHas(h.value, "close");
      keep = keep || ListHas(h.value, "keep-alive");
    }
  }
  if (has_coding && has_length) return Fail(400, "Transfer-Encoding beside Content-Length");
  if (has_coding && request_.minor == 0) return Fail(400, "Transfer-Encoding in HTTP/1.0");
  keep_alive_ = !close && (request_.minor == 1 || keep);
  section_bytes_ = section_lines_ = 0;
  if (has_coding) {
    chunked_ = true;
    step_ = Step::kChunkSize;
    state_ = State::kBody;
    return;
  }
  for (const char c : length) content_length_ = content_length_ * 10 + (c - '0');
  if (static_cast<uint64_t>(content_length_) > limits_.body_bytes) {
    return Fail(413, "the body has " + std::to_string(content_length_) + " bytes; at most " +
                         std::to_string(limits_.body_bytes));
  }
  if (content_length_ == 0) return Finish();
  body_left_ = static_cast<uint64_t>(content_length_);
  step_ = Step::kFixedBody;
  state_ = State::kBody;
}

void RequestParser::ChunkSize() {
  chunk_overhead_ += line_.size() + 4;
  if (chunk_overhead_ > limits_.chunk_overhead_bytes) {
    return Fail(400, "the body is cut into too many chunks for its size");
  }
  size_t digits = 0;
  uint64_t size = 0;
  while (digits < line_.size() && HexDigit(line_[digits]) >= 0) {
    if (digits == 15) return Fail(400, "a chunk's size has more than 15 digits");
    size = size * 16 + static_cast<uint64_t>(HexDigit(line_[digits++]));
  }
  if (digits == 0) return Fail(400, "a chunk's size is not hexadecimal: " + Quoted(line_));
  // Extensions (";name=value") are ignored, but must be text.
  const std::string_view rest = std::string_view(line_).substr(digits);
  if (!rest.empty() && (TrimBlanks(rest).empty() || TrimBlanks(rest).front() != ';')) {
    return Fail(400, "a chunk's size is not hexadecimal: " + Quoted(line_));
  }
  if (!std::all_of(rest.begin(), rest.end(), IsValueByte)) {
    return Fail(400, "a control character in a chunk's extension");
  }
  if (size > limits_.body_bytes || body_taken_ + size > limits_.body_bytes) {
    return Fail(413, "the body is larger than " + std::to_string(limits_.body_bytes) + " bytes");
  }
  if (size == 0) {
    step_ = Step::kTrailer;
    return;
  }
  body_left_ = size;
  step_ = Step::kChunkData;
}

void RequestParser::Trailer() {
  section_bytes_ += line_.size() + 2;
  if (section_bytes_ > limits_.header_bytes || ++section_lines_ > limits_.headers + 1) {
    return Fail(431, "the trailers are too many or too large");
  }
  if (line_.empty()) return Finish();
  const std::string_view line = line_;
  const size_t colon = std::min(line.find(':'), line.size());
  if (colon == line.size() || !IsToken(line.substr(0, colon)) ||
      !std::all_of(line.begin(), line.end(), IsValueByte)) {
    return Fail(400, "a trailer is no 'Name: value': " + Quoted(line));
  }
}

void RequestParser::Finish() { state_ = State::kDone; }

}  // namespace tutti::http
