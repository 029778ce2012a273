// A TCP port kept for a child process.
#pragma once

#include <string>
#include <utility>

#include "shared/base/status.h"

namespace tutti::cli {

// Binds a port and never listens on it. As long as the object lives, the kernel gives the port to
// nobody who asks for any free one and to no outgoing connection, while a server that names it and
// sets SO_REUSEADDR (ours do) may bind and listen, also again after its death. A port that was
// found free and let go could be somebody else's by the time the child asks for it.
//
// Thread-safety: an object belongs to one thread at a time.
class HeldPort {
 public:
  // `port` of `host` (a name, an IPv4 or IPv6 address, the latter with brackets or without); 0: any
  // free one. Of a name's addresses the first counts.
  // Errors: UNAVAILABLE  something listens on the port, none is free, or `host` is not of
  //                      this machine; the message says which;
  //         INVALID_ARGUMENT  `host` is neither an address nor a name that is known
  static absl::StatusOr<HeldPort> Take(const std::string& host, int port);

  HeldPort() = default;  // holds nothing
  HeldPort(HeldPort&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), number_(std::exchange(other.number_, 0)) {}
  HeldPort& operator=(HeldPort&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(number_, other.number_);
    return *this;
  }
  ~HeldPort();

  int number() const { return number_; }  // 0: holds nothing

 private:
  HeldPort(int fd, int number) : fd_(fd), number_(number) {}

  int fd_ = -1;
  int number_ = 0;
};

}  // namespace tutti::cli
