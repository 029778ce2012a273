#include "shared/exchange/expert_exchange.h"

#include <algorithm>
#include <limits>

#include "shared/base/check.h"

namespace tutti::exchange {
namespace {

constexpr int64_t kRetryUs = 20'000;     // between looks for a shard that takes what others refused
constexpr int64_t kRefusedUs = 200'000;  // a shard that drains or starts is left alone for
constexpr int kCorruptMax = 3;           // messages that arrived damaged before a quarantine
constexpr double kQuantile = 0.95;
constexpr size_t kChunkRows = 16;  // of an expert that several shards hold, for one of them

template <typename T>
bool Contains(const T& all, typename T::value_type one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

}  // namespace

void ExpertExchange::Replan() {
  std::vector<PlacementShard> there;
  for (const auto& [id, s] : shards_) {
    if (!s.quarantined) there.push_back({id, s.key});
  }
  std::map<uint64_t, ShardId> by_key;
  for (const PlacementShard& s : there) by_key[s.key] = s.id;
  owners_.clear();
  for (int l = 0; l < options_.num_layers; ++l) {
    for (const ShardId first : PlaceLayer(there, l, options_.experts_per_layer)) {
      std::vector<ShardId> owners;
      if (const size_t e = owners_.size(); e < holders_.size()) {
        for (const uint64_t key : holders_[e]) {
          if (const auto it = by_key.find(key); it != by_key.end()) owners.push_back(it->second);
        }
      }
      if (owners.empty() && first != kNoShard) owners.push_back(first);
      owners_.push_back(std::move(owners));
    }
  }
}

void ExpertExchange::SetHolders(Holders holders) {
  holders_ = std::move(holders);
  Replan();
}

void ExpertExchange::OnShardUp(ShardId shard, uint64_t key, int64_t now_us) {
  Shard& s = shards_[shard] = {.key = key};
  const bool was_wrong = std::any_of(quarantined_.begin(), quarantined_.end(),
                                     [&](const QuarantinedShard& q) { return q.key == key; });
  if (was_wrong) s.watch_left = kWatchedParts;
  Replan();
  for (auto& [lane, l] : lanes_) {
    if (!l.busy || l.waiting.empty()) continue;
    const std::vector<int32_t> pairs = std::move(l.waiting);
    l.waiting.clear();
    Assign(lane, pairs, {}, now_us);
  }
  // It may be the first that can take over from one that does not answer.
  std::vector<uint64_t> stuck;
  for (const auto& [id, a] : attempts_) {
    const auto part = parts_.find(a.part);
    if (a.overdue && part != parts_.end() && !part->second.filled &&
        !Contains(part->second.tried, shard) && !Contains(stuck, a.part)) {
      stuck.push_back(a.part);
    }
  }
  for (const uint64_t part : stuck) {
    ++stats_.hedges;
    SendPart(part, shard, now_us);
  }
}

void ExpertExchange::OnShardDown(ShardId shard, int64_t now_us) {
  if (shards_.erase(shard) == 0) return;
  Replan();
  std::erase_if(sends_, [&](const Send& s) { return s.shard == shard; });
  std::vector<uint64_t> lost;
  for (const auto& [id, a] : attempts_) {
    if (a.shard == shard) lost.push_back(id);
  }
  for (const uint64_t id : lost) {
    const uint64_t part = attempts_.at(id).part;
    Forget(id, true);
    Lost(part, absl::UnavailableError("the shard went away"), now_us);
  }
}

// Usable, nothing overdue, and least to do; a shard with something overdue is better than none.
ShardId ExpertExchange::Choose(std::span<const ShardId> excluded, int64_t now_us) const {
  ShardId best = kNoShard;
  std::pair<bool, int> best_cost;
  for (const auto& [id, s] : shards_) {
    if (!Usable(s, now_us) || Contains(excluded, id)) continue;
    const std::pair<bool, int> cost = {s.overdue > 0, s.outstanding};
    if (best == kNoShard || cost < best_cost) {
      best = id;
      best_cost = cost;
    }
  }
  return best;
}

std::vector<ShardId> ExpertExchange::OwnersOf(int layer, int32_t expert,
                                              std::span<const ShardId> excluded,
                                              int64_t now_us) const {
  std::vector<ShardId> out;
  if (owners_.empty()) return {kNoShard};
  for (const ShardId owner :
       owners_[static_cast<size_t>(layer * options_.experts_per_layer + expert)]) {
    const auto it = shards_.find(owner);
    if (it != shards_.end() && Usable(it->second, now_us) && it->second.overdue == 0 &&
        !Contains(excluded, owner)) {
      out.push_back(owner);
    }
  }
  if (out.empty()) out.push_back(Choose(excluded, now_us));
  return out;
}

// Experts with one owner first, so that those with several even out what that gives.
std::vector<ShardId> ExpertExchange::Distribute(const Lane& l, std::span<const int32_t> pairs,
                                                std::span<const ShardId> excluded, int64_t now_us) {
  struct Expert {
    std::vector<ShardId> owners;
    std::vector<size_t> pairs;  // indices into `pairs`
  };
  std::map<int32_t, Expert> experts;
  for (size_t i = 0; i < pairs.size(); ++i)
    experts[l.ids[static_cast<size_t>(pairs[i])]].pairs.push_back(i);
  std::vector<ShardId> out(pairs.size(), kNoShard);
  std::map<ShardId, size_t> rows;  // of this batch
  std::vector<const Expert*> several;
  for (auto& [id, e] : experts) {
    e.owners = OwnersOf(l.layer, id, excluded, now_us);
    if (e.owners.size() > 1) {
      several.push_back(&e);
      continue;
    }
    for (const size_t i : e.pairs) out[i] = e.owners[0];
    rows[e.owners[0]] += e.pairs.size();
  }
  std::stable_sort(several.begin(), several.end(), [](const Expert* a, const Expert* b) {
    return a->pairs.size() > b->pairs.size();
  });
  for (const Expert* e : several) {
    // Weights are read once for all rows of a part: few rows are not worth dividing.
    const size_t n = e->owners.size();
    const size_t chunk = std::max(kChunkRows, (e->pairs.size() + n - 1) / n);
    for (size_t begin = 0; begin < e->pairs.size(); begin += chunk) {
      const size_t end = std::min(begin + chunk, e->pairs.size());
      ShardId best = e->owners[turn_++ % n];
      for (const ShardId s : e->owners) {
        if (rows[s] < rows[best]) best = s;
      }
      for (size_t i = begin; i < end; ++i) out[e->pairs[i]] = best;
      rows[best] += end - begin;
    }
  }
  return out;
}

void ExpertExchange::Start(int lane, int layer, std::span<const int32_t> row_offsets,
                           std::span<const int32_t> expert_ids, int64_t now_us) {
  Lane& l = lanes_[lane];
  TUTTI_CHECK(!l.busy);
  l = {};
  l.busy = true;
  l.layer = layer;
  l.deadline_us = now_us + options_.deadline_us;
  l.offsets = row_offsets;
  l.ids = expert_ids;
  std::vector<int32_t> pairs(expert_ids.size());
  for (size_t p = 0; p < pairs.size(); ++p) pairs[p] = static_cast<int32_t>(p);
  Assign(lane, pairs, {}, now_us);
  CheckDone(lane);
}

void ExpertExchange::Assign(int lane, std::span<const int32_t> pairs,
                            std::span<const ShardId> excluded, int64_t now_us) {
  Lane& l = lanes_[lane];
  const std::vector<ShardId> shard_of = Distribute(l, pairs, excluded, now_us);
  std::map<ShardId, uint64_t> of;  // the part of a shard that is being filled
  std::vector<std::pair<ShardId, uint64_t>> made;
  size_t row = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const int32_t p = pairs[i];
    while (l.offsets[row + 1] <= p) ++row;
    const ShardId shard = shard_of[i];
    if (shard == kNoShard) {
      l.waiting.push_back(p);
      continue;
    }
    auto it = of.find(shard);
    if (it == of.end() || IsFull(parts_.at(it->second).rows)) {
      const uint64_t id = next_id_++;
      it = of.insert_or_assign(shard, id).first;
      made.emplace_back(shard, id);
      parts_[id].lane = lane;
      parts_[id].tried.assign(excluded.begin(), excluded.end());
      l.parts.push_back(id);
      ++l.open_parts;
    }
    DispatchRows& d = parts_[it->second].rows;
    if (d.rows.empty() || d.rows.back() != static_cast<int32_t>(row)) {
      d.rows.push_back(static_cast<int32_t>(row));
      d.offsets.push_back(static_cast<uint32_t>(d.pairs.size()));
    }
    d.pairs.push_back(p);
  }
  if (!l.waiting.empty()) l.retry_us = now_us + kRetryUs;
  for (const auto& [shard, id] : made) {
    Part& part = parts_[id];
    part.rows.offsets.push_back(static_cast<uint32_t>(part.rows.pairs.size()));
    part.rows.share = static_cast<float>(part.rows.pairs.size()) / static_cast<float>(pairs.size());
    SendPart(id, shard, now_us);
    ++stats_.parts;
    const ShardId twin = TwinOf(part, &shards_.at(shard), now_us);
    if (twin == kNoShard) continue;
    part.compare = true;
    SendPart(id, twin, now_us);
  }
}

void ExpertExchange::SendPart(uint64_t part_id, ShardId shard, int64_t now_us) {
  Part& part = parts_.at(part_id);
  const uint64_t id = next_id_++;
  const double units = 1.0 + static_cast<double>(part.rows.pairs.size()) / 16.0;
  const auto patience = static_cast<int64_t>(options_.hedge_factor * latency_us_ * units);
  attempts_[id] = {.shard = shard,
                   .part = part_id,
                   .sent_us = now_us,
                   .hedge_us = now_us + std::max(options_.hedge_min_us, patience),
                   .units = units};
  part.attempts.push_back(id);
  part.tried.push_back(shard);
  if (shard == kOwnShard) {
    attempts_[id].hedge_us = std::numeric_limits<int64_t>::max();  // it is answered at once
    ++stats_.by_own;
  } else {
    ++shards_.at(shard).outstanding;
    ++stats_.dispatches;
  }
  const int64_t left = lanes_.at(part.lane).deadline_us - now_us;
  sends_.push_back({shard, id, part.lane,
                    static_cast<uint32_t>(std::clamp<int64_t>(left, 1, UINT32_MAX)), &part.rows});
}

void ExpertExchange::Forget(uint64_t attempt_id, bool shard_is_gone) {
  const auto it = attempts_.find(attempt_id);
  if (it == attempts_.end()) return;
  if (!shard_is_gone && it->second.shard != kOwnShard) {
    Shard& s = shards_.at(it->second.shard);
    --s.outstanding;
    if (it->second.overdue) --s.overdue;
  }
  if (const auto part = parts_.find(it->second.part); part != parts_.end())
    std::erase(part->second.attempts, attempt_id);
  attempts_.erase(it);
}

void ExpertExchange::Lost(uint64_t part_id, const absl::Status& status, int64_t now_us) {
  const auto it = parts_.find(part_id);
  if (it == parts_.end() || !it->second.attempts.empty()) return;   // another attempt is under way
  if (it->second.filled) return GiveUpComparison(part_id, now_us);  // the twin is gone
  ++stats_.retries;
  const Part part = std::move(it->second);
  Lane& l = lanes_.at(part.lane);
  parts_.erase(it);
  std::erase(l.parts, part_id);
  --l.open_parts;
  const bool full = absl::IsResourceExhausted(status);
  if (full && Choose(part.tried, now_us) == kNoShard) {
    return Fail(part.lane, absl::ResourceExhaustedError("no expert shard has memory or room: " +
                                                        std::string(status.message())));
  }
  Assign(part.lane, part.rows.pairs, part.tried, now_us);
}

std::optional<ExpertExchange::Filled> ExpertExchange::OnReply(ShardId shard, uint64_t dispatch_id,
                                                              const absl::Status& status,
                                                              uint64_t rows_hash, int64_t now_us,
                                                              uint64_t process) {
  const auto it = attempts_.find(dispatch_id);
  if (it == attempts_.end() || it->second.shard != shard) {
    ++stats_.late_replies;
    return std::nullopt;
  }
  const Attempt attempt = it->second;
  if (status.ok() && shard != kOwnShard && !Identify(shard, process)) {
    ++stats_.late_replies;
    TakeBack(shard, now_us);
    return std::nullopt;
  }
  Forget(dispatch_id, false);
  if (shard != kOwnShard) NoteReply(shard, attempt, status, now_us);
  const auto part = parts_.find(attempt.part);
  if (part == parts_.end()) {
    ++stats_.late_replies;
    return std::nullopt;
  }
  if (!status.ok()) {
    const int lane = part->second.lane;
    if (shard == kOwnShard) own_failed_ = true;
    Lost(attempt.part, status, now_us);
    CheckDone(lane);
    return std::nullopt;
  }
  Part& p = part->second;
  const Filled filled{p.lane, &p.rows};
  const uint64_t by = shard == kOwnShard ? 0 : shards_.at(shard).process;
  const bool first = !p.filled;
  if (first) p.filled_by = by;
  p.filled = true;
  if (!p.compare) {
    FinishPart(attempt.part);
    return filled;
  }
  p.replies.push_back({shard, by, rows_hash});
  const bool overrules = CompareReplies(attempt.part, now_us);
  if (first || overrules) return filled;
  return std::nullopt;
}

// What a reply says of its link.
void ExpertExchange::NoteReply(ShardId shard, const Attempt& attempt, const absl::Status& status,
                               int64_t now_us) {
  Shard& s = shards_.at(shard);
  if (status.ok()) {
    const double unit = static_cast<double>(now_us - attempt.sent_us) / attempt.units;
    const double step = std::max(1.0, latency_us_ * 0.05);
    latency_us_ = latency_us_ == 0     ? unit
                  : unit > latency_us_ ? latency_us_ + step * kQuantile
                                       : latency_us_ - step * (1 - kQuantile);
  } else if (absl::IsUnavailable(status)) {
    s.refused_until_us = now_us + kRefusedUs;
  } else if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
             absl::IsInternal(status) || (absl::IsDataLoss(status) && ++s.corrupt >= kCorruptMax)) {
    Block(shard);
  }
}

