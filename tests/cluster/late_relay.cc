#include "tests/cluster/late_relay.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "shared/base/check.h"

namespace tutti::cluster {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  TUTTI_CHECK(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

class LateRelay::Impl {
 public:
  Impl(const std::string& path, std::string to, int most_ms, unsigned seed)
      : to_(std::move(to)), most_ms_(most_ms), seed_(seed) {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
    const sockaddr_un address = AddressOf(path);
    TUTTI_CHECK(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
                    0 &&
                ::listen(listener_, 16) == 0);
    accepting_ = std::thread([this] { Accept(); });
  }
  ~Impl() {
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    for (std::thread& t : carriers_) t.join();
    for (const int socket : sockets_) ::close(socket);
    ::close(listener_);
  }
  int num_pieces() const { return num_pieces_; }

 private:
  void Accept() {
    for (int near; (near = ::accept(listener_, nullptr, nullptr)) >= 0;) {
      const int far = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockets_.insert(sockets_.end(), {near, far});
      const sockaddr_un address = AddressOf(to_);
      if (::connect(far, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        ::shutdown(near, SHUT_RDWR);
        continue;
      }
      for (const auto& [from, to] : {std::pair(near, far), std::pair(far, near)})
        carriers_.emplace_back(
            [this, from = from, to = to, seed = ++seed_] { Carry(from, to, seed); });
    }
  }
  struct Piece {
    std::chrono::steady_clock::time_point due;
    std::vector<char> bytes;  // none: the end
  };
  void Carry(int from, int to, unsigned seed) {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Piece> on_way;
    std::thread delivering([&] {
      while (true) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !on_way.empty(); });
        const Piece piece = std::move(on_way.front());
        on_way.pop_front();
        lock.unlock();
        if (piece.bytes.empty()) return;
        std::this_thread::sleep_until(piece.due);
        for (size_t done = 0; done < piece.bytes.size();) {
          const ssize_t n =
              ::send(to, piece.bytes.data() + done, piece.bytes.size() - done, MSG_NOSIGNAL);
          if (n <= 0) break;
          done += static_cast<size_t>(n);
        }
      }
    });
    std::mt19937 random(seed);
    std::vector<char> buffer(1 << 16);
    for (ssize_t size = 1; size > 0;) {
      size = ::read(from, buffer.data(), buffer.size());
      const auto late = std::chrono::milliseconds(random() % (static_cast<unsigned>(most_ms_) + 1));
      Piece piece{std::chrono::steady_clock::now() + late, {}};
      if (size > 0) piece.bytes.assign(buffer.begin(), buffer.begin() + size);
      ++num_pieces_;
      const std::lock_guard lock(mutex);
      on_way.push_back(std::move(piece));
      changed.notify_one();
    }
    delivering.join();
    ::shutdown(to, SHUT_RDWR);
    ::shutdown(from, SHUT_RDWR);
  }

  const std::string to_;
  const int most_ms_;
  unsigned seed_;
  int listener_ = -1;
  std::vector<int> sockets_;  // of the accepting thread, until it has ended
  std::list<std::thread> carriers_;
  std::atomic<int> num_pieces_{0};
  std::thread accepting_;
};

LateRelay::LateRelay(const std::string& path, std::string to, int most_ms, unsigned seed)
    : impl_(std::make_unique<Impl>(path, std::move(to), most_ms, seed)) {}
LateRelay::~LateRelay() = default;
int LateRelay::num_pieces() const { return impl_->num_pieces(); }

}  // namespace tutti::cluster
