#include "shared/rpc/clients/expert_client.h"

#include <grpcpp/support/async_stream.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "shared/base/check.h"
#include "shared/base/clock.h"
#include "shared/base/hash.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/clients/fleet_watch.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/log.h"
#include "tutti/expert/v1/expert.grpc.pb.h"

namespace tutti::rpc {
namespace {

using exchange::ShardId;
using expert::v1::CombineReply;
using expert::v1::DispatchRequest;
using expert::v1::ExpertService;

constexpr int64_t kBackoffMinUs = 20'000, kBackoffMaxUs = 500'000;
constexpr int64_t kLookUs = 10'000;  // a wait looks up this often for changes of the fleet

// One stream; destroyed by the owner once its last operation came back.
class Link {
 public:
  enum Op { kStarted, kRead, kWritten, kFinished };
  struct Tag {
    Link* link;
    Op op;
  };

  Link(ShardId id, std::string address, std::shared_ptr<grpc::Channel> channel,
       grpc::CompletionQueue* queue)
      : id_(id), address_(std::move(address)), stub_(ExpertService::NewStub(channel)) {
    context_.set_wait_for_ready(true);  // a shard that is not there yet may come
    stream_ = stub_->PrepareAsyncExchange(&context_, queue);
    ++operations_;
    stream_->StartCall(&tags_[kStarted]);
  }

  ShardId id() const { return id_; }
  const std::string& address() const { return address_; }
  bool up() const { return up_; }
  bool done() const { return operations_ == 0; }
  const grpc::Status& end() const { return end_; }
  void Cancel() { context_.TryCancel(); }
  const CombineReply& reply() const { return reply_; }

  void Send(DispatchRequest request) {
    requests_.push_back(std::move(request));
    Write();
  }
  // What happened: the stream is up, a reply is there (until ReadNext), or it is down.
  enum class What { kNothing, kUp, kReply, kDown };
  What OnEvent(Op op, bool ok) {
    --operations_;
    if (op == kWritten) {
      writing_ = false;
      if (ok) Write();
      return What::kNothing;  // a failed write also ends the read
    }
    if (op == kFinished) return What::kNothing;
    if (ok && op == kStarted) {
      up_ = true;
      ReadNext();
      return What::kUp;
    }
    if (ok) return What::kReply;
    up_ = false;
    requests_.clear();
    ++operations_;
    stream_->Finish(&end_, &tags_[kFinished]);
    return What::kDown;
  }
  void ReadNext() {
    ++operations_;
    stream_->Read(&reply_, &tags_[kRead]);
  }

 private:
  void Write() {
    if (writing_ || requests_.empty()) return;
    writing_ = true;
    request_ = std::move(requests_.front());
    requests_.pop_front();
    ++operations_;
    stream_->Write(request_, &tags_[kWritten]);
  }

