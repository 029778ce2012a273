#include "services/expert/shm_loop.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "shared/base/clock.h"
#include "shared/base/cores.h"
#include "shared/telemetry/log.h"

namespace tutti::expert {
namespace {

constexpr int64_t kLookUs = 100'000;  // a sleeper looks up this often
constexpr int64_t kBusyLookUs =
    1000;                         // while there is work, its thread looks at sockets this often
constexpr int64_t kRoomUs = 200;  // and this often while replies wait for room
constexpr int64_t kBatchPairs = 4096;  // a batch takes at most so many; the first dispatch fits

absl::Status Add(int epoll, int fd, uint32_t events) {
  epoll_event event{.events = events, .data = {.fd = fd}};
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return absl::UnavailableError(std::string("epoll: ") + std::strerror(errno));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShmLoop>> ShmLoop::Start(const std::string& path, uint64_t process,
                                                        ExpertMetrics* metrics) {
  std::unique_ptr<ShmLoop> out(new ShmLoop(process, metrics));
  TUTTI_ASSIGN_OR_RETURN(out->doorbell_, shm::MakeDoorbell());
  TUTTI_ASSIGN_OR_RETURN(out->listener_, shm::Listener::Listen(path));
  out->epoll_ = shm::Fd(::epoll_create1(EPOLL_CLOEXEC));
  TUTTI_RETURN_IF_ERROR(Add(out->epoll_.get(), out->doorbell_.get(), EPOLLIN | EPOLLET));
  TUTTI_RETURN_IF_ERROR(Add(out->epoll_.get(), out->listener_->socket(), EPOLLIN));
  out->thread_ = std::thread([loop = out.get()] { loop->Run(); });
  return out;
}

ShmLoop::~ShmLoop() {
  StartDraining();
  if (thread_.joinable()) thread_.join();
}

void ShmLoop::StartDraining() {
  if (draining_.exchange(true)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t done = ::write(doorbell_.get(), &one, sizeof(one));
}

void ShmLoop::Run() {
  for (;;) {
    const bool draining = draining_;  // what came before it is still answered
    const bool served = Serve();
    for (auto& [socket, peer] : peers_) {
      if (peer.connection->connected()) peer.connection->Flush();
    }
    DropBroken();
    if (served) {
      // A peer that always has work must not keep others from connecting, nor the dead from being
      // seen.
      if (const int64_t now = SteadyNowUs(); now - looked_us_ >= kBusyLookUs) {
        looked_us_ = now;
        OnSockets(0);
      }
      continue;
    }
    if (draining) break;
    Sleep();
  }
  peers_.clear();
  listener_.reset();
}

bool ShmLoop::Serve() {
  std::vector<Waiting> batch;
  int64_t pairs = 0;
  bool more = true;
  while (more && pairs < kBatchPairs) {  // one of each peer in turn
    more = false;
    for (auto& [socket, peer] : peers_) {
      if (!Read(&peer, &batch)) continue;
      more = true;
      pairs += static_cast<int64_t>(batch.back().frame.expert_ids.size());
    }
  }
  if (batch.empty()) return false;
  RunBatch(&batch);
  TakeSeat(batch.front().frame.seat);
  // Only now: until here the rows were read where they lay.
  for (auto& [socket, peer] : peers_) {
    if (peer.connection->connected()) peer.connection->in().Release();
  }
  return true;
}

bool ShmLoop::Read(Peer* peer, std::vector<Waiting>* batch) {
  if (!peer->connection->connected()) return false;
  const auto frame = peer->connection->in().Next();
  if (!frame) return false;
  Waiting& w = batch->emplace_back();
  w.peer = peer;
  if (wire::ReadDispatchFrame(*frame, &w.frame).ok()) return true;
  batch->pop_back();
  peer->broken = true;
  return false;
}

// The rows of a lone dispatch go straight into the ring; with more, the others are copied there.
void ShmLoop::RunBatch(std::vector<Waiting>* batch) {
  const int64_t start = SteadyNowUs();
  BatchRunner* const runner = runner_;
  const auto refuse = [&](const Waiting& w, const absl::Status& why) {
    metrics_->refused.Increment();
    std::byte* const at = w.peer->connection->Reserve(wire::ErrorFrameBytes(why));
    wire::WriteErrorFrame(w.frame.view.dispatch_id, why, at);
    w.peer->connection->Send();
  };
  std::vector<BatchRunner::Job> jobs;
  std::vector<Waiting*> of;
  int64_t pairs = 0;
  for (Waiting& w : *batch) {
    const absl::Status status = runner == nullptr
                                    ? absl::UnavailableError("the shard is starting")
                                    : wire::CheckDispatch(w.frame.view, runner->shape());
    if (!status.ok()) {
      refuse(w, status);
      continue;
    }
    const auto num = static_cast<int64_t>(w.frame.expert_ids.size());
    const size_t bytes = wire::ReplyFrameBytes(num, runner->shape().hidden);
    if (bytes > w.peer->connection->max_message()) {
      refuse(w, absl::InvalidArgumentError(
                    "dispatch.expert_ids: the reply has " + std::to_string(bytes) +
                    " bytes; the ring that the target gave takes messages of at most " +
                    std::to_string(w.peer->connection->max_message())));
      continue;
    }
    if (batch->size() == 1) {
      w.reply = w.peer->connection->Reserve(bytes);
    } else {
      w.kept.resize(bytes);
      w.reply = w.kept.data();
    }
    pairs += num;
    jobs.push_back({.dispatch = w.frame.view,
                    .out = wire::ReplyFrameRows(w.reply),
                    .queue_us = wire::WaitedUs(w.frame, start),
                    .share = w.frame.share,
                    .status = absl::OkStatus()});
    of.push_back(&w);
  }
  if (jobs.empty()) return;
  runner->Run(jobs);
  const int64_t run_us = SteadyNowUs() - start;
  for (size_t i = 0; i < jobs.size(); ++i) {
    Waiting& w = *of[i];
    metrics_->queue_time.Observe(static_cast<double>(jobs[i].queue_us) / 1e6);
    if (!jobs[i].status.ok()) {
      refuse(w, jobs[i].status);
      continue;
    }
    const auto num = static_cast<int64_t>(w.frame.expert_ids.size());
    const int64_t hidden = runner->shape().hidden;
    wire::WriteReplyFrame(w.frame.view.dispatch_id, num, hidden, process_,
                          static_cast<uint32_t>(jobs[i].queue_us), static_cast<uint32_t>(run_us),
                          w.reply);
    if (!w.kept.empty()) {
      std::memcpy(w.peer->connection->Reserve(w.kept.size()), w.kept.data(), w.kept.size());
    }
    w.peer->connection->Send();
  }
  metrics_->CountBatch(jobs.size(), pairs, run_us);
}

// Between batches, when nobody waits for this thread.
void ShmLoop::TakeSeat(wire::Seat seat) {
  const int core = seat.CoreOf(UsableCores());
  if (core != CurrentCore()) MoveThreadTo(core);
}

// A peer that writes what cannot be has lost its memory: it is let go, and may connect again.
void ShmLoop::DropBroken() {
  std::erase_if(peers_, [](const auto& entry) {
    const Peer& p = entry.second;
    const bool broken = p.broken || (p.connection->connected() && p.connection->broken());
    if (broken) telemetry::Log(telemetry::Level::kWarning, "expert/target-broke-its-ring", {});
    return broken;
  });
}

void ShmLoop::Sleep() {
  bool quiet = true, waiting = false;
  for (auto& [socket, peer] : peers_) {
    if (!peer.connection->connected()) continue;
    quiet &= peer.connection->in().PrepareSleep();
    waiting |= peer.connection->has_waiting();
  }
  OnSockets(!quiet ? 0 : waiting ? kRoomUs : kLookUs);
  for (auto& [socket, peer] : peers_) {
    if (peer.connection->connected()) peer.connection->in().Awake();
  }
}

void ShmLoop::OnSockets(int64_t timeout_us) {
  std::array<epoll_event, 16> events;
  const timespec timeout{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
  const int n = ::epoll_pwait2(epoll_.get(), events.data(), events.size(), &timeout, nullptr);
  for (int i = 0; i < n; ++i) {
    const int fd = events[static_cast<size_t>(i)].data.fd;
    if (fd == listener_->socket()) {
      while (auto connection = listener_->Accept(doorbell_.get())) {
        const int socket = connection->socket();
        if (Add(epoll_.get(), socket, EPOLLIN).ok())
          peers_[socket].connection = std::move(connection);
      }
    } else if (const auto it = peers_.find(fd); it != peers_.end()) {
      const absl::Status status = it->second.connection->OnSocket();
      if (status.ok()) continue;
      telemetry::Log(
          absl::IsUnavailable(status) ? telemetry::Level::kInfo : telemetry::Level::kWarning,
          "expert/target-gone", {{"error", status.ToString()}});
      peers_.erase(it);
    }
  }
}

}  // namespace tutti::expert
