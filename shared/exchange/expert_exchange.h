// Who gets which rows of a layer's experts, and what happens when a shard is slow, wrong or gone: a
// state machine without I/O, threads or a clock. Time, shards and replies are passed in; messages
// to send come out.
//
// A batch is cut into parts, one for each shard (more where one would be too large for a message),
// in which a row stands once however many of its experts it wants there. A part is done with the
// first good reply of any shard. A part whose shard died is cut again among the others; one that
// takes longer than its peers is sent to a second shard as well (hedged), and its shard gets
// nothing new while something of it is overdue. With no shard there, parts wait until the deadline.
//
// The double check (double_check.cc): one part in `double_every` goes to a second shard as well and
// the bits are compared; so do the parts 1, 2, 4, 8, ... of a new link, so that a shard that is
// wrong from the start is found before its rows are used. The duty to compare is counted by parts
// alone, and kept while no second shard is free. When two replies differ, the caller's own experts
// say what is right (kOwnShard), else a third shard. The wrong process is quarantined: it stays so
// when it connects again, and the caller is told to drop what was computed with its rows
// (TakeProvenance).
//
// Thread safety: one thread at a time. Determinism: `free` in what is sent where; experts are pure
// functions, so no answer can depend on it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "shared/base/status.h"
#include "shared/exchange/placement.h"

namespace tutti::exchange {

// Some rows of a batch on their way to one shard.
struct DispatchRows {
  std::vector<int32_t> rows;      // of the batch, ascending
  std::vector<uint32_t> offsets;  // [rows + 1] into `pairs`
  std::vector<int32_t> pairs;     // of the batch: indices into its expert_ids
  // Its part of the pairs that were handed out with it, to all shards: one that shares its cores
  // with the others should use as much of them. 0 < share <= 1.
  float share = 1;
};

// A link at an address where a process was wrong, or of a process that somebody else found wrong,
// has so many parts compared before it counts as any other.
inline constexpr int64_t kWatchedParts = 256;

// The caller's own experts, to which dispatches may go that settle a comparison.
inline constexpr ShardId kOwnShard = kNoShard - 1;

struct ExchangeOptions {
  int num_layers = 0, experts_per_layer = 0;
  // The caller answers what is sent to kOwnShard.
  bool own_experts = false;
  // All change only speed:
  int64_t deadline_us = 30'000'000;  // of a batch; then UNAVAILABLE
  double hedge_factor = 4;           // times the 95th percentile of latency
  int64_t hedge_min_us = 30'000;
  uint32_t double_every = 1000;  // one part in so many is compared; 0: none
  int64_t max_part_pairs = 0;    // a larger part is cut; 0: no bound
};

struct ExchangeStats {
  int64_t dispatches = 0, hedges = 0, retries = 0, late_replies = 0;
  int64_t parts = 0;        // of batches; a part that is sent again to another shard is a new one
  int64_t compared = 0;     // parts of which two replies were compared
  int64_t by_own = 0;       // parts that the caller's own experts computed, to compare or to settle
  int64_t abandoned = 0;    // comparisons given up because the second reply did not come in time
  int64_t mismatches = 0;   // comparisons that differed
  int64_t unsettled = 0;    // mismatches of which nobody could say who was wrong
  int64_t quarantined = 0;  // processes whose rows were wrong
};

// A shard process whose rows were wrong.
struct QuarantinedShard {
  uint64_t key = 0;      // of its address
  uint64_t process = 0;  // as its replies say; the key when they say nothing
};

// Who computed the rows that batches used, a bit for each shard process; bit 63 stands for all
// that came after the first 63.
struct Provenance {
  uint64_t made_by = 0;     // since the last call
  uint64_t distrusted = 0;  // found wrong since the last call, or not known to be right
};

class ExpertExchange {
 public:
  explicit ExpertExchange(const ExchangeOptions& options) : options_(options) {}

