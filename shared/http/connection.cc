#include "shared/http/connection.h"

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace tutti::http {
namespace {

constexpr std::string_view kPrefix = "HTTP/1.1 ";  // what every answer begins with
constexpr size_t kReadBytes = 64 << 10;            // of one look at a connection
constexpr size_t kOutBytes = 64 << 10;             // taken from an exchange before they are sent
constexpr size_t kSmallBodyBytes = 64 << 10;       // of refused requests: read over, not cut off
constexpr size_t kLingerBytes = size_t{32} << 20;  // read and dropped after a closing answer
constexpr int kFirstProbeMs = 100, kNextProbeMs = 1000;

// Nothing that a handler puts into a header ends the line.
void AppendSafe(std::string* out, std::string_view text) {
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    out->push_back(u == '\t' || (u >= 0x20 && u != 0x7f) ? c : ' ');
  }
}

bool MayHaveBody(int status) { return status >= 200 && status != 204 && status != 304; }

}  // namespace

Connection::Connection(Server* server, LoopShared* shared, std::unique_ptr<SocketStream> stream,
                       std::string peer, bool loopback)
    : server_(server),
      shared_(shared),
      stream_(std::move(stream)),
      peer_(std::move(peer)),
      loopback_(loopback),
      parser_(server->limits_.parser),
      idle_since_(shared->loop->now()),
      last_progress_(idle_since_),
      last_write_(idle_since_) {}

Connection::~Connection() = default;

void Connection::Start() {
  interest_ = EPOLLIN | EPOLLRDHUP;
  if (!shared_->loop->Watch(stream_->fd(), interest_, this)) return Close();
  BecomeIdle(true);
  Settle();
}

void Connection::StartRejected() {
  interest_ = EPOLLIN | EPOLLRDHUP;
  if (!shared_->loop->Watch(stream_->fd(), interest_, this)) return Close();
  Refuse(503, "too many connections");
  Settle();
}

void Connection::Drain() {
  if (state_ == State::kReading && parser_.state() == RequestParser::State::kStart) return Close();
  keep_alive_ = false;
}

void Connection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  BecomeIdle(false);
  shared_->loop->Unwatch(stream_->fd());
  if (exchange_ != nullptr) exchange_->ClientGone();
  exchange_.reset();
  server_->budget_->Give(std::exchange(budget_held_, 0));
  shared_->closed(this);  // keeps this object until the end of the round
}

void Connection::BecomeIdle(bool idle) {
  if (idle == is_idle_) return;
  is_idle_ = idle;
  if (idle) {
    idle_since_ = shared_->loop->now();
    idle_at_ = shared_->idle.insert(shared_->idle.end(), this);
  } else {
    shared_->idle.erase(idle_at_);
  }
}

void Connection::OnEvents(uint32_t events) {
  if (state_ == State::kClosed) return;
  // Both directions are closed, or the connection was reset.
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return Close();
  if ((events & EPOLLOUT) != 0) {
    if (stream_->read_wants_write() && state_ == State::kReading) ReadSome();
    if (state_ != State::kClosed) Flush();
  }
  if (state_ != State::kClosed && (events & EPOLLIN) != 0 &&
      (state_ == State::kReading || state_ == State::kLingering)) {
    ReadSome();
  }
  if (state_ == State::kAnswering && (events & EPOLLRDHUP) != 0 && !half_closed_) {
    half_closed_ = true;
    next_probe_ = shared_->loop->now() + std::chrono::milliseconds(kFirstProbeMs);
  }
  Settle();
}

void Connection::ReadSome() {
  thread_local std::string buffer(kReadBytes, '\0');
  for (int turn = 0; turn < 4; ++turn) {
    const State before = state_;
    const ssize_t n = stream_->Read(buffer.data(), buffer.size());
    if (n == SocketStream::kAgain) return;
    if (n == SocketStream::kFailed) return Close();
    if (n == 0) return OnEnd();
    if (state_ == State::kLingering) {
      lingered_bytes_ += static_cast<size_t>(n);
      if (lingered_bytes_ > kLingerBytes) return Close();
    } else {
      Process(std::string_view(buffer.data(), static_cast<size_t>(n)));
    }
    if (state_ == State::kClosed || state_ == State::kAnswering) return;
    if (state_ == before && static_cast<size_t>(n) < buffer.size() && !stream_->has_pending())
      return;
  }
  // More may be there: level-triggered events come again; what TLS holds already does not.
  if (stream_->has_pending()) {
    shared_->loop->Post([weak = weak_from_this()] {
      if (const auto self = weak.lock(); self != nullptr && (self->state_ == State::kReading ||
                                                             self->state_ == State::kLingering)) {
        self->ReadSome();
        self->Settle();
      }
    });
  }
}

