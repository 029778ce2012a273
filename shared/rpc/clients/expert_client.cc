#include "shared/rpc/clients/expert_client.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "shared/base/warm_cores.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/clients/fleet_watch.h"
#include "shared/rpc/clients/grpc_expert_link.h"
#include "shared/rpc/clients/shm_expert_link.h"
#include "shared/telemetry/log.h"

namespace tutti::rpc {
namespace {

using exchange::ShardId;

constexpr int64_t kBackoffMinUs = 20'000, kBackoffMaxUs = 500'000;
constexpr int64_t kLookUs = 10'000;  // a wait looks up this often for changes of the fleet
// With replies expected by both ways: how long one is waited for before the other is looked at.
constexpr int64_t kTurnUs = 200;

class Timer {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

exchange::ExchangeOptions Sized(const RpcExpertsOptions& rpc) {
  exchange::ExchangeOptions options = rpc.exchange;
  const wire::ExpertShape& shape = rpc.shape;
  options.own_experts = rpc.own_experts != nullptr;
  options.max_part_pairs = MaxPairsOfShm(shape);
  options.num_layers = shape.num_layers;
  options.experts_per_layer = shape.experts_per_layer;
  return options;
}

class RpcExpertsImpl final : public RpcExperts, public ExpertLinkEvents {
 public:
  RpcExpertsImpl(const RpcExpertsOptions& options,
                 const std::vector<std::shared_ptr<grpc::Channel>>& routers,
                 std::unique_ptr<ShmExpertLinks> shm)
      : options_(options),
        exchange_(Sized(options)),
        shm_(std::move(shm)),
        watch_(routers, options.shape),
        warm_(options.warm_cores) {
    for (const std::string& a : options.addresses) wanted_.insert(a);
  }
  ~RpcExpertsImpl() override {
    // Streams end before the queue does: their last operations are started by what comes back.
    for (auto& [id, link] : links_) link->Cancel();
    Sweep();
    void* tag;
    bool ok;
    while (!links_.empty() && queue_.Next(&tag, &ok)) {
      GrpcExpertLink::OnTag(tag, ok);
      Sweep();
    }
    queue_.Shutdown();
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void Start(const moe::ExpertBatch& batch, int lane, float* out) override {
    TUTTI_CHECK(lane >= 0 && lane < kMaxLanes);
    Lane& l = lanes_[static_cast<size_t>(lane)];
    const Timer timer;
    l = {.batch = batch, .out = out, .busy = true};
    // A stream writes its next message once the end of the last write was seen here.
    while (lanes_[static_cast<size_t>(1 - lane)].busy && PollQueue(0)) {
    }
    exchange_.Start(lane, batch.moe_layer, batch.row_offsets, batch.expert_ids, SteadyNowUs());
    FlushSends();
    l.send_s = timer.Seconds();
  }
  absl::Status Wait(int lane) override;
  int64_t MinRowsToOverlap() const override;
  exchange::ExchangeStats stats() const override { return exchange_.stats(); }
  void Count(ExpertStats* stats) override { stats_ = stats; }
  Provenance TakeProvenance() override {
    const exchange::Provenance p = exchange_.TakeProvenance();
    return {p.made_by, p.distrusted};
  }
  std::vector<Quarantined> quarantined() const override {
    std::lock_guard lock(quarantine_mutex_);
    return quarantined_;
  }
  void OnQuarantine(std::function<void()> callback) override {
    on_quarantine_ = std::move(callback);
  }

 private:
  struct Lane {
    moe::ExpertBatch batch;
    float* out = nullptr;
    bool busy = false;
    double send_s = 0, copy_s = 0;
    uint32_t run_us = 0;  // of the slowest part
    size_t bytes_out = 0, bytes_in = 0;
  };
  struct Known {  // an address
    bool linked = false;
    int64_t backoff_us = kBackoffMinUs, next_us = 0;
  };

  void FlushSends();
  void Flush(const std::vector<exchange::ExpertExchange::Send>& sends);
  // Answers what is sent to exchange::kOwnShard.
  void RunOwn(const exchange::ExpertExchange::Send& send);
  void TakeReply(ShardId shard, const std::string& name, const ExpertReply& reply);
  void TellQuarantined();
  void SendOut(ExpertLink* link, const exchange::ExpertExchange::Send& send);
  void Connect(int64_t now_us);
  std::unique_ptr<ExpertLink> OpenLink(ShardId id, const std::string& address);
  bool Poll(int64_t sleep_us);
  bool PollQueue(int64_t sleep_us);
  void Sweep();
  void Publish(const Lane& lane, double wait_s);
  void OnUp(ExpertLink* link) override;
  void OnReply(ExpertLink* link, const ExpertReply& reply) override;
  void OnDown(ExpertLink* link, const absl::Status& why) override;

  const RpcExpertsOptions options_;
  exchange::ExpertExchange exchange_;
  std::array<Lane, kMaxLanes> lanes_;
  grpc::CompletionQueue queue_;
  std::set<std::string> wanted_;
  std::map<std::string, Known> known_;
  const std::unique_ptr<ShmExpertLinks> shm_;  // nullptr: not wanted
  std::map<ShardId, std::unique_ptr<ExpertLink>> links_;
  ShardId next_id_ = 0;
  int64_t next_connect_us_ = 0;
  ExpertStats* stats_ = nullptr;
  std::function<void()> on_quarantine_;
  mutable std::mutex quarantine_mutex_;
  std::vector<Quarantined> quarantined_;  // written by the thread that waits
  FleetWatch watch_;
  WarmCores warm_;
};

void RpcExpertsImpl::FlushSends() {
  for (auto sends = exchange_.TakeSends(); !sends.empty(); sends = exchange_.TakeSends()) {
    Flush(sends);
    for (const auto& send : sends) {  // while the others are under way
      if (send.shard == exchange::kOwnShard) RunOwn(send);
    }
  }
}

void RpcExpertsImpl::RunOwn(const exchange::ExpertExchange::Send& send) {
  const exchange::DispatchRows* const rows = exchange_.RowsOf(send.dispatch_id);
  if (rows == nullptr) return;  // settled meanwhile
  // The part's pairs of the batch, with rows that have none.
  const moe::ExpertBatch& all = lanes_[static_cast<size_t>(send.lane)].batch;
  std::vector<int32_t> offsets(static_cast<size_t>(all.num_rows) + 1, 0), ids;
  for (size_t i = 0; i < rows->rows.size(); ++i) {
    offsets[static_cast<size_t>(rows->rows[i]) + 1] =
        static_cast<int32_t>(rows->offsets[i + 1] - rows->offsets[i]);
  }
  for (size_t r = 0; r + 1 < offsets.size(); ++r) offsets[r + 1] += offsets[r];
  for (const int32_t pair : rows->pairs) ids.push_back(all.expert_ids[static_cast<size_t>(pair)]);
  moe::ExpertBatch part = all;
  part.row_offsets = offsets;
  part.expert_ids = ids;
  part.out_rows = {};
  std::vector<float> out(ids.size() * static_cast<size_t>(all.hidden));
  ExpertReply reply{
      .dispatch_id = send.dispatch_id,
      .status = options_.own_experts(part, out.data()),
      .rows = {reinterpret_cast<const char*>(out.data()), out.size() * sizeof(float)}};
  TakeReply(exchange::kOwnShard, "own experts", reply);
}

void RpcExpertsImpl::Flush(const std::vector<exchange::ExpertExchange::Send>& sends) {
  const exchange::ExpertExchange::Send* last = nullptr;  // others are to be awake by then
  for (const auto& send : sends) {
    const auto it = links_.find(send.shard);
    if (it == links_.end()) continue;
    if (last == nullptr && sends.size() > 1 && it->second->on_this_core()) {
      last = &send;
    } else {
      SendOut(it->second.get(), send);
    }
  }
  if (last != nullptr) SendOut(links_.at(last->shard).get(), *last);
}

void RpcExpertsImpl::SendOut(ExpertLink* link, const exchange::ExpertExchange::Send& send) {
  if (!link->up()) return;  // its end is on the way to the state machine
  Lane& l = lanes_[static_cast<size_t>(send.lane)];
  l.bytes_out += send.rows->rows.size() * wire::RowBytes(options_.shape) +
                 (send.rows->offsets.size() + send.rows->pairs.size()) * sizeof(uint32_t);
  if (link->on_this_host()) warm_.KeepFor(options_.warm_us);
  link->Send(l.batch, *send.rows, send.dispatch_id, send.budget_us);
}

void RpcExpertsImpl::Connect(int64_t now_us) {
  FleetWatch::News found;
  if (watch_.Take(&found)) {
    if (!found.holders.empty()) exchange_.SetHolders(std::move(found.holders));
    for (const uint64_t process : found.suspects) exchange_.Suspect(process);
    wanted_ = std::move(found.shards);
    wanted_.insert(options_.addresses.begin(), options_.addresses.end());
    for (auto& [id, link] : links_) {
      if (!link->up() && !wanted_.contains(link->address())) link->Cancel();
    }
    for (const std::string& a : wanted_) known_[a].next_us = 0;
    next_connect_us_ = 0;
  }
  if (now_us < next_connect_us_) return;
  next_connect_us_ = now_us + kLookUs;
  for (const std::string& address : wanted_) {
    Known& k = known_[address];
    if (k.linked || now_us < k.next_us) continue;
    const ShardId id = next_id_++;
    auto link = OpenLink(id, address);
    if (link == nullptr) continue;
    k.linked = true;
    links_[id] = std::move(link);
  }
}

std::unique_ptr<ExpertLink> RpcExpertsImpl::OpenLink(ShardId id, const std::string& address) {
  if (shm_ != nullptr) {
    if (auto link = shm_->Connect(id, address, options_.shape, this)) return link;
  }
  auto channel = OpenChannel(address, {.tls = options_.tls, .own_connection = true});
  if (!channel.ok()) return nullptr;  // TLS files were there at the start
  return std::make_unique<GrpcExpertLink>(id, address, options_.shape, this, *channel, &queue_);
}

void RpcExpertsImpl::Sweep() {
  std::erase_if(links_, [](const auto& entry) { return entry.second->done(); });
}

void RpcExpertsImpl::OnReply(ExpertLink* link, const ExpertReply& reply) {
  TakeReply(link->id(), link->address(), reply);
}

void RpcExpertsImpl::TakeReply(ShardId shard, const std::string& name, const ExpertReply& reply) {
  const uint64_t id = reply.dispatch_id;
  absl::Status status = reply.status;
  const exchange::DispatchRows* rows = exchange_.RowsOf(id);
  const int64_t hidden = options_.shape.hidden;
  if (status.ok() && rows != nullptr) {
    const size_t want = rows->pairs.size() * static_cast<size_t>(hidden) * sizeof(float);
    if (reply.rows.size() != want) {
      status = absl::InvalidArgumentError("reply.rows: " + std::to_string(reply.rows.size()) +
                                          " bytes; there must be " + std::to_string(want));
    }
  }
  const uint64_t hash = exchange_.Compares(id) ? Hash64({reply.rows.data(), reply.rows.size()}) : 0;
  const auto filled = exchange_.OnReply(shard, id, status, hash, SteadyNowUs(), reply.process);
  if (filled) {
    const Timer timer;
    Lane& l = lanes_[static_cast<size_t>(filled->lane)];
    float* const out = l.out;
    const char* from = reply.rows.data();
    const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
    for (const int32_t pair : filled->rows->pairs) {
      std::memcpy(out + l.batch.OutRow(pair) * hidden, from, bytes);
      from += bytes;
    }
    l.bytes_in += reply.rows.size();
    l.run_us = std::max(l.run_us, reply.run_us);
    l.copy_s += timer.Seconds();
  } else if (!status.ok()) {
    telemetry::Log(telemetry::Level::kWarning, "experts/reply",
                   {{"shard", name}, {"error", status.ToString()}});
  }
  if (exchange_.quarantined().size() != quarantined_.size()) TellQuarantined();
}

void RpcExpertsImpl::TellQuarantined() {
  std::vector<Quarantined> all;
  for (const exchange::QuarantinedShard& q : exchange_.quarantined()) {
    Quarantined& out = all.emplace_back();
    out.process = q.process;
    for (const auto& [address, known] : known_) {
      if (Hash64(address) == q.key) out.address = address;
    }
  }
  telemetry::Log(telemetry::Level::kError, "experts/quarantined",
                 {{"shard", all.back().address},
                  {"process", Hex64(all.back().process)},
                  {"why",
                   "its rows differ from those of others; it is not asked any more, and what "
                   "was computed with it is dropped"}});
  {
    std::lock_guard lock(quarantine_mutex_);
    quarantined_ = std::move(all);
  }
  if (on_quarantine_) on_quarantine_();
}

void RpcExpertsImpl::OnUp(ExpertLink* link) {
  known_[link->address()].backoff_us = kBackoffMinUs;
  telemetry::Log(telemetry::Level::kInfo, "experts/shard-up",
                 {{"shard", link->address()}, {"by", link->name()}});
  exchange_.OnShardUp(link->id(), Hash64(link->address()), SteadyNowUs());
}

void RpcExpertsImpl::OnDown(ExpertLink* link, const absl::Status& why) {
  const int64_t now = SteadyNowUs();
  telemetry::Log(telemetry::Level::kInfo, "experts/shard-down",
                 {{"shard", link->address()}, {"error", why.ToString()}});
  Known& k = known_[link->address()];
  k.linked = false;
  k.next_us = now + k.backoff_us;
  k.backoff_us = std::min(2 * k.backoff_us, kBackoffMaxUs);
  exchange_.OnShardDown(link->id(), now);
}

// Hands over what has arrived; sleeps for at most so long when nothing has. False: nothing.
bool RpcExpertsImpl::Poll(int64_t sleep_us) {
  if (shm_ != nullptr && shm_->Poll()) return true;
  if (shm_ != nullptr && shm_->expects()) {
    const bool by_queue_too = std::any_of(
        links_.begin(), links_.end(), [](const auto& entry) { return entry.second->uses_queue(); });
    shm_->Wait(by_queue_too ? std::min(sleep_us, kTurnUs) : sleep_us);
    if (shm_->Poll()) return true;
    if (!by_queue_too) return false;
    sleep_us = 0;
  }
  return PollQueue(sleep_us);
}

bool RpcExpertsImpl::PollQueue(int64_t sleep_us) {
  using std::chrono::system_clock;
  void* tag = nullptr;
  bool ok = false;
  // gRPC rounds up to whole milliseconds; what is long over is not waited for.
  const auto until = sleep_us == 0 ? system_clock::time_point()
                                   : system_clock::now() + std::chrono::microseconds(sleep_us);
  const auto status = queue_.AsyncNext(&tag, &ok, until);
  if (status != grpc::CompletionQueue::GOT_EVENT) return false;
  GrpcExpertLink::OnTag(tag, ok);
  return true;
}

int64_t RpcExpertsImpl::MinRowsToOverlap() const {
  const bool by_queue = std::any_of(links_.begin(), links_.end(), [](const auto& entry) {
    return entry.second->up() && entry.second->uses_queue();
  });
  const int rows = by_queue ? options_.overlap_rows : options_.overlap_rows_shm;
  return rows > 0 ? rows : INT64_MAX;
}

void RpcExpertsImpl::Publish(const Lane& lane, double wait_s) {
  const double run_s = std::min(wait_s, lane.run_us * 1e-6);
  stats_->batches.Increment();
  stats_->bytes_out.Increment(static_cast<double>(lane.bytes_out));
  stats_->bytes_in.Increment(static_cast<double>(lane.bytes_in));
  stats_->send.Increment(lane.send_s);
  stats_->run.Increment(run_s);
  stats_->copy.Increment(lane.copy_s);
  stats_->way.Increment(std::max(0.0, wait_s - run_s - lane.copy_s));
  stats_->Publish(exchange_.stats());
}

absl::Status RpcExpertsImpl::Wait(int lane) {
  const Timer timer;
  for (;;) {
    FlushSends();
    if (auto result = exchange_.TakeResult(lane)) {
      lanes_[static_cast<size_t>(lane)].busy = false;
      if (stats_ != nullptr) Publish(lanes_[static_cast<size_t>(lane)], timer.Seconds());
      return Annotate(*result, "experts");
    }
    const int64_t now = SteadyNowUs();
    Connect(now);
    const bool any = Poll(std::clamp<int64_t>(exchange_.NextTickUs() - now, 0, kLookUs));
    Sweep();
    // What has arrived while this thread was elsewhere is not late.
    if (!any) exchange_.OnTick(SteadyNowUs());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<RpcExperts>> RpcExperts::Create(const RpcExpertsOptions& options) {
  std::vector<std::shared_ptr<grpc::Channel>> routers;
  for (const std::string& address : options.routers) {
    TUTTI_ASSIGN_OR_RETURN(auto channel, OpenChannel(address, {.tls = options.tls}));
    routers.push_back(std::move(channel));
  }
  for (const std::string& address : options.addresses)
    TUTTI_RETURN_IF_ERROR(OpenChannel(address, {.tls = options.tls}).status());
  std::unique_ptr<ShmExpertLinks> shm;
  if (options.shared_memory) {
    TUTTI_ASSIGN_OR_RETURN(shm, ShmExpertLinks::Create());
  }
  return std::make_unique<RpcExpertsImpl>(options, routers, std::move(shm));
}

}  // namespace tutti::rpc
