#include "shared/router/fleet.h"

#include <algorithm>
#include <limits>

#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::router {
namespace {

constexpr size_t kMaxWorkers = 4096, kMaxModels = 256, kMaxVocabularies = 16, kMaxHints = 8192;
constexpr size_t kMaxQuarantined = 4096;
constexpr size_t kPageTokens = 16;
constexpr size_t kMaxDistrusted = 4096;

// Hashes of the first 1, 2, 4, 8, ... whole pages of a prompt, shortest first.
std::vector<uint64_t> PrefixHashes(std::span<const int32_t> prompt) {
  std::vector<uint64_t> out;
  uint64_t hash = 0;
  size_t done = 0;
  for (size_t pages = 1; pages * kPageTokens <= prompt.size() && pages <= 512; pages *= 2) {
    const size_t end = pages * kPageTokens;
    hash = Hash64(prompt.data() + done, (end - done) * sizeof(int32_t), hash);
    done = end;
    out.push_back(hash);
  }
  return out;
}

// The worker as long as its process lives.
std::string ProcessOf(const WorkerReport& r) {
  return r.worker_id + "@" + r.host + "/" + std::to_string(r.pid);
}

}  // namespace

absl::Status Fleet::OnReport(WorkerHandle handle, const WorkerReport& report, int64_t now_us,
                             Actions* actions) {
  if (report.worker_id.empty() || report.worker_id.size() > 256) {
    return absl::InvalidArgumentError("worker_id: must be 1 to 256 bytes");
  }
  if (report.kind == WorkerKind::kUnknown)
    return absl::InvalidArgumentError("kind: missing or unknown");
  if (report.state == WorkerState::kUnknown || report.state == WorkerState::kDead) {
    return absl::InvalidArgumentError("state: must be STARTING, READY or DRAINING");
  }
  if (report.address.empty() || report.address.size() > 512) {
    return absl::InvalidArgumentError("address: must be 1 to 512 bytes");
  }
  auto it = workers_.find(handle);
  const bool joined = it == workers_.end();
  if (joined) {
    for (auto other = workers_.begin(); other != workers_.end();) {
      if (other->second.report.worker_id ==
          report.worker_id) {  // an earlier life of the same worker
        actions->push_back(action::CloseWorker{other->first});
        WithExperts(actions, [&] { experts_.OnGone(other->first, now_us, actions); });
        other = workers_.erase(other);
      } else {
        ++other;
      }
    }
    if (workers_.size() >= kMaxWorkers) {
      return absl::ResourceExhaustedError("fleet: has " + std::to_string(kMaxWorkers) +
                                          " workers already");
    }
    it = workers_.emplace(handle, Worker{}).first;
    it->second.distrusted = distrusted_.contains(ProcessOf(report));
    if (first_report_us_ < 0) first_report_us_ = now_us;
  }
  Worker& w = it->second;
  const bool changed = joined || w.suspect || w.report.state != report.state ||
                       w.report.address != report.address ||
                       w.report.fingerprint != report.fingerprint ||
                       (report.tokenizer_fingerprint != 0 &&
                        w.report.tokenizer_fingerprint != report.tokenizer_fingerprint);
  if (w.report.address != report.address || w.report.fingerprint != report.fingerprint)
    w.fetched = false;
  w.report = report;
  if (report.tokenizer_fingerprint == 0) w.report.tokenizer_fingerprint = w.learned_fingerprint;
  w.last_report_us = now_us;
  if (w.report.experts != nullptr) {
    const auto wrong = quarantined_.find(w.report.experts->process);
    w.report.quarantined_by = wrong == quarantined_.end() ? "" : wrong->second;
  }
  w.suspect = false;
  w.open_calls_at_report = w.open_calls;
  Fetch(handle, w, now_us, actions);
  if (changed) {
    Changed(actions);
  }
  if (report.kind == WorkerKind::kExpert)
    WithExperts(actions, [&] { experts_.OnReport(handle, w.report, now_us, actions); });
  if (report.kind == WorkerKind::kTarget) Quarantine(report, now_us, actions);
  return absl::OkStatus();
}