void ExpertExchange::Block(ShardId shard) {
  const auto it = shards_.find(shard);
  if (it == shards_.end() || it->second.quarantined) return;
  it->second.quarantined = true;
  Replan();
}

// The part itself stays until the batch is done: a caller may still read its rows.
void ExpertExchange::FinishPart(uint64_t part_id) {
  Part& p = parts_.at(part_id);
  for (const uint64_t id : p.attempts) attempts_.at(id).part = 0;
  p.attempts.clear();
  if (p.filled && p.filled_by != 0) provenance_.made_by |= BitOf(p.filled_by);
  Lane& l = lanes_.at(p.lane);
  --l.open_parts;
  CheckDone(p.lane);
}

void ExpertExchange::CheckDone(int lane) {
  Lane& l = lanes_.at(lane);
  if (l.busy && l.open_parts == 0 && l.waiting.empty() && !l.result) l.result = absl::OkStatus();
}

void ExpertExchange::Fail(int lane, absl::Status status) {
  Lane& l = lanes_.at(lane);
  if (!l.busy || l.result) return;
  l.result = std::move(status);
  l.waiting.clear();
}

void ExpertExchange::EndParts(Lane* l) {
  for (const uint64_t id : l->parts) {
    const auto it = parts_.find(id);
    if (it == parts_.end()) continue;
    if (it->second.disputed) Unsettled(it->second);
    for (const uint64_t a : it->second.attempts) attempts_.at(a).part = 0;
    parts_.erase(it);
  }
  l->parts.clear();
}

