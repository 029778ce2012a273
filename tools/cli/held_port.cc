#include "tools/cli/held_port.h"

#include <arpa/inet.h>
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
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  const std::string numeric = host == "localhost" ? "127.0.0.1" : host;
  if (::inet_pton(AF_INET, numeric.c_str(), &address.sin_addr) != 1) return error(EADDRNOTAVAIL);
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return error(errno);
  HeldPort held(fd, port);  // closes it on every way out
  // Connections of a past server do not count, and the child may bind beside this socket.
  const int on = 1;
  socklen_t size = sizeof(address);
  if (::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return error(errno);
  }
  held.number_ = ntohs(address.sin_port);
  return held;
}

HeldPort::~HeldPort() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace tutti::cli