// It lasts as long as the process: a shard that is started again has another number. A target that
// lies about shards costs speed alone: others ask them less and compare them more (FleetWatch).
void Fleet::Quarantine(const WorkerReport& target, int64_t now_us, Actions* actions) {
  bool changed = false;
  for (const uint64_t process : target.quarantined) {
    if (process == 0 || quarantined_.contains(process) || quarantined_.size() >= kMaxQuarantined)
      continue;
    quarantined_[process] = target.worker_id;
    for (auto& [handle, w] : workers_) {
      if (w.report.experts == nullptr || w.report.experts->process != process) continue;
      w.report.quarantined_by = target.worker_id;
      newly_quarantined_.push_back(w.report);
      changed = true;
      WithExperts(actions, [&] { experts_.OnReport(handle, w.report, now_us, actions); });
    }
  }
  if (changed) Changed(actions);
}

void Fleet::OnClosed(WorkerHandle handle, int64_t now_us, Actions* actions) {
  WithExperts(actions, [&] { experts_.OnGone(handle, now_us, actions); });
  if (workers_.erase(handle) > 0) Changed(actions);
}

template <typename F>
void Fleet::WithExperts(Actions* actions, F&& fn) {
  const size_t before = actions->size();
  fn();
  for (size_t i = before; i < actions->size(); ++i) {
    auto& directive = std::get<action::Directive>((*actions)[i]);
    directive.epoch = epoch_;
    directive.report_interval_ms = options_.report_interval_ms;
  }
}

absl::StatusOr<placement::ExpertPlacement> Fleet::PinExperts(
    uint64_t fingerprint, const std::vector<ExpertFleet::PinRequest>& pins, bool unpin,
    int64_t now_us, Actions* actions) {
  absl::StatusOr<placement::ExpertPlacement> result;
  WithExperts(actions, [&] { result = experts_.Pin(fingerprint, pins, unpin, now_us, actions); });
  return result;
}

void Fleet::Changed(Actions* actions) {
  ++epoch_;
  for (const auto& [handle, w] : workers_) {
    if (!w.suspect)
      actions->push_back(action::Directive{handle, epoch_, options_.report_interval_ms, nullptr});
  }
}

void Fleet::Fetch(WorkerHandle handle, Worker& w, int64_t now_us, Actions* actions) {
  if (w.fetching || w.fetched || w.report.state != WorkerState::kReady || now_us < w.fetch_again_us)
    return;
  if (w.report.kind == WorkerKind::kTarget) {
    w.fetching = true;
    actions->push_back(action::FetchModel{handle, w.report.address});
  } else if (w.report.kind == WorkerKind::kTokenizer) {
    if (w.report.tokenizer_fingerprint != 0 &&
        vocabularies_.count(w.report.tokenizer_fingerprint) != 0) {
      w.fetched = true;
      return;
    }
    w.fetching = true;
    actions->push_back(action::FetchVocabulary{handle, w.report.address});
  }
}

void Fleet::OnModelInfo(WorkerHandle handle, const absl::StatusOr<ModelInfo>& info,
                        int64_t now_us) {
  const auto it = workers_.find(handle);
  if (it == workers_.end()) return;
  Worker& w = it->second;
  w.fetching = false;
  // A worker that says one fingerprint in reports and another on the wire is not to be used.
  if (!info.ok() || info->fingerprint != w.report.fingerprint || info->vocab_size < 1 ||
      info->context_tokens < 1) {
    w.fetch_again_us = now_us + options_.retry_worker_us;
    return;
  }
  w.fetched = true;
  if (models_.size() >= kMaxModels && models_.count(info->fingerprint) == 0)
    models_.erase(models_.begin());
  ModelInfo known = *info;
  if (!w.report.model.empty()) known.name = w.report.model;
  if (known.tokenizer_fingerprint == 0)
    known.tokenizer_fingerprint = w.report.tokenizer_fingerprint;
  models_[known.fingerprint] = std::move(known);
  ++epoch_;
}

