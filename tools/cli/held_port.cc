#include "tools/cli/held_port.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tutti::cli {

absl::StatusOr<HeldPort> HeldPort::Take(const std::string& host, int port) {
  const auto error = [&](int code) {
    return absl::UnavailableError(absl::StrCat(
        host, ":", port == 0 ? "any free port" : absl::StrCat(port), ": ", std::strerror(code)));
  };
  // Brackets around an IPv6 address, as in a URL, are taken off.
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  const std::string name = brackets ? host.substr(1, host.size() - 2) : host;
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_family = name == "localhost" ? AF_INET : AF_UNSPEC;
  if (const int code = ::getaddrinfo(name.c_str(), nullptr, &hints, &found); code != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--host: ", host, ": ", ::gai_strerror(code),
                     " (neither an address nor a name that is known)"));
  }
  sockaddr_storage address = {};
  std::memcpy(&address, found->ai_addr, found->ai_addrlen);
  socklen_t size = found->ai_addrlen;
  ::freeaddrinfo(found);
  auto* const number = address.ss_family == AF_INET6
                           ? &reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                           : &reinterpret_cast<sockaddr_in*>(&address)->sin_port;
  *number = htons(static_cast<uint16_t>(port));
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return error(errno);
  HeldPort held(fd, port);  // closes it on every way out
  // Connections of a past server do not count, and the child may bind beside this socket.
  const int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return error(errno);
  }
  held.number_ = ntohs(*number);
  return held;
}

HeldPort::~HeldPort() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace tutti::cli
