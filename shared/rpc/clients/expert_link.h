// Ways to one shard. Both carry the same dispatches and replies; which one is used shows in speed
// alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "shared/exchange/expert_exchange.h"
#include "shared/wire/expert.h"

namespace tutti::rpc {

struct ExpertReply {
  uint64_t dispatch_id = 0;
  absl::Status status;         // as the shard says, or what is wrong with its reply
  uint32_t run_us = 0;         // of the shard's computation
  uint64_t process = 0;        // CombineReply.process
  std::span<const char> rows;  // f32 [pairs, hidden]; until the call that hands it over returns
};

class ExpertLink;

// What links tell their owner, within its own calls to them. The link stays until it is done().
class ExpertLinkEvents {
 public:
  virtual ~ExpertLinkEvents() = default;
  virtual void OnUp(ExpertLink* link) = 0;
  virtual void OnReply(ExpertLink* link, const ExpertReply& reply) = 0;
  virtual void OnDown(ExpertLink* link, const absl::Status& why) = 0;
};

// Thread safety: one thread at a time.
class ExpertLink {
 public:
  ExpertLink(exchange::ShardId id, std::string address, const wire::ExpertShape& shape,
             ExpertLinkEvents* events)
      : shape_(shape), events_(events), id_(id), address_(std::move(address)) {}
  virtual ~ExpertLink() = default;

  exchange::ShardId id() const { return id_; }
  const std::string& address() const { return address_; }
  bool up() const { return up_; }
  bool on_this_host() const { return address_.starts_with("unix:"); }

  // The batch and rows are copied. REQUIRES: up().
  virtual void Send(const moe::ExpertBatch& batch, const exchange::DispatchRows& rows,
                    uint64_t dispatch_id, uint32_t budget_us) = 0;
  // The shard wakes on this thread's core, and may take it.
  virtual bool on_this_core() const { return false; }
  // OnDown follows, now or later.
  virtual void Cancel() = 0;
  // It may be destroyed.
  virtual bool done() const = 0;
  virtual const char* name() const = 0;
  // Its events come by the owner's completion queue.
  virtual bool uses_queue() const = 0;

 protected:
  const wire::ExpertShape shape_;
  ExpertLinkEvents* const events_;
  bool up_ = false;

 private:
  const exchange::ShardId id_;
  const std::string address_;
};

}  // namespace tutti::rpc