void Fleet::OnVocabulary(WorkerHandle handle, const absl::StatusOr<Vocabulary>& vocabulary,
                         int64_t now_us) {
  const auto it = workers_.find(handle);
  if (it == workers_.end()) return;
  it->second.fetching = false;
  if (!vocabulary.ok() || vocabulary->decoder == nullptr) {
    it->second.fetch_again_us = now_us + options_.retry_worker_us;
    return;
  }
  it->second.fetched = true;
  it->second.report.tokenizer_fingerprint = it->second.learned_fingerprint =
      vocabulary->fingerprint;
  if (vocabularies_.size() >= kMaxVocabularies &&
      vocabularies_.count(vocabulary->fingerprint) == 0) {
    vocabularies_.erase(vocabularies_.begin());
  }
  vocabularies_[vocabulary->fingerprint] = std::make_shared<const Vocabulary>(*vocabulary);
  ++epoch_;
}

bool Fleet::Tick(int64_t now_us, Actions* actions) {
  bool changed = false;
  for (auto it = workers_.begin(); it != workers_.end();) {
    Worker& w = it->second;
    const int64_t silent_us = now_us - w.last_report_us;
    if (silent_us >= options_.dead_after_us) {
      actions->push_back(action::CloseWorker{it->first});
      WithExperts(actions, [&] { experts_.OnGone(it->first, now_us, actions); });
      it = workers_.erase(it);
      changed = true;
      continue;
    }
    if (!w.suspect && silent_us >= options_.suspect_after_us) {
      w.suspect = true;
      changed = true;
    }
    Fetch(it->first, w, now_us, actions);
    ++it;
  }
  if (changed) Changed(actions);
  WithExperts(actions, [&] { experts_.Tick(now_us, actions); });
  return changed;
}

bool Fleet::Usable(const Worker& w) const {
  return w.report.state == WorkerState::kReady && !w.suspect && !w.distrusted && w.fetched;
}

// What it reported, corrected by what we opened and closed since.
int32_t Fleet::LoadOf(const Worker& w) const {
  const int64_t reported =
      std::max<int64_t>(0, int64_t{w.report.load.running} + w.report.load.waiting);
  const int64_t load =
      std::max<int64_t>(w.open_calls, reported + w.open_calls - w.open_calls_at_report);
  return static_cast<int32_t>(std::min<int64_t>(load, 1 << 30));
}

ModelEntry Fleet::EntryOf(const ModelInfo& info) const {
  ModelEntry entry;
  entry.info = info;
  for (const auto& [handle, w] : workers_) {
    if (w.report.kind == WorkerKind::kTarget && w.report.fingerprint == info.fingerprint &&
        Usable(w)) {
      ++entry.ready_targets;
    }
  }
  if (info.tokenizer_fingerprint != 0) {
    const auto it = vocabularies_.find(info.tokenizer_fingerprint);
    if (it != vocabularies_.end()) entry.vocabulary = it->second;
  } else if (vocabularies_.size() == 1) {
    entry.vocabulary = vocabularies_.begin()->second;
  }
  return entry;
}

std::vector<ModelEntry> Fleet::Models() const {
  std::vector<ModelEntry> out;
  for (const auto& [fingerprint, info] : models_) out.push_back(EntryOf(info));
  std::stable_sort(out.begin(), out.end(), [](const ModelEntry& a, const ModelEntry& b) {
    if (a.info.name != b.info.name) return a.info.name < b.info.name;
    return a.ready_targets > b.ready_targets;
  });
  // One entry a name: the one most targets serve.
  out.erase(std::unique(out.begin(), out.end(),
                        [](const ModelEntry& a, const ModelEntry& b) {
                          return a.info.name == b.info.name;
                        }),
            out.end());
  return out;
}

absl::StatusOr<ModelEntry> Fleet::FindModel(std::string_view name) const {
  if (models_.empty()) return absl::UnavailableError("fleet: no target has joined yet");
  std::vector<ModelEntry> models = Models();
  if (name.empty()) {
    if (models.size() == 1) return models[0];
    std::erase_if(models, [](const ModelEntry& m) { return m.ready_targets == 0; });
    if (models.size() == 1) return models[0];
  }
  std::string names;
  for (const ModelEntry& m : models) {
    if (!name.empty() && m.info.name == name) return m;
    if (names.size() < 500) names += (names.empty() ? "" : ", ") + m.info.name;
  }
  if (name.empty())
    return absl::InvalidArgumentError("model: missing; there are several: " + names);
  return absl::NotFoundError("model: there is no \"" + Printable(name) + "\"; there is: " + names);
}

