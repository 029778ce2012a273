#include "shared/router/fleet.h"

#include <algorithm>
#include <limits>

#include "shared/base/hash.h"
#include "shared/base/secret.h"
#include "shared/base/strings.h"

namespace tutti::router {
namespace {

constexpr size_t kMaxWorkers = 4096, kMaxHints = 8192;
constexpr uint64_t kMaxExperts = 1 << 22;  // of a model
constexpr size_t kMaxAliases = 16;         // of a model's name
constexpr size_t kMaxQuarantined = 4096;
constexpr size_t kPageTokens = 16;

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

}  // namespace

absl::Status Fleet::CheckReport(const WorkerReport& report) const {
  const auto bad = [](const char* what) {
    return WithReason(absl::InvalidArgumentError(what), "BAD_REPORT");
  };
  if (report.worker_id.empty() || report.worker_id.size() > 256)
    return bad("worker_id: must be 1 to 256 bytes");
  if (report.kind == WorkerKind::kUnknown) return bad("kind: missing or unknown");
  if (report.state == WorkerState::kUnknown || report.state == WorkerState::kDead)
    return bad("state: must be STARTING, READY or DRAINING");
  if (report.address.empty() || report.address.size() > 512)
    return bad("address: must be 1 to 512 bytes");
  if (report.metrics_address.size() > 512 || report.host.size() > 512 ||
      report.model.size() > 512 || report.process_nonce.size() > 64 ||
      report.vocabulary_digest.size() > 64) {
    return bad(
        "metrics_address, host, model: at most 512 bytes; process_nonce, vocabulary_digest: 64");
  }
  if (report.model_aliases.size() > kMaxAliases ||
      std::any_of(report.model_aliases.begin(), report.model_aliases.end(),
                  [](const std::string& a) { return a.empty() || a.size() > 256; })) {
    return bad("model_aliases: at most 16 of 1 to 256 bytes");
  }
  if (report.expert_shape.has_value() &&
      uint64_t{report.expert_shape->num_layers} * report.expert_shape->experts_per_layer >
          kMaxExperts) {
    return bad("expert_shape: more experts than a model may have");
  }
  return absl::OkStatus();
}

// What a process is does not change while it lives; what it has not said yet may come.
absl::Status Fleet::CheckSameWorker(const WorkerReport& before, const WorkerReport& now) const {
  const auto changed = [](const char* field) {
    return WithReason(absl::InvalidArgumentError(std::string(field) +
                                                 ": changed in the stream; another process, or "
                                                 "another model, joins with a stream of its own"),
                      "WORKER_CHANGED");
  };
  if (before.worker_id != now.worker_id) return changed("worker_id");
  if (before.kind != now.kind) return changed("kind");
  if (before.process_nonce != now.process_nonce) return changed("process_nonce");
  if (before.fingerprint != 0 && before.fingerprint != now.fingerprint)
    return changed("fingerprint");
  if (before.tokenizer_fingerprint != 0 &&
      before.tokenizer_fingerprint != now.tokenizer_fingerprint)
    return changed("tokenizer_fingerprint");
  if (!before.vocabulary_digest.empty() && before.vocabulary_digest != now.vocabulary_digest)
    return changed("vocabulary_digest");
  return absl::OkStatus();
}

// `known`: a target has told what the model has.
absl::Status Fleet::CheckExperts(const WorkerReport& report, bool* known) const {
  *known = false;
  for (const auto& [fingerprint, m] : models_) {
    if (!m.experts.has_value() || m.experts->fingerprint != report.fingerprint) continue;
    *known = true;
    if (m.experts->num_layers == report.experts->num_layers &&
        m.experts->experts_per_layer == report.experts->experts_per_layer) {
      continue;
    }
    return WithReason(absl::FailedPreconditionError(
                          "experts: " + std::to_string(report.experts->num_layers) + " layers of " +
                          std::to_string(report.experts->experts_per_layer) + "; the model has " +
                          std::to_string(m.experts->num_layers) + " of " +
                          std::to_string(m.experts->experts_per_layer) + ", as its targets say"),
                      "EXPERTS_MISMATCH");
  }
  return absl::OkStatus();
}

absl::Status Fleet::OnReport(WorkerHandle handle, const WorkerReport& report, int64_t now_us,
                             Actions* actions) {
  TUTTI_RETURN_IF_ERROR(CheckReport(report));
  bool experts_known = false;
  const bool has_experts = report.kind == WorkerKind::kExpert && report.experts != nullptr;
  if (has_experts) TUTTI_RETURN_IF_ERROR(CheckExperts(report, &experts_known));
  auto it = workers_.find(handle);
  const bool joined = it == workers_.end();
  if (joined) {
    const auto other = std::find_if(workers_.begin(), workers_.end(), [&](const auto& w) {
      return w.second.report.worker_id == report.worker_id;
    });
    if (other != workers_.end()) {
      if (!SameSecret(other->second.report.process_nonce, report.process_nonce)) {
        return WithReason(
            absl::AlreadyExistsError("worker_id: " + Printable(report.worker_id) +
                                     " is another process that is there; it is free again when "
                                     "that one's stream ends"),
            "WORKER_ID_TAKEN");
      }
      // The same process joins again: its old stream is lost, and not known to be yet.
      actions->push_back(action::CloseWorker{other->first});
      WithExperts(actions, [&] { experts_.OnGone(other->first, now_us, actions); });
      workers_.erase(other);
    }
    if (workers_.size() >= kMaxWorkers) {
      return WithReason(absl::ResourceExhaustedError("fleet: has " + std::to_string(kMaxWorkers) +
                                                     " workers already"),
                        "TOO_MANY_WORKERS");
    }
    it = workers_.emplace(handle, Worker{}).first;
    it->second.distrusted = IsDistrustedProcess(report);
    if (first_report_us_ < 0) first_report_us_ = now_us;
  } else {
    TUTTI_RETURN_IF_ERROR(CheckSameWorker(it->second.report, report));
  }
  Worker& w = it->second;
  const bool changed = joined || w.suspect || w.report.state != report.state ||
                       w.report.address != report.address ||
                       w.report.fingerprint != report.fingerprint ||
                       w.report.tokenizer_fingerprint != report.tokenizer_fingerprint;
  if (w.report.address != report.address || w.report.fingerprint != report.fingerprint)
    w.fetched = w.proven = false;
  w.report = report;
  w.report.refused = WhyNoWork(w);
  w.last_report_us = now_us;
  if (w.report.experts != nullptr) {
    const auto wrong = quarantined_.find(w.report.experts->process);
    w.report.quarantined_by = wrong == quarantined_.end() ? "" : wrong->second;
  }
  w.suspect = report.load.hung();
  w.open_calls_at_report = w.open_calls;
  Fetch(handle, w, now_us, actions);
  if (changed) {
    Changed(actions);
  }
  if (has_experts && !experts_known) {
    // Nobody says yet that there are such experts: the columns come again with the next report.
    auto without = std::make_shared<placement::ExpertReport>(*report.experts);
    without->entries = {};
    w.report.experts = std::move(without);
  } else if (report.kind == WorkerKind::kExpert) {
    WithExperts(actions, [&] { experts_.OnReport(handle, w.report, now_us, actions); });
  }
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
      WithExperts(actions, [&, shard = handle, &report = w.report] {
        experts_.OnReport(shard, report, now_us, actions);
      });
    }
  }
  if (changed) Changed(actions);
}

