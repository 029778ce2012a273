// cpp-httplib's server with the limits that a public port needs: bounded threads and queue, a
// deadline and a size for every request, and the news that a client has gone.
#pragma once

#include <httplib.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/status.h"

namespace tutti::gateway {

struct HttpLimits {
  int threads = 256;  // requests (and idle connections) served at once
  int queue = 512;    // connections waiting for a thread; more are told 503 at once
  size_t body_bytes = 8 << 20;
  size_t header_bytes = 64 << 10;  // what a request may have on top of its body
  int receive_ms = 30000;          // for a whole request to arrive
  int write_ms = 30000;            // for the client to take some bytes of an answer
  int idle_ms = 15000;             // between requests of one connection
};

class HttpServer : public httplib::Server {
 public:
  explicit HttpServer(const HttpLimits& limits);
  ~HttpServer() override;

  // "host:port", port 0: any free one. Errors: INVALID_ARGUMENT  the address;
  // UNAVAILABLE  it is taken or not ours
  absl::Status Bind(const std::string& address);
  std::string address() const { return address_; }  // with the real port
  // Serves in a thread of its own until Stop.
  void Start();
  // No new connections; idle ones close; returns when the last request is done.
  void Stop();

  // For handlers: whether the client of the request that this thread serves has closed its side.
  static bool ClientGone();

  int64_t rejected() const { return rejected_; }  // connections told 503

 private:
  class Connection;
  class Pool;
  bool process_and_close_socket(socket_t sock) override;

  const HttpLimits limits_;
  std::string address_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> rejected_{0};
  std::atomic<int> waiting_{0};  // connections in the queue
};

}  // namespace tutti::gateway