void Connection::OnEnd() {
  half_closed_ = true;
  if (state_ == State::kLingering) return Close();
  if (parser_.state() == RequestParser::State::kStart) return Close();
  Refuse(400, "the request ends before it is complete");
}

bool Connection::TakeBudget(size_t bytes) {
  if (bytes <= budget_held_) return true;
  // In steps, not byte by byte.
  const size_t want = std::max(bytes - budget_held_, size_t{16} << 10);
  if (!server_->budget_->Take(want)) return false;
  budget_held_ += want;
  const size_t used = server_->budget_->used();
  if (used > server_->peak_body_bytes_) server_->peak_body_bytes_ = used;
  return true;
}

void Connection::Process(std::string_view bytes) {
  while (!bytes.empty() && state_ == State::kReading) {
    if (parser_.state() == RequestParser::State::kStart) {
      BecomeIdle(false);
      request_began_ = shared_->loop->now();
    }
    bytes.remove_prefix(parser_.Feed(bytes));
    if (parser_.state() == RequestParser::State::kError) {
      return Refuse(parser_.status(), parser_.message());
    }
    const bool done = parser_.state() == RequestParser::State::kDone;
    if (!head_seen_ && (done || parser_.state() == RequestParser::State::kBody)) {
      head_seen_ = true;
      HeadComplete();
      if (state_ != State::kReading) return;
    }
    if (!refusal_.has_value() && !TakeBudget(parser_.request().body.size())) {
      return Refuse(503, "the bodies of all requests are larger than this server holds at once");
    }
    if (done) Dispatch();
  }
  if (state_ == State::kAnswering) input_.append(bytes);
}

void Connection::HeadComplete() {
  Request& request = parser_.request();
  request.peer = peer_;
  request.peer_is_loopback = loopback_;
  body_began_ = shared_->loop->now();
  head_request_ = request.method == "HEAD";
  http10_ = request.minor == 0;
  keep_alive_ = parser_.keep_alive();
  bool known = false;
  const bool expects = parser_.expects(&known);
  if (expects && !known) {
    return Refuse(417, "Expect: only 100-continue is known, not '" +
                           std::string(request.headers.Get("expect")) + "'");
  }
  if (server_->callbacks_.check_head) refusal_ = server_->callbacks_.check_head(request);
  if (parser_.state() == RequestParser::State::kDone) return;
  const int64_t length = parser_.content_length();
  if (refusal_.has_value()) {
    if (expects || length < 0 || length > static_cast<int64_t>(kSmallBodyBytes)) {
      const Response response = *std::exchange(refusal_, std::nullopt);
      return SendWhole(response, false);
    }
    parser_.DropBody();
    return;
  }
  if (length > 0 && !TakeBudget(static_cast<size_t>(length))) {
    return Refuse(503, "the bodies of all requests are larger than this server holds at once");
  }
  if (length > 0) request.body.reserve(std::min<size_t>(static_cast<size_t>(length), 1 << 20));
  if (expects) {
    out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    Flush();
  }
}

void Connection::Dispatch() {
  if (++num_requests_ >= server_->limits_.requests_per_connection || server_->stopping_)
    keep_alive_ = false;
  if (refusal_.has_value()) {
    const Response response = *std::exchange(refusal_, std::nullopt);
    return SendWhole(response, keep_alive_);
  }
  state_ = State::kAnswering;
  streaming_ = chunked_ = answer_ended_ = false;
  prefix_sent_ = 0;
  ++exchange_number_;
  exchange_ = std::make_shared<ExchangeCore>(
      shared_->loop, std::move(parser_.request()), server_->budget_, std::exchange(budget_held_, 0),
      [weak = weak_from_this(), number = exchange_number_] {
        const auto self = weak.lock();
        if (self == nullptr || self->state_ != State::kAnswering ||
            self->exchange_number_ != number) {
          return;
        }
        self->OnNews();
        self->Settle();
      });
  server_->callbacks_.handle(std::make_shared<Exchange>(exchange_));
}

void Connection::Refuse(int status, const std::string& message) {
  if (status == 503) ++server_->rejected_;
  Response response;
  if (server_->callbacks_.make_error) {
    response = server_->callbacks_.make_error(status, message);
  } else {
    response.status = status;
    response.headers.Add("Content-Type", "text/plain; charset=utf-8");
    response.body = message + "\n";
  }
  if (status == 503 && !response.headers.Has("Retry-After"))
    response.headers.Add("Retry-After", "1");
  SendWhole(response, false);
}

