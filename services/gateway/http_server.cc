#include "services/gateway/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstring>

namespace tutti::gateway {
namespace {

using Clock = std::chrono::steady_clock;

int64_t MsUntil(Clock::time_point t) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(t - Clock::now()).count();
}

void IpAndPort(int fd, int (*get)(int, sockaddr*, socklen_t*), std::string& ip, int& port) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (get(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
  char host[NI_MAXHOST], service[NI_MAXSERV];
  if (getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof host, service,
                  sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return;
  }
  ip = host;
  port = std::atoi(service);
}

// The accepting thread answers instead of a worker: set while the pool is full.
thread_local bool t_reject = false;

void TellOverloaded(int fd) {
  static constexpr char kAnswer[] =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
      "Connection: close\r\nContent-Length: 116\r\n\r\n"
      "{\"error\":{\"message\":\"the gateway has too many connections\",\"type\":\"server_error\","
      "\"param\":null,\"code\":\"overloaded\"}}\n";
  static_assert(sizeof kAnswer > 116);
  (void)send(fd, kAnswer, sizeof kAnswer - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
  // What the client sent already is read, or closing would reset the connection under our answer.
  char sink[4096];
  while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

// The stream that httplib reads requests from and writes answers to.
class HttpServer::Connection final : public httplib::Stream {
 public:
  Connection(int fd, const HttpLimits& limits) : fd_(fd), limits_(limits) { NewRequest(); }

  void NewRequest() {
    budget_ = limits_.body_bytes + limits_.header_bytes;
    deadline_ = Clock::now() + std::chrono::milliseconds(limits_.receive_ms);
  }
  // A request's first byte is here or comes within ms.
  bool Wait(int ms) const { return begin_ < end_ || Poll(POLLIN, ms); }

  bool Gone() const {
    pollfd p{fd_, POLLRDHUP, 0};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  bool is_readable() const override { return begin_ < end_ || Poll(POLLIN, 0); }
  bool is_writable() const override { return !Gone() && Poll(POLLOUT, limits_.write_ms); }

  ssize_t read(char* ptr, size_t size) override {
    if (budget_ == 0) return -1;
    size = std::min(size, budget_);
    if (begin_ == end_) {
      const int64_t left = MsUntil(deadline_);
      if (left <= 0 || !Poll(POLLIN, static_cast<int>(left))) return -1;
      ssize_t n;
      do {
        n = recv(fd_, buffer_, sizeof buffer_, 0);
      } while (n < 0 && errno == EINTR);
      if (n <= 0) return n;
      begin_ = 0;
      end_ = static_cast<size_t>(n);
    }
    size = std::min(size, end_ - begin_);
    std::memcpy(ptr, buffer_ + begin_, size);
    begin_ += size;
    budget_ -= size;
    return static_cast<ssize_t>(size);
  }

  ssize_t write(const char* ptr, size_t size) override {
    size_t done = 0;
    while (done < size) {
      const ssize_t n = send(fd_, ptr + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else if (n < 0 && errno == EINTR) {
        continue;
      } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        if (!Poll(POLLOUT, limits_.write_ms)) return -1;
      } else {
        return -1;
      }
    }
    return static_cast<ssize_t>(done);
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    IpAndPort(fd_, getpeername, ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    IpAndPort(fd_, getsockname, ip, port);
  }
  socket_t socket() const override { return fd_; }

  static thread_local const Connection* current;

 private:
  bool Poll(short events, int ms) const {
    pollfd p{fd_, events, 0};
    int n;
    do {
      n = poll(&p, 1, ms);
    } while (n < 0 && errno == EINTR);
    return n > 0;
  }

  const int fd_;
  const HttpLimits& limits_;
  size_t budget_ = 0;
  Clock::time_point deadline_;
  char buffer_[16384];
  size_t begin_ = 0, end_ = 0;
};

thread_local const HttpServer::Connection* HttpServer::Connection::current = nullptr;

// Threads are started as they are needed, up to the limit.
class HttpServer::Pool final : public httplib::TaskQueue {
 public:
  explicit Pool(HttpServer* server) : server_(server) {}

  void enqueue(std::function<void()> job) override {
    {
      std::unique_lock lock(mutex_);
      const bool thread_free = idle_ > jobs_.size();
      if (!thread_free && threads_.size() >= static_cast<size_t>(server_->limits_.threads) &&
          jobs_.size() >= static_cast<size_t>(server_->limits_.queue)) {
        lock.unlock();
        t_reject = true;
        job();
        t_reject = false;
        return;
      }
      jobs_.push_back(std::move(job));
      server_->waiting_ = static_cast<int>(jobs_.size());
      if (!thread_free && threads_.size() < static_cast<size_t>(server_->limits_.threads)) {
        threads_.emplace_back([this] { Work(); });
      }
    }
    wake_.notify_one();
  }

  void shutdown() override {
    {
      std::lock_guard lock(mutex_);
      shutdown_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      wake_.wait(lock, [this] { return shutdown_ || !jobs_.empty(); });
      --idle_;
      if (jobs_.empty()) return;
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      server_->waiting_ = static_cast<int>(jobs_.size());
      lock.unlock();
      job();
      lock.lock();
    }
  }

  HttpServer* const server_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool shutdown_ = false;
};

HttpServer::HttpServer(const HttpLimits& limits) : limits_(limits) {
  set_payload_max_length(limits.body_bytes);
  set_tcp_nodelay(true);
  // What the Keep-Alive header promises.
  set_keep_alive_timeout(limits.idle_ms / 1000);
  set_keep_alive_max_count(1000);
  // One process per port: httplib's own default shares it with whoever asks.
  set_socket_options([](socket_t fd) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  });
  new_task_queue = [this] { return new Pool(this); };
}

HttpServer::~HttpServer() { Stop(); }

absl::Status HttpServer::Bind(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos) {
    const char* begin = address.data() + colon + 1;
    const char* end = address.data() + address.size();
    const auto parsed = std::from_chars(begin, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || begin == end) port = -1;
  }
  if (port < 0 || port > 65535) {
    return absl::InvalidArgumentError("--http: '" + address + "' is not host:port");
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  if (host.empty()) host = "0.0.0.0";
  if (port == 0) {
    port = bind_to_any_port(host);
  } else if (!bind_to_port(host, port)) {
    port = -1;
  }
  if (port < 0) {
    return absl::UnavailableError("cannot listen on " + address + ": " + std::strerror(errno));
  }
  ::listen(svr_sock_, 512);  // httplib's own backlog is 5
  address_ =
      (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + std::to_string(port);
  return absl::OkStatus();
}

void HttpServer::Start() {
  thread_ = std::thread([this] { listen_after_bind(); });
}

void HttpServer::Stop() {
  stopping_ = true;
  if (!thread_.joinable()) return;
  // Not httplib's stop(): that cuts off answers that are being streamed. Without its listening
  // socket the accepting thread ends once the workers have.
  ::shutdown(svr_sock_, SHUT_RDWR);
  thread_.join();
}

bool HttpServer::ClientGone() {
  return Connection::current != nullptr && Connection::current->Gone();
}

bool HttpServer::process_and_close_socket(socket_t fd) {
  if (t_reject) {
    ++rejected_;
    TellOverloaded(fd);
    close(fd);
    return false;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  {
    Connection connection(fd, limits_);
    Connection::current = &connection;
    bool open = true;
    int64_t requests_left = static_cast<int64_t>(keep_alive_max_count_);
    for (bool first = true; open; first = false) {
      // Between requests, a connection gives its thread to one that waits for it.
      const auto idle_until =
          Clock::now() + std::chrono::milliseconds(first ? limits_.receive_ms : limits_.idle_ms);
      bool ready = false;
      while (!(ready = connection.Wait(50)) && MsUntil(idle_until) > 0 && !stopping_ &&
             (first || waiting_ == 0)) {
      }
      if (!ready) break;
      connection.NewRequest();
      bool closed = false;
      const bool last = stopping_ || waiting_ > 0 || --requests_left == 0;
      open = process_request(connection, last, closed, nullptr) && !closed && !last;
    }
    Connection::current = nullptr;
  }
  shutdown(fd, SHUT_RDWR);
  close(fd);
  return true;
}

}  // namespace tutti::gateway
