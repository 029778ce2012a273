#include "shared/rpc/clients/shm_expert_link.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "shared/base/clock.h"
#include "shared/base/cores.h"
#include "shared/wire/expert_frame.h"

namespace tutti::rpc {
namespace {

// Pages are only taken when they are first written, and small messages stay in the first quarter.
constexpr int64_t kRingBytes = 8 << 20;

size_t RingBytes(int64_t largest_message) {
  return static_cast<size_t>(std::max<int64_t>(kRingBytes, 2 * (largest_message + 4096)));
}

int64_t PairBytes(const wire::ExpertShape& shape) {
  return shape.hidden * static_cast<int64_t>(sizeof(float)) + 16;  // with its id and row
}

}  // namespace

std::string ShmSocketOf(const std::string& address) {
  std::string_view path = address;
  if (!path.starts_with("unix:")) return "";
  path.remove_prefix(5);
  if (path.starts_with("//")) path.remove_prefix(2);
  return std::string(path) + ".shm";
}

int64_t MaxPairsOfShm(const wire::ExpertShape& shape) {
  return std::max<int64_t>(1, (kRingBytes / 2 - 4096) / PairBytes(shape));
}

class ShmExpertLink final : public ExpertLink {
  friend class ShmExpertLinks;

 public:
  ShmExpertLink(exchange::ShardId id, std::string address, const wire::ExpertShape& shape,
                ExpertLinkEvents* events, ShmExpertLinks* links,
                std::unique_ptr<shm::Connection> connection)
      : ExpertLink(id, std::move(address), shape, events),
        links_(links),
        connection_(std::move(connection)),
        socket_(connection_->socket()) {
    links_->Add(this);
  }
  ~ShmExpertLink() override { links_->Remove(this); }

  void Send(const moe::ExpertBatch& batch, const exchange::DispatchRows& rows, uint64_t dispatch_id,
            uint32_t budget_us) override {
    ++expected_;
    std::byte* const at = connection_->Reserve(wire::DispatchFrameBytes(rows, shape_));
    wire::WriteDispatchFrame(batch, rows, dispatch_id, budget_us, shape_, SteadyNowUs(), seat_, at);
    connection_->Send();
  }
  void Cancel() override {
    if (!done()) Down(absl::CancelledError("given up"));
  }
  bool done() const override { return connection_ == nullptr; }
  const char* name() const override { return "shared memory"; }
  bool uses_queue() const override { return false; }
  bool on_this_core() const override { return seat_.CoreOf(UsableCores()) == CurrentCore(); }

  // Replies that are there, and requests that waited for room.
  bool Poll() {
    if (!up_) return false;
    bool any = false;
    while (const auto frame = connection_->in().Next()) {
      any = true;
      const absl::StatusOr<wire::ReplyFrame> reply = wire::ReadReplyFrame(*frame);
      if (!reply.ok()) {
        Down(reply.status());
        return true;
      }
      expected_ = std::max(0, expected_ - 1);
      events_->OnReply(
          this, {reply->dispatch_id, reply->status, reply->run_us, reply->process, reply->rows});
      if (done()) return true;
    }
    if (any) connection_->in().Release();
    connection_->Flush();
    if (connection_->broken()) Down(absl::InvalidArgumentError("the shard broke the ring"));
    return any;
  }
  void OnSocket() {
    if (const absl::Status s = connection_->OnSocket(); !s.ok()) return Down(s);
    if (up_ || !connection_->connected()) return;
    up_ = true;
    events_->OnUp(this);
  }
  bool expects() const { return !done() && (!up_ || expected_ > 0); }
  bool has_waiting() const { return up_ && connection_->has_waiting(); }
  bool PrepareSleep() { return !up_ || connection_->in().PrepareSleep(); }
  void Awake() {
    if (up_) connection_->in().Awake();
  }