std::optional<absl::Status> ExpertExchange::TakeResult(int lane) {
  Lane& l = lanes_[lane];
  if (!l.result) return std::nullopt;
  std::optional<absl::Status> result = std::move(l.result);
  std::erase_if(sends_, [&](const Send& s) { return s.lane == lane; });
  EndParts(&l);
  l = {};
  return result;
}

// Asks a second shard, and looks again later: another may have refused meanwhile.
void ExpertExchange::Hedge(uint64_t attempt_id, int64_t now_us) {
  Attempt& a = attempts_.at(attempt_id);
  if (!a.overdue) ++shards_.at(a.shard).overdue;
  a.overdue = true;
  a.hedge_us = now_us + 2 * std::max<int64_t>(1, a.hedge_us - a.sent_us);
  const auto it = parts_.find(a.part);
  if (it == parts_.end()) return;
  Part& part = it->second;
  if (part.filled && !part.disputed) return GiveUpComparison(a.part, now_us);
  for (const uint64_t other : part.attempts) {
    if (!attempts_.at(other).overdue) return;  // somebody is at it
  }
  if (part.disputed) {  // its arbiter is slow
    if (const ShardId next = ArbiterOf(part, now_us); next != kNoShard)
      SendPart(a.part, next, now_us);
    return;
  }
  ShardId next = Choose(part.tried, now_us);
  if (next == kNoShard) {  // then the one that refused longest ago
    std::vector<ShardId> busy;
    for (const uint64_t other : part.attempts) busy.push_back(attempts_.at(other).shard);
    for (auto t = part.tried.rbegin(); t != part.tried.rend(); ++t) {
      const auto shard = shards_.find(*t);
      if (shard == shards_.end() || Contains(busy, *t) || !Usable(shard->second, now_us)) continue;
      busy.push_back(*t);
      next = *t;
    }
  }
  if (next == kNoShard) return;
  ++stats_.hedges;
  SendPart(a.part, next, now_us);
}

