#include "shared/http/socket_stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace tutti::http {

SocketStream::SocketStream(int fd, ssl_ctx_st* tls) : fd_(fd) {
  if (tls == nullptr) return;
  tls_ = SSL_new(tls);
  if (tls_ == nullptr) return;
  SSL_set_fd(tls_, fd);
  SSL_set_accept_state(tls_);
  SSL_set_mode(tls_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                         SSL_MODE_RELEASE_BUFFERS);
}

SocketStream::~SocketStream() {
  if (tls_ != nullptr) SSL_free(tls_);
  close(fd_);
}

ssize_t SocketStream::TlsResult(int result, bool reading) {
  if (result > 0) return result;
  const int error = SSL_get_error(tls_, result);
  ERR_clear_error();
  if (error == SSL_ERROR_WANT_READ) return kAgain;
  if (error == SSL_ERROR_WANT_WRITE) {
    if (reading) read_wants_write_ = true;
    return kAgain;
  }
  if (error == SSL_ERROR_ZERO_RETURN && reading) return 0;
  return kFailed;
}

ssize_t SocketStream::Read(char* to, size_t size) {
  if (tls_ != nullptr) {
    read_wants_write_ = false;
    ERR_clear_error();
    return TlsResult(SSL_read(tls_, to, static_cast<int>(size)), true);
  }
  ssize_t n;
  do {
    n = recv(fd_, to, size, 0);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return n;
  return errno == EAGAIN || errno == EWOULDBLOCK ? kAgain : kFailed;
}

ssize_t SocketStream::Write(const char* from, size_t size) {
  if (tls_ != nullptr) {
    ERR_clear_error();
    return TlsResult(SSL_write(tls_, from, static_cast<int>(std::min<size_t>(size, 1 << 20))),
                     false);
  }
  ssize_t n;
  do {
    n = send(fd_, from, size, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return n;
  return errno == EAGAIN || errno == EWOULDBLOCK ? kAgain : kFailed;
}

void SocketStream::EndWrites() {
  if (tls_ != nullptr && SSL_is_init_finished(tls_)) {
    ERR_clear_error();
    SSL_shutdown(tls_);
    ERR_clear_error();
  }
  shutdown(fd_, SHUT_WR);
}

bool SocketStream::has_pending() const { return tls_ != nullptr && SSL_pending(tls_) > 0; }

absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const std::string& cert_file,
                                                           const std::string& key_file) {
  std::shared_ptr<ssl_ctx_st> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (context == nullptr) return absl::InternalError("OpenSSL gives no context");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                         SSL_OP_IGNORE_UNEXPECTED_EOF);
  const auto reason = [] {
    char text[256];
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    ERR_clear_error();
    return std::string(text);
  };
  if (SSL_CTX_use_certificate_chain_file(context.get(), cert_file.c_str()) != 1) {
    return absl::InvalidArgumentError("the certificate " + cert_file + ": " + reason());
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    return absl::InvalidArgumentError("the key " + key_file + ": " + reason());
  }
  if (SSL_CTX_check_private_key(context.get()) != 1) {
    return absl::InvalidArgumentError("the key " + key_file +
                                      " does not belong to the certificate " + cert_file);
  }
  // The only protocol that is spoken, for clients that ask (ALPN).
  SSL_CTX_set_alpn_select_cb(
      context.get(),
      [](SSL*, const unsigned char** out, unsigned char* size, const unsigned char* in,
         unsigned int in_size, void*) {
        static constexpr unsigned char kOurs[] = "\x08http/1.1";
        unsigned char* chosen = nullptr;
        if (SSL_select_next_proto(&chosen, size, kOurs, sizeof kOurs - 1, in, in_size) !=
            OPENSSL_NPN_NEGOTIATED) {
          return SSL_TLSEXT_ERR_NOACK;
        }
        *out = chosen;
        return SSL_TLSEXT_ERR_OK;
      },
      nullptr);
  return context;
}

}  // namespace tutti::http