  const ShardId id_;
  const std::string address_;
  std::unique_ptr<ExpertService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<DispatchRequest, CombineReply>> stream_;
  std::array<Tag, 4> tags_ = {Tag{this, kStarted}, Tag{this, kRead}, Tag{this, kWritten},
                              Tag{this, kFinished}};
  int operations_ = 0;
  bool up_ = false, writing_ = false;
  std::deque<DispatchRequest> requests_;
  DispatchRequest request_;
  CombineReply reply_;
  grpc::Status end_;
};

exchange::ExchangeOptions Sized(exchange::ExchangeOptions options, const wire::ExpertShape& shape) {
  options.num_layers = shape.num_layers;
  options.experts_per_layer = shape.experts_per_layer;
  return options;
}

class RpcExpertsImpl final : public RpcExperts {
 public:
  RpcExpertsImpl(const RpcExpertsOptions& options,
                 std::vector<std::shared_ptr<grpc::Channel>> routers)
      : options_(options),
        exchange_(Sized(options.exchange, options.shape)),
        watch_(std::move(routers), options.shape) {
    for (const std::string& a : options.addresses) wanted_.insert(a);
  }
  ~RpcExpertsImpl() override {
    // Streams end before the queue does: their last operations are started by what comes back.
    for (auto& [id, link] : links_) link->Cancel();
    void* tag;
    bool ok;
    while (!links_.empty() && queue_.Next(&tag, &ok)) {
      auto* const t = static_cast<Link::Tag*>(tag);
      if (t->link->OnEvent(t->op, ok) == Link::What::kReply) t->link->ReadNext();
      if (t->link->done()) links_.erase(t->link->id());
    }
    queue_.Shutdown();
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void Start(const moe::ExpertBatch& batch, int lane, float* out) override {
    TUTTI_CHECK(lane >= 0 && lane < kMaxLanes);
    Lane& l = lanes_[static_cast<size_t>(lane)];
    l.batch = batch;
    l.out = out;
    exchange_.Start(lane, batch.moe_layer, batch.row_offsets, batch.expert_ids, SteadyNowUs());
    FlushSends();
  }
  absl::Status Wait(int lane) override;
  exchange::ExchangeStats stats() const override { return exchange_.stats(); }

 private:
  struct Lane {
    moe::ExpertBatch batch;
    float* out = nullptr;
  };
  struct Known {  // an address
    std::shared_ptr<grpc::Channel> channel;
    bool linked = false;
    int64_t backoff_us = kBackoffMinUs, next_us = 0;
  };

  void FlushSends();
  void Connect(int64_t now_us);
  void OnEvent(Link::Tag* tag, bool ok);
  void OnReply(Link* link);
  void OnDown(Link* link);

  const RpcExpertsOptions options_;
  exchange::ExpertExchange exchange_;
  std::array<Lane, kMaxLanes> lanes_;
  grpc::CompletionQueue queue_;
  std::set<std::string> wanted_;
  std::map<std::string, Known> known_;
  std::map<ShardId, std::unique_ptr<Link>> links_;
  ShardId next_id_ = 0;
  int64_t next_connect_us_ = 0;
  FleetWatch watch_;
};

void RpcExpertsImpl::FlushSends() {
  for (const exchange::ExpertExchange::Send& send : exchange_.TakeSends()) {
    const auto it = links_.find(send.shard);
    if (it == links_.end()) continue;  // its end is on the way to the state machine
    DispatchRequest request;
    wire::DispatchToProto(lanes_[static_cast<size_t>(send.lane)].batch, *send.rows,
                          send.dispatch_id, send.budget_us, options_.shape, &request);
    it->second->Send(std::move(request));
  }
}

void RpcExpertsImpl::Connect(int64_t now_us) {
  FleetWatch::News found;
  if (watch_.Take(&found)) {
    if (!found.holders.empty()) exchange_.SetHolders(std::move(found.holders));
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
    ChannelOptions options{.tls = options_.tls, .own_connection = true};
    auto channel = OpenChannel(address, options);
    if (!channel.ok()) continue;  // TLS files were there at the start
    k.channel = *std::move(channel);
    k.linked = true;
    const ShardId id = next_id_++;
    links_[id] = std::make_unique<Link>(id, address, k.channel, &queue_);
  }
}

void RpcExpertsImpl::OnReply(Link* link) {
  const CombineReply& reply = link->reply();
  const uint64_t id = reply.dispatch_id();
  absl::Status status = StatusFromProto(reply.status());
  const exchange::DispatchRows* rows = exchange_.RowsOf(id);
  const int64_t hidden = options_.shape.hidden;
  if (status.ok() && rows != nullptr)
    status = wire::CheckReply(reply, static_cast<int64_t>(rows->pairs.size()), hidden);
  const uint64_t hash = exchange_.Compares(id) ? Hash64(reply.rows()) : 0;
  const auto filled = exchange_.OnReply(link->id(), id, status, hash, SteadyNowUs());
  if (filled) {
    float* const out = lanes_[static_cast<size_t>(filled->lane)].out;
    const char* from = reply.rows().data();
    const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
    for (const int32_t pair : filled->rows->pairs) {
      std::memcpy(out + pair * hidden, from, bytes);
      from += bytes;
    }
  } else if (!status.ok()) {
    telemetry::Log(telemetry::Level::kWarning, "experts/reply",
                   {{"shard", link->address()}, {"error", status.ToString()}});
  }
  link->ReadNext();
}

void RpcExpertsImpl::OnDown(Link* link) {
  const int64_t now = SteadyNowUs();
  Known& k = known_[link->address()];
  k.next_us = now + k.backoff_us;
  k.backoff_us = std::min(2 * k.backoff_us, kBackoffMaxUs);
  exchange_.OnShardDown(link->id(), now);
}

void RpcExpertsImpl::OnEvent(Link::Tag* tag, bool ok) {
  Link* const link = tag->link;
  switch (link->OnEvent(tag->op, ok)) {
    case Link::What::kUp:
      known_[link->address()].backoff_us = kBackoffMinUs;
      telemetry::Log(telemetry::Level::kInfo, "experts/shard-up", {{"shard", link->address()}});
      exchange_.OnShardUp(link->id(), Hash64(link->address()), SteadyNowUs());
      break;
    case Link::What::kReply:
      OnReply(link);
      break;
    case Link::What::kDown:
      OnDown(link);
      break;
    case Link::What::kNothing:
      break;
  }
  if (!link->done()) return;
  telemetry::Log(telemetry::Level::kInfo, "experts/shard-down",
                 {{"shard", link->address()}, {"error", link->end().error_message()}});
  known_[link->address()].linked = false;
  links_.erase(link->id());
}

absl::Status RpcExpertsImpl::Wait(int lane) {
  using std::chrono::system_clock;
  const int64_t spin_until = SteadyNowUs() + options_.spin_us;
  for (;;) {
    FlushSends();
    if (auto result = exchange_.TakeResult(lane)) return Annotate(*result, "experts");
    const int64_t now = SteadyNowUs();
    Connect(now);
    const int64_t sleep =
        now < spin_until ? 0 : std::clamp<int64_t>(exchange_.NextTickUs() - now, 0, kLookUs);
    void* tag = nullptr;
    bool ok = false;
    const auto status =
        queue_.AsyncNext(&tag, &ok, system_clock::now() + std::chrono::microseconds(sleep));
    if (status == grpc::CompletionQueue::GOT_EVENT) OnEvent(static_cast<Link::Tag*>(tag), ok);
    exchange_.OnTick(SteadyNowUs());
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
  return std::make_unique<RpcExpertsImpl>(options, std::move(routers));
}

}  // namespace tutti::rpc