void Fleet::OnClosed(WorkerHandle handle, int64_t now_us, Actions* actions) {
  WithExperts(actions, [&] { experts_.OnGone(handle, now_us, actions); });
  if (workers_.erase(handle) == 0) return;
  UpdateModels(now_us);
  Changed(actions);
}

template <typename F>
void Fleet::WithExperts(Actions* actions, F&& fn) {
  const size_t before = actions->size();
  fn();
  for (size_t i = before; i < actions->size(); ++i) {
    auto& directive = std::get<action::Directive>((*actions)[i]);
    directive.epoch = epoch_;
    directive.report_interval_ms = options_.report_interval_ms;
    directive.draining = draining_;
  }
}

absl::StatusOr<placement::ExpertPlacement> Fleet::PinExperts(
    uint64_t fingerprint, const std::vector<ExpertFleet::PinRequest>& pins, bool unpin,
    int64_t now_us, Actions* actions) {
  absl::StatusOr<placement::ExpertPlacement> result;
  WithExperts(actions, [&] { result = experts_.Pin(fingerprint, pins, unpin, now_us, actions); });
  return result;
}

void Fleet::Drain(Actions* actions) {
  draining_ = true;
  Changed(actions);
}

void Fleet::Changed(Actions* actions) {
  ++epoch_;
  for (const auto& [handle, w] : workers_) {
    if (!w.suspect) {
      actions->push_back(
          action::Directive{handle, epoch_, options_.report_interval_ms, nullptr, draining_});
    }
  }
}

void Fleet::Fetch(WorkerHandle handle, Worker& w, int64_t now_us, Actions* actions) {
  if (w.fetching || w.fetched || w.report.state != WorkerState::kReady || now_us < w.fetch_again_us)
    return;
  if (w.report.kind == WorkerKind::kTarget) {
    w.fetching = true;
    actions->push_back(action::FetchModel{handle, w.report.address});
  } else if (w.report.kind == WorkerKind::kTokenizer) {
    // Asked for once a model needs it, so that nothing is held for nobody.
    auto bound = vocabularies_.find(w.report.tokenizer_fingerprint);
    if (bound == vocabularies_.end()) bound = vocabularies_.find(0);
    if (bound == vocabularies_.end() || w.vocabulary != nullptr) return;
    const auto& have = bound->second.vocabulary;
    if (have != nullptr && have->fingerprint == w.report.tokenizer_fingerprint &&
        have->digest == w.report.vocabulary_digest) {
      w.fetched = true;
      return;
    }
    if (have != nullptr && bound->first == 0) return;  // another one serves those models
    w.fetching = true;
    actions->push_back(action::FetchVocabulary{handle, w.report.address});
  }
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
  UpdateModels(now_us);
  if (changed) Changed(actions);
  WithExperts(actions, [&] { experts_.Tick(now_us, actions); });
  return changed;
}

// What it reported, corrected by what we opened and closed since.
int32_t Fleet::LoadOf(const Worker& w) const {
  const int64_t reported =
      std::max<int64_t>(0, int64_t{w.report.load.running} + w.report.load.waiting);
  const int64_t load =
      std::max<int64_t>(w.open_calls, reported + w.open_calls - w.open_calls_at_report);
  return static_cast<int32_t>(std::min<int64_t>(load, 1 << 30));
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
  if (fingerprint == 0) {  // of a model without one: whose vocabulary it was given
    const auto bound = vocabularies_.find(0);
    if (bound != vocabularies_.end() && bound->second.vocabulary != nullptr)
      fingerprint = bound->second.vocabulary->fingerprint;
  }
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
    if (!w.refused.ok() || (kind == WorkerKind::kTokenizer && !Usable(w))) continue;
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