// An answer of the server itself.
void Connection::SendWhole(const Response& response, bool keep_alive) {
  BecomeIdle(false);
  state_ = State::kAnswering;
  keep_alive_ = keep_alive;
  ++exchange_number_;
  streaming_ = chunked_ = false;
  prefix_sent_ = 0;
  AppendHead(response, false);
  answer_ended_ = true;
  Flush();
}

void Connection::OnNews() {
  while (exchange_ != nullptr && out_.size() - out_at_ < kOutBytes) {
    const ExchangeCore::News news = exchange_->Take();
    if (news.head.has_value()) {
      keep_alive_ = keep_alive_ && !news.head->close && !server_->stopping_;
      AppendHead(*news.head, news.stream);
      streaming_ = news.stream;
    }
    if (!news.data.empty()) AppendData(news.data);
    if (news.broken) {
      // Without its last chunk the client knows that the answer is cut.
      keep_alive_ = false;
      answer_ended_ = true;
      chunked_ = false;
    } else if (news.ended) {
      if (streaming_ && chunked_) out_ += "0\r\n\r\n";
      answer_ended_ = true;
    }
    if (answer_ended_) {
      exchange_.reset();
      break;
    }
    if (news.data.empty()) break;
  }
  Flush();
}

void Connection::AppendHead(const Response& response, bool stream) {
  const int64_t now_s = time(nullptr);
  if (shared_->date_s != now_s) {
    shared_->date_s = now_s;
    shared_->date = "Date: " + HttpDate(now_s) + "\r\n";
  }
  const bool has_body = MayHaveBody(response.status);
  if (stream && has_body && http10_)
    keep_alive_ = false;  // the end of the connection is the body's
  out_ += kPrefix.substr(prefix_sent_);
  out_ += std::to_string(response.status);
  out_ += ' ';
  out_ += StatusName(response.status);
  out_ += "\r\n";
  out_ += shared_->date;
  for (const Header& h : response.headers) {
    AppendSafe(&out_, h.name);
    out_ += ": ";
    AppendSafe(&out_, h.value);
    out_ += "\r\n";
  }
  if (!keep_alive_) {
    out_ += "Connection: close\r\n";
  } else if (http10_) {
    out_ += "Connection: keep-alive\r\n";
  }
  chunked_ = stream && has_body && !http10_ && !head_request_;
  if (stream && has_body && !http10_) {
    out_ += "Transfer-Encoding: chunked\r\n";
  } else if (!stream && has_body) {
    out_ += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  }
  out_ += "\r\n";
  if (!stream && has_body && !head_request_) out_ += response.body;
  last_write_ = shared_->loop->now();
}

void Connection::AppendData(std::string_view data) {
  last_write_ = shared_->loop->now();
  if (head_request_ || data.empty()) return;  // an empty chunk would be the last
  if (!chunked_) {
    out_ += data;
    return;
  }
  char size[24];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  out_ += size;
  out_ += data;
  out_ += "\r\n";
}

void Connection::Flush() {
  if (state_ == State::kClosed) return;
  if (out_at_ == 0 && !out_.empty()) last_progress_ = shared_->loop->now();
  while (out_at_ < out_.size()) {
    const ssize_t n = stream_->Write(out_.data() + out_at_, out_.size() - out_at_);
    if (n == SocketStream::kAgain) return;
    if (n < 0) return Close();
    out_at_ += static_cast<size_t>(n);
    last_progress_ = shared_->loop->now();
  }
  if (out_.capacity() > 4 * kOutBytes) {
    std::string().swap(out_);
  } else {
    out_.clear();
  }
  out_at_ = 0;
  if (state_ != State::kAnswering) return;
  if (answer_ended_) return AnswerComplete();
  if (exchange_ != nullptr && streaming_ && exchange_->unsent() > 0) OnNews();
}

void Connection::AnswerComplete() {
  exchange_.reset();
  answer_ended_ = false;
  if (!keep_alive_ || server_->stopping_) return Linger();
  state_ = State::kReading;
  head_seen_ = false;
  parser_.Reset();
  std::string().swap(out_);
  BecomeIdle(true);
  // What came behind the request. In a turn of its own, so that many requests in one packet do not
  // nest, nor keep others waiting.
  if (input_.empty()) return;
  shared_->loop->Post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || self->state_ != State::kReading) return;
    const std::string input = std::exchange(self->input_, {});
    self->Process(input);
    self->Settle();
  });
}

