#include "shared/http/server.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <unordered_map>

#include "shared/base/check.h"
#include "shared/http/connection.h"
#include "shared/http/exchange_core.h"

namespace tutti::http {
namespace {

constexpr int kTrimMs = 5000;
constexpr int kRejectedConnections = 256;  // that are told 503 at once; more are closed

std::string IpOf(const sockaddr_storage& address, socklen_t size) {
  char host[NI_MAXHOST];
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, nullptr, 0,
                  NI_NUMERICHOST) != 0) {
    return "";
  }
  return host;
}

bool IsLoopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    const auto& a = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(a.sin_addr.s_addr) >> 24) == 127;
  }
  const auto& a = reinterpret_cast<const sockaddr_in6&>(address);
  return address.ss_family == AF_INET6 &&
         (IN6_IS_ADDR_LOOPBACK(&a.sin6_addr) ||
          (IN6_IS_ADDR_V4MAPPED(&a.sin6_addr) && a.sin6_addr.s6_addr[12] == 127));
}

int PortOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// As many files as the system lets this process open.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

// Accepts connections into one loop, and owns them.
class Server::Acceptor final : public EventLoop::Watcher {
 public:
  Acceptor(Server* server, std::shared_ptr<EventLoop> loop) : server_(server) {
    shared_.loop = std::move(loop);
    shared_.closed = [this](Connection* c) {
      const auto it = connections_.find(c);
      shared_.loop->KeepUntilRoundEnd(std::move(it->second));
      connections_.erase(it);
      if (--server_->num_connections_ == 0) {
        std::lock_guard lock(server_->mutex_);
        server_->all_closed_.notify_all();
      }
    };
  }

  void Start() { Listen(); }

  void Drain() {
    StopListening();
    std::vector<std::shared_ptr<Connection>> all;
    for (const auto& [c, owner] : connections_) all.push_back(owner);
    for (const auto& c : all) c->Drain();
  }

  void OnEvents(uint32_t) override {
    for (int i = 0; i < 64 && !server_->stopping_; ++i) {
      sockaddr_storage peer{};
      socklen_t size = sizeof peer;
      const int fd = accept4(server_->listen_fd_, reinterpret_cast<sockaddr*>(&peer), &size,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
          // Without a free descriptor the listening socket stays readable: look again in a while.
          CloseIdlest();
          StopListening();
          shared_.loop->After(100, [this] { Listen(); });
        }
        return;
      }
      Accept(fd, peer, size);
    }
  }

 private:
  void Listen() {
    if (listening_ || server_->stopping_) return;
    listening_ = shared_.loop->Watch(server_->listen_fd_, EPOLLIN | EPOLLEXCLUSIVE, this);
  }
  void StopListening() {
    if (std::exchange(listening_, false)) shared_.loop->Unwatch(server_->listen_fd_);
  }
  bool CloseIdlest() {
    if (shared_.idle.empty()) return false;
    shared_.idle.front()->Close();
    return true;
  }

  void Accept(int fd, const sockaddr_storage& peer, socklen_t size) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // A client whose machine has gone without a word.
    const int idle_s = 60, every_s = 15, count = 4;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    sockaddr_storage local{};
    socklen_t local_size = sizeof local;
    getsockname(fd, reinterpret_cast<sockaddr*>(&local), &local_size);
    auto stream = std::make_unique<SocketStream>(fd, server_->tls_.get());
    bool full = server_->num_connections_ >= server_->limits_.connections;
    if (full && CloseIdlest()) full = false;
    if (server_->num_connections_ >= server_->limits_.connections + kRejectedConnections) {
      ++server_->rejected_;
      return;
    }
    const int64_t now = ++server_->num_connections_;
    if (now > server_->peak_connections_) server_->peak_connections_ = now;
    auto c = std::make_shared<Connection>(server_, &shared_, std::move(stream), IpOf(peer, size),
                                          IsLoopback(local));
    Connection* const raw = c.get();
    connections_.emplace(raw, std::move(c));
    if (full) {
      raw->StartRejected();
    } else {
      raw->Start();
    }
  }

  Server* const server_;
  LoopShared shared_;
  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections_;
  bool listening_ = false;
};