  // A message to send. `rows` stays valid until the batch of the lane is finished.
  struct Send {
    ShardId shard;
    uint64_t dispatch_id;
    int lane;
    uint32_t budget_us;
    const DispatchRows* rows;
  };
  // Those since the last call, in order.
  std::vector<Send> TakeSends() { return std::move(sends_); }

  // Events. `key`: see PlacementShard.
  void OnShardUp(ShardId shard, uint64_t key, int64_t now_us);
  void OnShardDown(ShardId shard, int64_t now_us);
  // Who holds what from now on; empty: nobody says, and PlaceLayer decides, as it does for experts
  // none of whose holders is there. Of several holders the one with the fewest rows of the batch
  // gets an expert's rows, of which many are divided.
  // REQUIRES: empty, or one entry for each expert.
  void SetHolders(Holders holders);
  // A batch of a free lane: as moe::ExpertBatch.
  void Start(int lane, int layer, std::span<const int32_t> row_offsets,
             std::span<const int32_t> expert_ids, int64_t now_us);
  // A reply; `rows_hash` of its bits where Compares(id). `process` is who says that it computed
  // them: a number that a shard process draws when it starts; 0: it does not say. Returns the part
  // whose pairs it fills, when its rows are to be used; nullopt: drop it.
  struct Filled {
    int lane;
    const DispatchRows* rows;
  };
  std::optional<Filled> OnReply(ShardId shard, uint64_t dispatch_id, const absl::Status& status,
                                uint64_t rows_hash, int64_t now_us, uint64_t process = 0);
  // Somebody else found this process wrong: its next parts are all compared.
  void Suspect(uint64_t process);
  void OnTick(int64_t now_us);

  // Whether the reply to this dispatch is compared with another; the pairs that it must have (0:
  // nobody waits for it).
  bool Compares(uint64_t dispatch_id) const;
  const DispatchRows* RowsOf(uint64_t dispatch_id) const;

  // Set once the lane's batch is complete or failed; its parts are then forgotten.
  // UNAVAILABLE, RESOURCE_EXHAUSTED, DATA_LOSS (replies differ and nobody can say which is right).
  std::optional<absl::Status> TakeResult(int lane);

  // When OnTick has something to do; INT64_MAX: never.
  int64_t NextTickUs() const;
  int num_usable() const;
  bool quarantined(ShardId shard) const;
  // All that were, the oldest first.
  const std::vector<QuarantinedShard>& quarantined() const { return quarantined_; }
  // To be asked once a step is computed, before anything of it is used or kept.
  Provenance TakeProvenance();
  const ExchangeStats& stats() const { return stats_; }

 private:
  struct Shard {
    uint64_t key = 0;
    uint64_t process = 0;  // 0: no reply came yet
    bool quarantined = false;
    int64_t parts = 0;             // given to this link
    int64_t watch_left = 0;        // parts that are all compared
    int64_t refused_until_us = 0;  // it said that it is not ready
    int overdue = 0, outstanding = 0;
    int corrupt = 0;
  };
  struct Reply {
    ShardId shard;
    uint64_t process, hash;
  };
  struct Part {
    int lane = 0;
    DispatchRows rows;
    std::vector<uint64_t> attempts;  // in flight
    std::vector<ShardId> tried;
    bool filled = false;
    uint64_t filled_by = 0;  // the process; 0: the caller's own experts
    bool compare = false;
    bool disputed = false;       // replies differ, and nobody said yet which is right
    std::vector<Reply> replies;  // so far, when compared
  };
  struct Attempt {
    ShardId shard;
    uint64_t part;  // 0: nobody waits for it any more
    int64_t sent_us, hedge_us;
    double units;
    bool overdue = false;
  };
  struct Lane {
    bool busy = false;
    int layer = 0;
    int64_t deadline_us = 0;
    std::span<const int32_t> offsets, ids;
    std::vector<int32_t> waiting;  // pairs that no shard has
    int64_t retry_us = 0;          // when to look again for those
    std::vector<uint64_t> parts;
    int open_parts = 0;
    std::optional<absl::Status> result;
  };

