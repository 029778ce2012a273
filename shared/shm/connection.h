// A connection between two processes of one host: a ring in each direction in memory that they
// share, and a doorbell on each side for a reader that sleeps.
//
// They meet on a unix socket. The client makes the memory (a memfd that can neither shrink nor
// grow, so that no access can fault) and sends it with its doorbell; the server answers with its
// own. After that the socket carries nothing: its end is the end of the other side, which the
// kernel tells within microseconds, however that side died. Both must be of the same user.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/status.h"
#include "shared/shm/ring.h"

namespace tutti::shm {

// A file descriptor that is closed with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

// What wakes a sleeping side: an eventfd, for all of its connections. Wait for it with EPOLLET,
// then nothing has to be read.
absl::StatusOr<Fd> MakeDoorbell();

struct ConnectionOptions {
  size_t out_bytes = 1 << 20;  // of the client's ring; rounded up to pages
  size_t in_bytes = 1 << 20;   // of the server's
};

// Thread safety: one thread at a time.
class Connection {
 public:
  // Does not wait: connected() once OnSocket was called after the socket became readable.
  // `doorbell` is this side's; it is sent, not kept.
  // Errors: UNAVAILABLE  nobody listens there, or too many wait; INVALID_ARGUMENT  path too long
  static absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& path,
                                                             const ConnectionOptions& options,
                                                             int doorbell);
  ~Connection();

  // For epoll: readable when the other side has said something, or is gone.
  int socket() const { return socket_.get(); }
  // Errors: UNAVAILABLE  the other side is gone; INVALID_ARGUMENT  it does not keep to the protocol
  absl::Status OnSocket();
  bool connected() const { return connected_; }

  // The rest REQUIRES: connected().
  RingReader& in() { return in_; }
  // Longer messages never fit into the other side's ring.
  size_t max_message() const { return out_.max_message(); }
  // Room for a message of so many bytes: in the ring, or in memory of its own while that is full.
  // It is sent with Send; without one, the next Reserve takes its place. A message that can never
  // fit, and one beyond kWaitingBytesMax that wait, breaks the connection: the other side asks for
  // what its ring cannot take, or does not read.
  std::byte* Reserve(size_t bytes);
  // Sends it, and wakes the other side if it sleeps; while the ring is full it waits for Flush.
  void Send();
  // Sends what waits, as far as there is room now.
  void Flush();
  bool has_waiting() const { return !waiting_.empty(); }
  // The other side wrote what cannot be.
  bool broken() const { return overrun_ || in_.broken() || out_.broken(); }
  // What may wait for room: more than this is not kept for a side that does not read.
  static constexpr size_t kWaitingBytesMax = size_t{64} << 20;

 private:
  friend class Listener;
  Connection() = default;
  absl::Status Map(int memory, size_t client_bytes, size_t server_bytes, bool is_client);
  absl::Status OnHello();
  absl::Status OnWelcome();
  void Publish();

  bool is_client_ = false, connected_ = false;
  int own_doorbell_ = -1;  // of the server, until it is sent
  Fd socket_, doorbell_;   // the other side's
  void* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  RingWriter out_;
  RingReader in_;
  bool in_ring_ = false;  // what was reserved; else it is `spare_`
  std::vector<std::byte> spare_;
  std::deque<std::vector<std::byte>> waiting_;  // messages that found no room
  size_t waiting_bytes_ = 0;
  bool overrun_ = false;
};

// Thread safety: one thread at a time.
class Listener {
 public:
  // A socket file that is there already is replaced when nobody listens on it.
  // Errors: INVALID_ARGUMENT  path too long; UNAVAILABLE  taken, or the folder does not let us
  static absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& path);
  ~Listener();  // removes the file
  int socket() const { return socket_.get(); }
  // One that waits, or nullptr; it is connected() after OnSocket. `doorbell` (this side's) must
  // stay until then.
  std::unique_ptr<Connection> Accept(int doorbell);

 private:
  Listener(std::string path, Fd socket) : path_(std::move(path)), socket_(std::move(socket)) {}
  std::string path_;
  Fd socket_;
};

}  // namespace tutti::shm
