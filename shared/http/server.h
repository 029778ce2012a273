// An HTTP/1.1 server on event loops: a connection costs memory and no thread, a handler answers
// when it likes, from any thread (exchange.h). Requests are read strictly (request_parser.h).
//
// What it promises (RFC 9110, RFC 9112):
//   - after a malformed request, one 4xx answer, and the connection closes: nothing behind it runs;
//   - requests that come without waiting for answers are answered in order, one at a time;
//   - HTTP/1.0 gets no chunked answer; HEAD gets no body; every answer has a Date;
//   - "Expect: 100-continue" is answered before the body is read; other expectations get 417;
//   - a client that has closed only its sending side gets its answer; whether it has gone for good
//     is found out by sending what the answer begins with anyway;
//   - every wait has a deadline and every buffer a bound (Limits).
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/status.h"
#include "shared/http/event_loop.h"
#include "shared/http/exchange.h"
#include "shared/http/message.h"
#include "shared/http/request_parser.h"

struct ssl_ctx_st;

namespace tutti::http {

class BodyBudget;

struct Limits {
  int io_threads = 2;
  ParserLimits parser;
  int connections = 16384;  // at once; a new one past them closes an idle one, else is told 503
  size_t body_bytes_total = size_t{256} << 20;  // of all request bodies in memory; past them 503
  int requests_per_connection = 10'000;         // then it closes

  // Milliseconds.
  int idle_ms = 60'000;      // between requests of a connection, and before the first
  int header_ms = 10'000;    // from a request's first byte to the end of its headers
  int body_ms = 10'000;      // for a body, plus what it needs at the rate below
  int body_rate = 16 << 10;  // bytes a second that a body must come with
  int write_ms = 30'000;     // for the client to take some bytes of an answer
  int filler_ms = 5'000;     // of silence in a stream, until its filler is sent
  int linger_ms = 2'000;     // after a closing answer, for the client to take it
};

struct Tls {
  std::string cert_file, key_file;  // PEM; empty: no TLS
};

class Server {
 public:
  struct Callbacks {
    // A request is complete. Runs in an io thread: must not block.
    std::function<void(std::shared_ptr<Exchange>)> handle;
    // A request's headers are complete, its body (if any) is not read yet: an answer refuses it.
    // Runs in an io thread. May be empty.
    std::function<std::optional<Response>(const Request&)> check_head;
    // The answer to a request that the server itself refuses. May be empty: then plain text.
    std::function<Response(int status, const std::string& message)> make_error;
  };

  Server(const Limits& limits, Callbacks callbacks);
  ~Server();

  // "host:port"; port 0: any free one; "[::1]:80"; an empty host: all addresses. With a
  // certificate, TLS alone is spoken. Errors: INVALID_ARGUMENT  the address, a file; UNAVAILABLE it
  // is taken or not ours.
  absl::Status Bind(const std::string& address, const Tls& tls = {});
  std::string address() const { return address_; }  // with the real port
  // Serves in threads of its own until Stop.
  void Start();
  // No new connections; idle ones close; returns when the last request is answered.
  void Stop();

  // A loop of the server for timers of handlers. Lives as long as somebody holds it; what is posted
  // after Stop is dropped.
  std::shared_ptr<EventLoop> loop() const { return loops_[0]; }

  int64_t connections() const { return num_connections_; }
  int64_t rejected() const { return rejected_; }  // connections told 503
  size_t body_bytes() const;                      // of requests in memory

 private:
  friend class Connection;
  class Acceptor;

  const Limits limits_;
  const Callbacks callbacks_;
  const std::shared_ptr<BodyBudget> budget_;
  std::vector<std::shared_ptr<EventLoop>> loops_;
  std::vector<std::unique_ptr<Acceptor>> acceptors_;
  std::vector<std::thread> threads_;
  std::shared_ptr<ssl_ctx_st> tls_;
  int listen_fd_ = -1;
  std::string address_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> num_connections_{0}, rejected_{0}, peak_connections_{0};
  std::atomic<size_t> peak_body_bytes_{0};
  std::mutex mutex_;
  std::condition_variable all_closed_;
};

}  // namespace tutti::http