void ExpertExchange::OnTick(int64_t now_us) {
  std::vector<uint64_t> slow;
  for (const auto& [id, a] : attempts_) {
    if (a.hedge_us <= now_us && (!a.overdue || a.part != 0)) slow.push_back(id);
  }
  for (const uint64_t id : slow) Hedge(id, now_us);
  for (auto& [lane, l] : lanes_) {
    if (!l.busy || l.result) continue;
    if (now_us >= l.deadline_us) {
      Fail(lane, absl::UnavailableError("no expert shard answered until the deadline"));
    } else if (!l.waiting.empty() && now_us >= l.retry_us) {
      const std::vector<int32_t> pairs = std::move(l.waiting);
      l.waiting.clear();
      Assign(lane, pairs, {}, now_us);
    }
  }
}

bool ExpertExchange::Compares(uint64_t dispatch_id) const {
  const auto it = attempts_.find(dispatch_id);
  if (it == attempts_.end()) return false;
  const auto part = parts_.find(it->second.part);
  return part != parts_.end() && part->second.compare;
}

const DispatchRows* ExpertExchange::RowsOf(uint64_t dispatch_id) const {
  const auto it = attempts_.find(dispatch_id);
  if (it == attempts_.end()) return nullptr;
  const auto part = parts_.find(it->second.part);
  return part == parts_.end() ? nullptr : &part->second.rows;
}

int64_t ExpertExchange::NextTickUs() const {
  int64_t next = std::numeric_limits<int64_t>::max();
  for (const auto& [id, a] : attempts_) {
    if (!a.overdue || a.part != 0) next = std::min(next, a.hedge_us);
  }
  for (const auto& [lane, l] : lanes_) {
    if (!l.busy || l.result) continue;
    next = std::min(next, l.deadline_us);
    if (!l.waiting.empty()) next = std::min(next, l.retry_us);
  }
  return next;
}

int ExpertExchange::num_usable() const {
  return static_cast<int>(std::count_if(shards_.begin(), shards_.end(),
                                        [](const auto& s) { return !s.second.quarantined; }));
}

bool ExpertExchange::quarantined(ShardId shard) const {
  const auto it = shards_.find(shard);
  return it != shards_.end() && it->second.quarantined;
}

}  // namespace tutti::exchange
