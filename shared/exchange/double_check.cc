// Which parts two computers answer, who is wrong when they differ, and what follows from it.
#include <algorithm>
#include <bit>

#include "shared/exchange/expert_exchange.h"

namespace tutti::exchange {
namespace {

// Comparisons that became due while nobody could be asked; more are forgotten, so that a shard that
// comes after a long time does not get a crowd of them.
constexpr uint32_t kOwedMax = 16;
// Of the comparisons that are due, one in so many is with the caller's own experts: two shards that
// are wrong alike agree with each other. A fleet of one shard has these alone.
constexpr uint32_t kOwnEvery = 16;
constexpr size_t kQuarantinedMax = 1024;  // of which processes are remembered
constexpr size_t kSuspectedMax = 1024;
constexpr int kBits = 63;  // processes with a bit of their own

}  // namespace

ShardId ExpertExchange::TwinOf(const Part& part, Shard* shard, int64_t now_us) {
  if (options_.double_every == 0) return kNoShard;
  if (++since_due_ >= options_.double_every) {
    since_due_ = 0;
    owed_ = std::min(owed_ + 1, kOwedMax);
    own_owed_ |= ++due_ % kOwnEvery == 0;
  }
  const auto nth = static_cast<uint64_t>(++shard->parts);
  bool extra = std::has_single_bit(nth) && nth < options_.double_every;
  if (shard->watch_left > 0) {
    --shard->watch_left;
    extra = true;
  }
  if (!extra && owed_ == 0) return kNoShard;
  const bool own = options_.own_experts && !own_failed_;
  ShardId twin = Choose(part.tried, now_us);
  if (own && (own_owed_ || (twin == kNoShard && extra))) twin = kOwnShard;
  if (twin == kNoShard) return kNoShard;  // what is owed stays so
  if (twin == kOwnShard) own_owed_ = false;
  if (!extra) --owed_;
  return twin;
}

ShardId ExpertExchange::ArbiterOf(const Part& part, int64_t now_us) const {
  const bool asked = std::any_of(part.replies.begin(), part.replies.end(),
                                 [](const Reply& r) { return r.shard == kOwnShard; });
  if (options_.own_experts && !own_failed_ && !asked) return kOwnShard;
  return Choose(part.tried, now_us);
}

bool ExpertExchange::CompareReplies(uint64_t part_id, int64_t now_us) {
  Part& p = parts_.at(part_id);
  const Reply last = p.replies.back();
  if (p.replies.size() == 1) {
    if (p.attempts.empty()) GiveUpComparison(part_id, now_us);
    return false;
  }
  if (!p.disputed) {
    if (p.replies[0].hash == last.hash) {
      if (p.replies[0].process == last.process) {  // by two links: that says nothing
        if (p.attempts.empty()) GiveUpComparison(part_id, now_us);
        return false;
      }
      ++stats_.compared;
      FinishPart(part_id);
      return false;
    }
    ++stats_.compared;
    p.disputed = true;
    ++stats_.mismatches;
  }
  // The caller's own experts are right; without them, two that agree.
  const Reply* truth = nullptr;
  for (const Reply& r : p.replies) {
    if (r.shard == kOwnShard) truth = &r;
  }
  for (size_t i = 0; truth == nullptr && i + 1 < p.replies.size(); ++i) {
    if (p.replies[i].hash == last.hash && p.replies[i].process != last.process) truth = &last;
  }
  if (truth == nullptr) {
    if (const ShardId next = ArbiterOf(p, now_us); next != kNoShard) {
      SendPart(part_id, next, now_us);
    } else if (p.attempts.empty()) {
      Fail(p.lane, WithReason(absl::DataLossError(
                                  "expert shards gave different bits for the same rows, and nobody "
                                  "could say which are right"),
                              "EXPERT_MISMATCH"));
    }
    return false;
  }
  const uint64_t right = truth->hash;
  std::vector<std::pair<uint64_t, uint64_t>> wrong;  // process, key
  bool filled_is_right = false;
  for (const Reply& r : p.replies) {
    if (r.hash == right) {
      filled_is_right |= r.process == p.filled_by;
    } else {
      const auto s = shards_.find(r.shard);
      wrong.emplace_back(r.process, s == shards_.end() ? 0 : s->second.key);
    }
  }
  // What settles it is the last reply, but where the caller's own experts answered first: then they
  // have filled the part.
  const bool overrules = !filled_is_right;
  if (overrules) p.filled_by = last.process;
  p.disputed = false;
  FinishPart(part_id);
  for (const auto& [process, key] : wrong) Quarantine(process, key, now_us);
  return overrules;
}

// A twin that is slow or gone: the next part takes its place. A dispute needs an answer.
void ExpertExchange::GiveUpComparison(uint64_t part_id, int64_t now_us) {
  Part& p = parts_.at(part_id);
  if (!p.disputed) {
    ++stats_.abandoned;
    owed_ = std::min(owed_ + 1, kOwedMax);
    return FinishPart(part_id);
  }
  if (const ShardId next = ArbiterOf(p, now_us); next != kNoShard)
    return SendPart(part_id, next, now_us);
  Fail(p.lane, WithReason(absl::DataLossError("expert shards gave different bits for the same "
                                              "rows, and who was to say which are right is gone"),
                          "EXPERT_MISMATCH"));
}

void ExpertExchange::Unsettled(const Part& part) {
  ++stats_.unsettled;
  for (const Reply& r : part.replies) {
    if (r.process != 0) provenance_.distrusted |= BitOf(r.process);
  }
}

bool ExpertExchange::Identify(ShardId shard, uint64_t process) {
  Shard& s = shards_.at(shard);
  if (process == 0) process = s.key;
  if (s.process == process) return !s.quarantined;
  if (s.process != 0) {  // one process has one name
    Block(shard);
    return false;
  }
  s.process = process;
  if (suspected_.contains(process)) s.watch_left = kWatchedParts;
  const bool known = std::any_of(quarantined_.begin(), quarantined_.end(),
                                 [&](const QuarantinedShard& q) { return q.process == process; });
  if (known) Block(shard);
  return !known;
}

void ExpertExchange::Suspect(uint64_t process) {
  if (suspected_.size() >= kSuspectedMax || !suspected_.insert(process).second) return;
  for (auto& [id, s] : shards_) {
    if (s.process == process) s.watch_left = kWatchedParts;
  }
}

void ExpertExchange::Quarantine(uint64_t process, uint64_t key, int64_t now_us) {
  const bool known = std::any_of(quarantined_.begin(), quarantined_.end(),
                                 [&](const QuarantinedShard& q) { return q.process == process; });
  if (!known) {
    ++stats_.quarantined;
    if (quarantined_.size() >= kQuarantinedMax) quarantined_.erase(quarantined_.begin());
    quarantined_.push_back({.key = key, .process = process});
  }
  provenance_.distrusted |= BitOf(process);
  for (;;) {
    const auto it = std::find_if(shards_.begin(), shards_.end(), [&](const auto& s) {
      return s.second.process == process && !s.second.quarantined;
    });
    if (it == shards_.end()) return;
    Block(it->first);
    TakeBack(it->first, now_us);
  }
}

// What a shard was asked and has not answered goes to others.
void ExpertExchange::TakeBack(ShardId shard, int64_t now_us) {
  std::vector<uint64_t> lost;
  for (const auto& [id, a] : attempts_) {
    if (a.shard == shard) lost.push_back(id);
  }
  std::erase_if(sends_, [&](const Send& s) { return s.shard == shard; });
  for (const uint64_t id : lost) {
    const auto it = attempts_.find(id);
    if (it == attempts_.end()) continue;
    const uint64_t part = it->second.part;
    Forget(id, false);
    const auto p = parts_.find(part);
    if (p == parts_.end()) continue;
    const int lane = p->second.lane;
    Lost(part, absl::UnavailableError("the shard gave wrong rows"), now_us);
    CheckDone(lane);
  }
}

Provenance ExpertExchange::TakeProvenance() { return std::exchange(provenance_, {}); }

uint64_t ExpertExchange::BitOf(uint64_t process) {
  const auto it = bits_.find(process);
  if (it != bits_.end()) return it->second;
  const size_t n = bits_.size();
  if (n >= kBits) return uint64_t{1} << kBits;
  return bits_[process] = uint64_t{1} << n;
}

}  // namespace tutti::exchange