Server::Server(const Limits& limits, Callbacks callbacks)
    : limits_(limits),
      callbacks_(std::move(callbacks)),
      budget_(std::make_shared<BodyBudget>(limits.body_bytes_total)) {
  for (int i = 0; i < std::max(limits.io_threads, 1); ++i)
    loops_.push_back(std::make_shared<EventLoop>());
}

Server::~Server() {
  Stop();
  if (listen_fd_ >= 0) close(listen_fd_);
}

size_t Server::body_bytes() const { return budget_->used(); }

absl::Status Server::Bind(const std::string& address, const Tls& tls) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos) {
    const char* begin = address.data() + colon + 1;
    const char* end = address.data() + address.size();
    const auto parsed = std::from_chars(begin, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || begin == end) port = -1;
  }
  if (port < 0 || port > 65535)
    return absl::InvalidArgumentError("'" + address + "' is not host:port");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    return absl::InvalidArgumentError("'" + address +
                                      "': an IPv6 address needs brackets: [::1]:8080");
  }
  if (host.empty()) host = "0.0.0.0";
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError("TLS needs both a certificate and its key");
  }
  if (!tls.cert_file.empty()) {
    TUTTI_ASSIGN_OR_RETURN(tls_, MakeTlsContext(tls.cert_file, tls.key_file));
    signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      error != 0) {
    return absl::UnavailableError("cannot listen on " + address + ": " + gai_strerror(error));
  }
  std::string why;
  for (const addrinfo* a = found; a != nullptr && listen_fd_ < 0; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int on = 1, off = 0;
    // The port of a server that has just ended is free; one that is served is not (no
    // SO_REUSEPORT).
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // "[::]" is IPv4 as well.
    if (fd >= 0 && a->ai_family == AF_INET6)
      setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 4096) == 0) {
      listen_fd_ = fd;
      break;
    }
    why = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  freeaddrinfo(found);
  if (listen_fd_ < 0) return absl::UnavailableError("cannot listen on " + address + ": " + why);
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&local), &size);
  address_ = (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
             std::to_string(PortOf(local));
  return absl::OkStatus();
}

void Server::Start() {
  TUTTI_CHECK(listen_fd_ >= 0);
  RaiseFileLimit();
  for (const auto& loop : loops_) {
    acceptors_.push_back(std::make_unique<Acceptor>(this, loop));
    loop->Post([a = acceptors_.back().get()] { a->Start(); });
    threads_.emplace_back([loop] { loop->Run(); });
  }
  // What a burst needed goes back to the system: the allocator keeps it otherwise.
  auto trim = std::make_shared<std::function<void()>>();
  std::weak_ptr<EventLoop> weak_loop = loops_[0];
  *trim = [this, weak_loop, weak = std::weak_ptr<std::function<void()>>(trim)] {
    const auto loop = weak_loop.lock();
    const auto self = weak.lock();
    if (loop == nullptr || self == nullptr) return;
    const bool fewer = num_connections_ + 500 < peak_connections_;
    const bool smaller = budget_->used() + (4 << 20) < peak_body_bytes_;
    if (fewer || smaller) {
      malloc_trim(0);
      peak_connections_ = num_connections_.load();
      peak_body_bytes_ = budget_->used();
    }
    loop->After(kTrimMs, [self] { (*self)(); });
  };
  loops_[0]->After(kTrimMs, [trim] { (*trim)(); });
}

void Server::Stop() {
  if (stopping_.exchange(true)) return;
  for (const auto& a : acceptors_) {
    loops_[static_cast<size_t>(&a - acceptors_.data())]->Post([raw = a.get()] { raw->Drain(); });
  }
  {
    std::unique_lock lock(mutex_);
    all_closed_.wait(lock, [this] { return num_connections_ == 0; });
  }
  for (const auto& loop : loops_) loop->Stop();
  for (std::thread& t : threads_) t.join();
}

}  // namespace tutti::http