 private:
  void Down(const absl::Status& why) {
    up_ = false;
    connection_ = nullptr;  // its socket leaves the epoll with it
    links_->Remove(this);
    events_->OnDown(this, why);
  }

  ShmExpertLinks* const links_;
  std::unique_ptr<shm::Connection> connection_;
  const int socket_;
  wire::Seat seat_;
  int expected_ = 0;  // replies
};

absl::StatusOr<std::unique_ptr<ShmExpertLinks>> ShmExpertLinks::Create() {
  std::unique_ptr<ShmExpertLinks> out(new ShmExpertLinks);
  TUTTI_ASSIGN_OR_RETURN(out->doorbell_, shm::MakeDoorbell());
  out->epoll_ = shm::Fd(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.fd = out->doorbell_.get()}};
  if (!out->epoll_.ok() ||
      ::epoll_ctl(out->epoll_.get(), EPOLL_CTL_ADD, out->doorbell_.get(), &event) != 0) {
    return absl::UnavailableError(std::string("epoll: ") + std::strerror(errno));
  }
  return out;
}

ShmExpertLinks::~ShmExpertLinks() = default;

std::unique_ptr<ExpertLink> ShmExpertLinks::Connect(exchange::ShardId id,
                                                    const std::string& address,
                                                    const wire::ExpertShape& shape,
                                                    ExpertLinkEvents* events) {
  const std::string path = ShmSocketOf(address);
  if (path.empty()) return nullptr;
  const size_t ring = RingBytes(MaxPairsOfShm(shape) * PairBytes(shape));
  auto connection =
      shm::Connection::Connect(path, {.out_bytes = ring, .in_bytes = ring}, doorbell_.get());
  if (!connection.ok()) return nullptr;
  epoll_event event{.events = EPOLLIN, .data = {.fd = (*connection)->socket()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, event.data.fd, &event) != 0) return nullptr;
  return std::make_unique<ShmExpertLink>(id, address, shape, events, this, *std::move(connection));
}

void ShmExpertLinks::Add(ShmExpertLink* link) {
  links_[link->socket_] = link;
  Seat();
}

void ShmExpertLinks::Remove(ShmExpertLink* link) {
  const auto it = links_.find(link->socket_);
  if (it == links_.end() || it->second != link) return;
  links_.erase(it);
  Seat();
}

// By address, so that all targets of a host mean the same.
void ShmExpertLinks::Seat() {
  std::map<std::string, ShmExpertLink*> by_address;
  for (const auto& [socket, link] : links_) by_address[link->address()] = link;
  uint16_t index = 0;
  for (const auto& [address, link] : by_address)
    link->seat_ = {index++, static_cast<uint16_t>(by_address.size())};
}

bool ShmExpertLinks::Poll() {
  bool any = false;
  const auto links = links_;  // a link may go meanwhile
  for (const auto& [socket, link] : links) any |= link->Poll();
  return any;
}

bool ShmExpertLinks::expects() const {
  return std::any_of(links_.begin(), links_.end(),
                     [](const auto& l) { return l.second->expects(); });
}

void ShmExpertLinks::Wait(int64_t timeout_us) {
  bool quiet = true;
  for (const auto& [socket, link] : links_) {
    quiet &= link->PrepareSleep();
    if (link->has_waiting()) timeout_us = std::min<int64_t>(timeout_us, 200);  // for room
  }
  OnSockets(quiet ? timeout_us : 0);
  for (const auto& [socket, link] : links_) link->Awake();
}

void ShmExpertLinks::OnSockets(int64_t timeout_us) {
  std::array<epoll_event, 16> events;
  const timespec timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
  const int n = ::epoll_pwait2(epoll_.get(), events.data(), events.size(), &timeout, nullptr);
  for (int i = 0; i < n; ++i) {
    const int fd = events[static_cast<size_t>(i)].data.fd;
    if (const auto it = links_.find(fd); it != links_.end()) it->second->OnSocket();
  }
}

}  // namespace tutti::rpc