void Connection::Linger() {
  if (half_closed_ && input_.empty()) {
    // Everything was read: closing does not reset the connection under the answer.
    stream_->EndWrites();
    return Close();
  }
  state_ = State::kLingering;
  std::string().swap(input_);
  stream_->EndWrites();
  linger_until_ = shared_->loop->now() + std::chrono::milliseconds(server_->limits_.linger_ms);
}

void Connection::SendProbe() {
  // A client that has closed its socket answers any byte with a reset; one that only sends no more
  // takes it. So what is sent must be part of the answer whatever that will be.
  next_probe_ = shared_->loop->now() + std::chrono::milliseconds(kNextProbeMs);
  if (out_at_ < out_.size()) return;  // something is under way
  if (!streaming_) {
    if (prefix_sent_ >= kPrefix.size()) return;
    out_ += kPrefix[prefix_sent_++];
  } else {
    AppendData(exchange_->filler());
  }
  Flush();
}

void Connection::OnDeadline() {
  const auto now = shared_->loop->now();
  const Limits& limits = server_->limits_;
  switch (state_) {
    case State::kReading:
      if (parser_.state() == RequestParser::State::kStart) return Close();
      return Refuse(408, head_seen_ ? "the body came too slowly"
                                    : "the headers did not come within " +
                                          std::to_string(limits.header_ms) + " ms");
    case State::kAnswering:
      if (out_at_ < out_.size()) {
        if (now - last_progress_ >= std::chrono::milliseconds(limits.write_ms)) return Close();
      } else if (half_closed_ && now >= next_probe_) {
        SendProbe();
      } else if (streaming_ && exchange_ != nullptr &&
                 now - last_write_ >= std::chrono::milliseconds(limits.filler_ms)) {
        const std::string filler = exchange_->filler();
        last_write_ = now;
        if (!filler.empty()) {
          AppendData(filler);
          Flush();
        }
      }
      return;
    case State::kLingering:
      return Close();
    case State::kClosed:
      return;
  }
}

void Connection::Settle() {
  if (state_ == State::kClosed) return;
  uint32_t interest = half_closed_ ? 0u : static_cast<uint32_t>(EPOLLRDHUP);
  if (state_ == State::kReading || state_ == State::kLingering) interest |= EPOLLIN;
  // A reader that is stopped by what it has still to be answered is not read from.
  if (state_ == State::kReading && !input_.empty()) interest &= ~static_cast<uint32_t>(EPOLLIN);
  if (out_at_ < out_.size() || stream_->read_wants_write()) interest |= EPOLLOUT;
  if (interest != interest_) {
    interest_ = interest;
    if (!shared_->loop->Change(stream_->fd(), interest, this)) return Close();
  }
  const auto deadline = Deadline();
  if (deadline != Clock::time_point::max()) Arm(deadline);
}

Connection::Clock::time_point Connection::Deadline() const {
  using std::chrono::milliseconds;
  const Limits& limits = server_->limits_;
  const bool sending = out_at_ < out_.size();
  auto deadline = Clock::time_point::max();
  switch (state_) {
    case State::kReading:
      if (parser_.state() == RequestParser::State::kStart) {
        deadline = idle_since_ + milliseconds(limits.idle_ms);
      } else if (!head_seen_) {
        deadline = request_began_ + milliseconds(limits.header_ms);
      } else {
        const auto bytes = static_cast<int64_t>(parser_.request().body.size());
        deadline = body_began_ +
                   milliseconds(limits.body_ms + bytes * 1000 / std::max(limits.body_rate, 1));
      }
      break;
    case State::kAnswering:
      if (sending) {
        deadline = last_progress_ + milliseconds(limits.write_ms);
      } else {
        if (half_closed_) deadline = next_probe_;
        if (streaming_) deadline = std::min(deadline, last_write_ + milliseconds(limits.filler_ms));
      }
      break;
    case State::kLingering:
      deadline = linger_until_;
      break;
    case State::kClosed:
      break;
  }
  return deadline;
}

void Connection::Arm(Clock::time_point when) {
  if (when >= armed_) return;  // the earlier timer looks again
  armed_ = when;
  shared_->loop->At(when, [weak = weak_from_this(), when] {
    const auto self = weak.lock();
    if (self == nullptr || self->state_ == State::kClosed) return;
    if (self->armed_ == when) self->armed_ = Clock::time_point::max();
    if (self->Deadline() <= self->shared_->loop->now()) self->OnDeadline();
    self->Settle();
  });
}

}  // namespace tutti::http
