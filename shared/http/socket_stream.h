// Bytes to and from a non-blocking socket, plain or through TLS. Internal to the server.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <string>

#include "shared/base/status.h"

struct ssl_ctx_st;
struct ssl_st;

namespace tutti::http {

class SocketStream {
 public:
  static constexpr ssize_t kAgain = -1, kFailed = -2;

  // Owns `fd`. tls: null for plain.
  SocketStream(int fd, ssl_ctx_st* tls);
  ~SocketStream();
  SocketStream(const SocketStream&) = delete;
  SocketStream& operator=(const SocketStream&) = delete;

  int fd() const { return fd_; }
  ssize_t Read(char* to, size_t size);           // bytes, 0: the end, kAgain, kFailed
  ssize_t Write(const char* from, size_t size);  // bytes, kAgain, kFailed
  // No more bytes to the client.
  void EndWrites();
  // TLS alone: reading waits until the socket can be written to (a handshake).
  bool read_wants_write() const { return read_wants_write_; }
  // TLS alone: bytes that were read from the socket and not yet by Read.
  bool has_pending() const;

 private:
  ssize_t TlsResult(int result, bool reading);

  const int fd_;
  ssl_st* tls_ = nullptr;
  bool read_wants_write_ = false;
};

// A context of a server from PEM files. Errors: INVALID_ARGUMENT  names the file
absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const std::string& cert_file,
                                                           const std::string& key_file);

}  // namespace tutti::http