std::optional<ModelEntry> Fleet::FindModel(uint64_t fingerprint) const {
  const auto it = models_.find(fingerprint);
  if (it == models_.end()) return std::nullopt;
  return EntryOf(it->second);
}

WorkerHandle Fleet::PickTarget(uint64_t fingerprint, std::span<const int32_t> prompt,
                               const std::map<WorkerHandle, int64_t>& excluded_until_us,
                               int64_t now_us) {
  // Two rounds: first without those that failed lately, then with them.
  for (const bool second_round : {false, true}) {
    WorkerHandle best = 0;
    int32_t best_load = std::numeric_limits<int32_t>::max();
    std::vector<std::pair<WorkerHandle, int32_t>> open;
    for (const auto& [handle, w] : workers_) {
      if (w.report.kind != WorkerKind::kTarget || w.report.fingerprint != fingerprint || !Usable(w))
        continue;
      const auto excluded = excluded_until_us.find(handle);
      if (excluded != excluded_until_us.end() && now_us < excluded->second) continue;
      if (!second_round && now_us < w.avoid_until_us) continue;
      const int32_t load = LoadOf(w);
      open.emplace_back(handle, load);
      if (load < best_load) {
        best = handle;
        best_load = load;
      }
    }
    if (best == 0) continue;
    const std::vector<uint64_t> hashes = PrefixHashes(prompt);
    for (auto h = hashes.rbegin(); h != hashes.rend(); ++h) {
      const auto hint = hint_index_.find(*h);
      if (hint == hint_index_.end()) continue;
      const auto at = std::find_if(open.begin(), open.end(),
                                   [&](const auto& o) { return o.first == hint->second->worker; });
      if (at == open.end()) continue;
      if (at->second <= best_load + options_.affinity_slack) best = at->first;
      break;
    }
    Remember(prompt, best);
    return best;
  }
  return 0;
}

void Fleet::Remember(std::span<const int32_t> prompt, WorkerHandle handle) {
  for (const uint64_t hash : PrefixHashes(prompt)) {
    const auto it = hint_index_.find(hash);
    if (it != hint_index_.end()) {
      it->second->worker = handle;
      hints_.splice(hints_.begin(), hints_, it->second);
      continue;
    }
    hints_.push_front({hash, handle});
    hint_index_[hash] = hints_.begin();
    if (hints_.size() > kMaxHints) {
      hint_index_.erase(hints_.back().hash);
      hints_.pop_back();
    }
  }
}

WorkerHandle Fleet::PickTokenizer(uint64_t fingerprint,
                                  const std::map<WorkerHandle, int64_t>& excluded_until_us,
                                  int64_t now_us) const {
  return PickLeastLoaded(WorkerKind::kTokenizer, fingerprint, excluded_until_us, now_us);
}

WorkerHandle Fleet::PickDraft(uint64_t tokenizer_fingerprint,
                              const std::map<WorkerHandle, int64_t>& excluded_until_us,
                              int64_t now_us) const {
  if (tokenizer_fingerprint == 0) return 0;
  return PickLeastLoaded(WorkerKind::kDraft, tokenizer_fingerprint, excluded_until_us, now_us);
}

WorkerHandle Fleet::DraftTimedWithout(uint64_t tokenizer_fingerprint, int64_t now_us) const {
  for (const auto& [handle, w] : workers_) {
    if (w.report.kind == WorkerKind::kDraft &&
        w.report.tokenizer_fingerprint == tokenizer_fingerprint && w.trial &&
        w.trial->timing_without(now_us)) {
      return handle;
    }
  }
  return 0;
}

// After a pause one sequence is enough to see whether it is a help now.
bool Fleet::MayDraft(const Worker& w, int64_t now_us) const {
  return !w.trial || (!w.trial->paused(now_us) && (!w.trial->on_trial() || w.open_calls == 0));
}

bool Fleet::IsDraftPaused(WorkerHandle draft, int64_t now_us) const {
  const auto it = workers_.find(draft);
  return it == workers_.end() || (it->second.trial && it->second.trial->paused(now_us));
}

