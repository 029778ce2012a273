#include "shared/shm/connection.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace tutti::shm {
namespace {

constexpr size_t kControlBytes = 4096;
constexpr size_t kRingMax = size_t{1} << 30;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr uint64_t kHello = 0x31306d6873747475;  // with the version of what is in the memory

struct Control {
  RingControl to_server, to_client;
};
static_assert(sizeof(Control) <= kControlBytes);

struct Hello {  // client to server with {memory, doorbell}; back with {doorbell}
  uint64_t magic;
  uint64_t client_bytes, server_bytes;  // of the rings
};

absl::Status Errno(const std::string& what) {
  return absl::UnavailableError(what + ": " + std::strerror(errno));
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError("\"" + path + "\": a socket's path has 1 to " +
                                      std::to_string(sizeof(address.sun_path) - 1) + " bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<Fd> NewSocket() {
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return Errno("socket");
  return fd;
}

absl::Status SendHello(int socket, const Hello& hello, std::span<const int> fds) {
  iovec data{const_cast<Hello*>(&hello), sizeof(hello)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(2 * sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* const c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != sizeof(hello)) return Errno("sendmsg");
  return absl::OkStatus();
}

// Exactly `num_fds` must come with it. OK with magic 0: nothing there yet.
absl::StatusOr<Hello> ReceiveHello(int socket, size_t num_fds, std::vector<Fd>* fds) {
  Hello hello{};
  iovec data{&hello, sizeof(hello)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Hello{};
  if (got < 0) return Errno("recvmsg");
  if (got == 0) return absl::UnavailableError("the other side is gone");
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
      fds->emplace_back(fd);
    }
  }
  if (got != sizeof(hello) || hello.magic != kHello || fds->size() != num_fds)
    return absl::InvalidArgumentError("it speaks another protocol or version");
  return hello;
}

absl::Status CheckPeer(int socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return Errno("SO_PEERCRED");
  if (peer.uid == ::geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError("the other side is user " + std::to_string(peer.uid) +
                                     ", not " + std::to_string(::geteuid()));
}

size_t Pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<Fd> MakeDoorbell() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.ok()) return Errno("eventfd");
  return fd;
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Connect(const std::string& path,
                                                                const ConnectionOptions& options,
                                                                int doorbell) {
  TUTTI_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  std::unique_ptr<Connection> c(new Connection);
  c->is_client_ = true;
  TUTTI_ASSIGN_OR_RETURN(c->socket_, NewSocket());
  if (::connect(c->socket(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return Errno("connect to " + path);
  TUTTI_RETURN_IF_ERROR(CheckPeer(c->socket()));
  const size_t out = Pages(options.out_bytes), in = Pages(options.in_bytes);
  const Fd memory(::memfd_create("tutti", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.ok()) return Errno("memfd_create");
  if (::ftruncate(memory.get(), static_cast<off_t>(kControlBytes + out + in)) != 0)
    return Errno("ftruncate");
  if (::fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) return Errno("F_ADD_SEALS");
  TUTTI_RETURN_IF_ERROR(c->Map(memory.get(), out, in, true));
  const std::array<int, 2> fds = {memory.get(), doorbell};
  TUTTI_RETURN_IF_ERROR(SendHello(c->socket(), {kHello, out, in}, fds));
  return c;
}

absl::Status Connection::Map(int memory, size_t client_bytes, size_t server_bytes, bool is_client) {
  memory_bytes_ = kControlBytes + client_bytes + server_bytes;
  void* const at = ::mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (at == MAP_FAILED) return Errno("mmap");
  memory_ = at;
  auto* const control = static_cast<Control*>(at);
  auto* const to_server = static_cast<std::byte*>(at) + kControlBytes;
  std::byte* const to_client = to_server + client_bytes;
  if (is_client) {
    out_ = RingWriter(&control->to_server, to_server, client_bytes);
    in_ = RingReader(&control->to_client, to_client, server_bytes);
  } else {
    out_ = RingWriter(&control->to_client, to_client, server_bytes);
    in_ = RingReader(&control->to_server, to_server, client_bytes);
  }
  return absl::OkStatus();
}

Connection::~Connection() {
  if (memory_ != nullptr) ::munmap(memory_, memory_bytes_);
}

absl::Status Connection::OnHello() {
  std::vector<Fd> fds;
  TUTTI_ASSIGN_OR_RETURN(const Hello hello, ReceiveHello(socket(), 2, &fds));
  if (hello.magic == 0) return absl::OkStatus();
  const auto good = [](uint64_t n) { return n >= 4096 && n <= kRingMax && n % 4096 == 0; };
  struct stat file {};
  if (!good(hello.client_bytes) || !good(hello.server_bytes) || ::fstat(fds[0].get(), &file) != 0 ||
      !S_ISREG(file.st_mode) ||
      static_cast<uint64_t>(file.st_size) !=
          kControlBytes + hello.client_bytes + hello.server_bytes) {
    return absl::InvalidArgumentError("the memory is not as large as it says");
  }
  if ((::fcntl(fds[0].get(), F_GET_SEALS) & kSeals) != kSeals)
    return absl::InvalidArgumentError("the memory is not sealed against shrinking");
  TUTTI_RETURN_IF_ERROR(Map(fds[0].get(), hello.client_bytes, hello.server_bytes, false));
  doorbell_ = std::move(fds[1]);
  const std::array<int, 1> mine = {own_doorbell_};
  TUTTI_RETURN_IF_ERROR(SendHello(socket(), {kHello, 0, 0}, mine));
  connected_ = true;
  return absl::OkStatus();
}

absl::Status Connection::OnWelcome() {
  std::vector<Fd> fds;
  TUTTI_ASSIGN_OR_RETURN(const Hello hello, ReceiveHello(socket(), 1, &fds));
  if (hello.magic == 0) return absl::OkStatus();
  doorbell_ = std::move(fds[0]);
  connected_ = true;
  return absl::OkStatus();
}

absl::Status Connection::OnSocket() {
  if (!connected_) return is_client_ ? OnWelcome() : OnHello();
  char byte;
  const ssize_t got = ::recv(socket(), &byte, 1, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
  if (got > 0) return absl::InvalidArgumentError("it sent what nobody asked for");
  return absl::UnavailableError("the other side is gone");
}

std::byte* Connection::Reserve(size_t bytes) {
  std::byte* const at = waiting_.empty() ? out_.Reserve(bytes) : nullptr;
  in_ring_ = at != nullptr;
  if (in_ring_) return at;
  spare_.resize(bytes);
  return spare_.data();
}

void Connection::Send() {
  if (in_ring_) return Publish();
  if (spare_.size() > max_message() || waiting_bytes_ + spare_.size() > kWaitingBytesMax) {
    overrun_ = true;
    waiting_.clear();
    waiting_bytes_ = 0;
  }
  if (overrun_) return;
  waiting_bytes_ += spare_.size();
  waiting_.push_back(std::move(spare_));
}

void Connection::Flush() {
  while (!waiting_.empty()) {
    const std::vector<std::byte>& message = waiting_.front();
    std::byte* const at = out_.Reserve(message.size());
    if (at == nullptr) return;
    std::memcpy(at, message.data(), message.size());
    Publish();
    waiting_bytes_ -= message.size();
    waiting_.pop_front();
  }
}

void Connection::Publish() {
  out_.Publish();
  if (!out_.TakeSleeping()) return;
  const uint64_t one = 1;
  // It fails only when the other side is gone, or made its doorbell something else: its loss.
  [[maybe_unused]] const ssize_t done = ::write(doorbell_.get(), &one, sizeof(one));
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Listen(const std::string& path) {
  TUTTI_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  TUTTI_ASSIGN_OR_RETURN(Fd socket, NewSocket());
  if (::bind(socket.get(), name, sizeof(address)) != 0) {
    if (errno != EADDRINUSE) return Errno(path);
    TUTTI_ASSIGN_OR_RETURN(const Fd probe, NewSocket());
    if (::connect(probe.get(), name, sizeof(address)) == 0 || errno != ECONNREFUSED)
      return absl::UnavailableError(path + ": another process listens there");
    ::unlink(path.c_str());
    if (::bind(socket.get(), name, sizeof(address)) != 0) return Errno(path);
  }
  if (::listen(socket.get(), 64) != 0) return Errno(path);
  return std::unique_ptr<Listener>(new Listener(path, std::move(socket)));
}

Listener::~Listener() { ::unlink(path_.c_str()); }

std::unique_ptr<Connection> Listener::Accept(int doorbell) {
  Fd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.ok() || !CheckPeer(socket.get()).ok()) return nullptr;
  std::unique_ptr<Connection> c(new Connection);
  c->own_doorbell_ = doorbell;
  c->socket_ = std::move(socket);
  return c;
}

}  // namespace tutti::shm