  bool Usable(const Shard& s, int64_t now_us) const {
    return !s.quarantined && s.refused_until_us <= now_us;
  }
  bool IsFull(const DispatchRows& rows) const {
    return options_.max_part_pairs > 0 &&
           static_cast<int64_t>(rows.pairs.size()) >= options_.max_part_pairs;
  }
  void Replan();
  ShardId Choose(std::span<const ShardId> excluded, int64_t now_us) const;
  // Owners of an expert that can be asked now; any shard when none can. kNoShard alone: none.
  std::vector<ShardId> OwnersOf(int layer, int32_t expert, std::span<const ShardId> excluded,
                                int64_t now_us) const;
  // Which shard gets which of the lane's pairs.
  std::vector<ShardId> Distribute(const Lane& lane, std::span<const int32_t> pairs,
                                  std::span<const ShardId> excluded, int64_t now_us);
  // Cuts `pairs` of the lane (ascending) into parts and sends them.
  void Assign(int lane, std::span<const int32_t> pairs, std::span<const ShardId> excluded,
              int64_t now_us);
  void SendPart(uint64_t part_id, ShardId shard, int64_t now_us);
  void Hedge(uint64_t attempt_id, int64_t now_us);
  void Forget(uint64_t attempt_id, bool shard_is_gone);
  // An attempt of the part ended without rows.
  void Lost(uint64_t part_id, const absl::Status& status, int64_t now_us);
  void FinishPart(uint64_t part_id);
  void NoteReply(ShardId shard, const Attempt& attempt, const absl::Status& status, int64_t now_us);
  // A link that answers what it must not is not asked any more.
  void Block(ShardId shard);

  // The double check (double_check.cc).
  // Who computes the part of `shard` as well; kNoShard: nobody.
  ShardId TwinOf(const Part& part, Shard* shard, int64_t now_us);
  // Who has not answered yet and can say which reply is right; kNoShard: nobody.
  ShardId ArbiterOf(const Part& part, int64_t now_us) const;
  // False: the link may not go on.
  bool Identify(ShardId shard, uint64_t process);
  // True when the last reply is right and what filled the part is not.
  bool CompareReplies(uint64_t part_id, int64_t now_us);
  void GiveUpComparison(uint64_t part_id, int64_t now_us);
  void Unsettled(const Part& part);
  void Quarantine(uint64_t process, uint64_t key, int64_t now_us);
  void TakeBack(ShardId shard, int64_t now_us);
  uint64_t BitOf(uint64_t process);
  void Fail(int lane, absl::Status status);
  void EndParts(Lane* lane);
  void CheckDone(int lane);

  const ExchangeOptions options_;
  std::map<ShardId, Shard> shards_;
  Holders holders_;
  std::vector<std::vector<ShardId>> owners_;  // [layer * experts_per_layer + expert]
  size_t turn_ = 0;                           // among equals
  std::map<uint64_t, Part> parts_;
  std::map<uint64_t, Attempt> attempts_;
  std::map<int, Lane> lanes_;
  std::vector<Send> sends_;
  uint64_t next_id_ = 1;
  // Of the double check.
  uint32_t since_due_ = 0;   // parts
  uint32_t due_ = 0;         // comparisons that became due
  uint32_t owed_ = 0;        // of those, not begun yet
  bool own_failed_ = false;  // the caller's own experts could not answer
  bool own_owed_ = false;    // the next one is for the caller's own experts
  std::vector<QuarantinedShard> quarantined_;
  std::set<uint64_t> suspected_;       // processes
  std::map<uint64_t, uint64_t> bits_;  // by process
  Provenance provenance_;

  double latency_us_ = 0;  // running 95th percentile, of one unit of work
  ExchangeStats stats_;
};

}  // namespace tutti::exchange