void Fleet::NoteDraftUse(WorkerHandle draft, const DraftUse& use, int64_t now_us) {
  const auto it = workers_.find(draft);
  if (it == workers_.end()) return;
  Worker& w = it->second;
  if (!w.trial) {
    w.trial.emplace(DraftTrial::Options{.window = options_.draft_trial_tokens,
                                        .least_share = options_.draft_least_share,
                                        .pause_us = options_.draft_pause_us,
                                        .pause_most_us = options_.draft_pause_most_us});
  }
  const auto target = workers_.find(use.target);
  w.trial->Note({.count = use.tokens,
                 .accepted = use.accepted,
                 .us = use.us,
                 .drafted = use.drafted,
                 .num_drafted = w.open_calls,
                 .num_choices = target == workers_.end() ? 1 : target->second.open_calls},
                now_us);
}

WorkerHandle Fleet::PickLeastLoaded(WorkerKind kind, uint64_t fingerprint,
                                    const std::map<WorkerHandle, int64_t>& excluded_until_us,
                                    int64_t now_us) const {
  WorkerHandle best = 0;
  std::pair<bool, int32_t> best_load;
  for (const auto& [handle, w] : workers_) {
    if (w.report.kind != kind || w.report.state != WorkerState::kReady || w.suspect) continue;
    if (fingerprint != 0 && w.report.tokenizer_fingerprint != fingerprint) continue;
    if (kind == WorkerKind::kDraft && !MayDraft(w, now_us)) continue;
    const auto excluded = excluded_until_us.find(handle);
    if (excluded != excluded_until_us.end() && now_us < excluded->second) continue;
    const std::pair<bool, int32_t> load(now_us < w.avoid_until_us, LoadOf(w));
    if (best == 0 || load < best_load) {
      best = handle;
      best_load = load;
    }
  }
  return best;
}

bool Fleet::HasTarget(uint64_t fingerprint,
                      const std::map<WorkerHandle, int64_t>& excluded_until_us) const {
  for (const auto& [handle, w] : workers_) {
    if (w.report.kind != WorkerKind::kTarget || w.report.fingerprint != fingerprint || !Usable(w))
      continue;
    const auto excluded = excluded_until_us.find(handle);
    if (excluded == excluded_until_us.end() ||
        excluded->second != std::numeric_limits<int64_t>::max())
      return true;
  }
  return false;
}

void Fleet::AddOpenCalls(WorkerHandle handle, int delta) {
  const auto it = workers_.find(handle);
  if (it != workers_.end()) it->second.open_calls = std::max(0, it->second.open_calls + delta);
}

void Fleet::NoteFailure(WorkerHandle handle, int64_t now_us) {
  const auto it = workers_.find(handle);
  if (it != workers_.end()) it->second.avoid_until_us = now_us + options_.retry_worker_us;
}

void Fleet::Avoid(WorkerHandle handle, int64_t until_us) {
  const auto it = workers_.find(handle);
  if (it != workers_.end())
    it->second.avoid_until_us = std::max(it->second.avoid_until_us, until_us);
}

void Fleet::Distrust(WorkerHandle handle, absl::Status why) {
  const auto it = workers_.find(handle);
  if (it == workers_.end() || it->second.distrusted) return;
  it->second.distrusted = true;
  if (distrusted_.size() >= kMaxDistrusted) distrusted_.erase(distrusted_.begin());
  distrusted_.insert(ProcessOf(it->second.report));
  newly_distrusted_.push_back({it->second.report, std::move(why)});
  ++epoch_;
}

bool Fleet::IsUsable(WorkerHandle handle) const {
  const auto it = workers_.find(handle);
  return it != workers_.end() && Usable(it->second);
}

const std::string& Fleet::AddressOf(WorkerHandle handle) const {
  static const std::string kNone;
  const auto it = workers_.find(handle);
  return it == workers_.end() ? kNone : it->second.report.address;
}

std::string Fleet::IdOf(WorkerHandle handle) const {
  const auto it = workers_.find(handle);
  return it == workers_.end() ? "?" : it->second.report.worker_id;
}

bool Fleet::IsSuspect(WorkerHandle handle) const {
  const auto it = workers_.find(handle);
  return it == workers_.end() || it->second.suspect;
}

std::vector<WorkerView> Fleet::View() const {
  std::vector<WorkerView> out;
  for (const auto& [handle, w] : workers_) out.push_back({handle, w.report, w.suspect});
  return out;
}

}  // namespace tutti::router
