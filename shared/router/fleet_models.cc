// Models and vocabularies as the fleet believes them: a target says what its file has, and nothing
// that another worker says later replaces it.
#include <algorithm>

#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/router/fleet.h"

namespace tutti::router {
namespace {

constexpr size_t kMaxRefusals = 4096, kMaxModels = 256, kMaxIdleModels = 16;
constexpr int64_t kLookAgainUs = 5'000'000;  // at a worker that was refused

}  // namespace

void Fleet::Refuse(Worker& w, absl::Status why, int64_t now_us) {
  w.fetched = false;
  w.vocabulary = nullptr;
  w.fetch_again_us = now_us + kLookAgainUs;  // what it contradicts may go
  if (w.refused == why) return;
  w.refused = std::move(why);
  w.report.refused = WhyNoWork(w);
  if (refusals_.size() < kMaxRefusals) refusals_.push_back({w.report, w.refused});
  ++epoch_;
}

void Fleet::Accept(Worker& w) {
  w.fetched = true;
  w.refused = absl::OkStatus();
  w.report.refused = WhyNoWork(w);
  ++epoch_;
}

absl::Status Fleet::Learn(const Worker& w, ModelInfo info, int64_t now_us) {
  const auto contradiction = [&](const std::string& what) {
    return WithReason(absl::DataLossError(what + ": not as the other targets of model " +
                                          Hex64(info.fingerprint) + " say"),
                      "MODEL_MISMATCH");
  };
  const std::string& digest = w.report.vocabulary_digest;
  if (info.tokenizer_fingerprint != 0 && digest.empty()) {
    return WithReason(absl::FailedPreconditionError(
                          "vocabulary_digest: missing, with a tokenizer_fingerprint; a tokenizer "
                          "could not be checked"),
                      "BAD_REPORT");
  }
  const auto bound = vocabularies_.find(info.tokenizer_fingerprint);
  auto it = models_.find(info.fingerprint);
  const bool only_ours = it == models_.end() || !it->second.in_use;
  // A vocabulary that other models in use have is not this target's to change.
  if (info.tokenizer_fingerprint != 0 && bound != vocabularies_.end() &&
      bound->second.digest != digest) {
    for (const auto& [fingerprint, m] : models_) {
      if (m.in_use && m.info.tokenizer_fingerprint == info.tokenizer_fingerprint)
        return contradiction("vocabulary_digest");
    }
  }
  if (w.report.expert_shape.has_value()) {
    for (const auto& [fingerprint, m] : models_) {
      if (m.in_use && m.experts.has_value() &&
          m.experts->fingerprint == w.report.expert_shape->fingerprint &&
          *m.experts != *w.report.expert_shape) {
        return contradiction("expert_shape");
      }
    }
  }
  if (!only_ours) {
    Model& m = it->second;
    if (m.info.tokenizer_fingerprint != info.tokenizer_fingerprint)
      return contradiction("tokenizer_fingerprint");
    if (m.info.vocab_size != info.vocab_size) return contradiction("vocab_size");
    if (m.info.eos_ids != info.eos_ids) return contradiction("eos_ids");
    if (!m.experts.has_value()) m.experts = w.report.expert_shape;
    return absl::OkStatus();
  }
  const auto in_use =
      std::count_if(models_.begin(), models_.end(), [](const auto& m) { return m.second.in_use; });
  if (static_cast<size_t>(in_use) >= kMaxModels) {
    return WithReason(absl::ResourceExhaustedError("fleet: has " + std::to_string(kMaxModels) +
                                                   " models already"),
                      "TOO_MANY_MODELS");
  }
  Model& m = models_[info.fingerprint];
  if (m.since_us == 0) m.since_us = now_us;
  m.until_us = now_us;
  m.in_use = true;
  m.info = std::move(info);
  m.vocabulary_digest = digest;
  m.experts = w.report.expert_shape;
  const uint64_t tokenizer = m.info.tokenizer_fingerprint;
  if (bound == vocabularies_.end() || (tokenizer != 0 && bound->second.digest != digest)) {
    vocabularies_[tokenizer] = {tokenizer != 0 ? digest : "", nullptr};
    for (auto& [handle, other] : workers_) {  // to be compared with this one
      if (other.report.kind == WorkerKind::kTokenizer &&
          (tokenizer == 0 || other.report.tokenizer_fingerprint == tokenizer))
        other.fetched = false;
    }
  }
  return absl::OkStatus();
}

void Fleet::OnModelInfo(WorkerHandle handle, const absl::StatusOr<ModelInfo>& info,
                        int64_t now_us) {
  const auto it = workers_.find(handle);
  if (it == workers_.end()) return;
  Worker& w = it->second;
  w.fetching = false;
  if (!info.ok()) {
    w.fetch_again_us = now_us + options_.retry_worker_us;
    return;
  }
  // A worker that says one thing in reports and another on the wire is not to be used.
  if (info->fingerprint != w.report.fingerprint || info->vocab_size < 1 ||
      info->context_tokens < 1 ||
      (info->tokenizer_fingerprint != 0 && w.report.tokenizer_fingerprint != 0 &&
       info->tokenizer_fingerprint != w.report.tokenizer_fingerprint)) {
    return Refuse(w,
                  WithReason(absl::DataLossError("GetModel: another model than in reports, or one "
                                                 "without vocabulary or context"),
                             "MODEL_MISMATCH"),
                  now_us);
  }
  ModelInfo known = *info;
  if (!w.report.model.empty()) known.name = w.report.model;
  known.aliases = w.report.model_aliases;
  if (known.tokenizer_fingerprint == 0)
    known.tokenizer_fingerprint = w.report.tokenizer_fingerprint;
  UpdateModels(now_us);
  if (absl::Status why = Learn(w, std::move(known), now_us); !why.ok())
    return Refuse(w, std::move(why), now_us);
  Accept(w);
  for (auto& [other, tokenizer] : workers_) {
    if (tokenizer.vocabulary != nullptr) Bind(tokenizer, now_us);
  }
}

void Fleet::Bind(Worker& w, int64_t now_us) {
  const uint64_t fingerprint = w.vocabulary->fingerprint;
  auto bound = vocabularies_.find(fingerprint);
  if (bound == vocabularies_.end()) bound = vocabularies_.find(0);
  if (bound == vocabularies_.end()) return;
  auto& [digest, have] = bound->second;
  if (bound->first == 0) {  // no file to compare with: the first one stays
    if (have != nullptr &&
        (have->fingerprint != fingerprint || have->digest != w.vocabulary->digest))
      return;
  } else if (digest != w.vocabulary->digest) {
    return Refuse(
        w,
        WithReason(absl::DataLossError("vocabulary of tokenizer " + Hex64(fingerprint) +
                                       ": not what the model's targets read from their own file"),
                   "VOCABULARY_MISMATCH"),
        now_us);
  }
  if (have == nullptr) have = w.vocabulary;
  w.vocabulary = nullptr;
  Accept(w);
}

void Fleet::OnVocabulary(WorkerHandle handle, const absl::StatusOr<Vocabulary>& vocabulary,
                         int64_t now_us) {
  const auto it = workers_.find(handle);
  if (it == workers_.end()) return;
  Worker& w = it->second;
  w.fetching = false;
  if (!vocabulary.ok() || vocabulary->decoder == nullptr) {
    w.fetch_again_us = now_us + options_.retry_worker_us;
    return;
  }
  if (vocabulary->fingerprint != w.report.tokenizer_fingerprint ||
      (!w.report.vocabulary_digest.empty() && vocabulary->digest != w.report.vocabulary_digest)) {
    return Refuse(w,
                  WithReason(absl::DataLossError("GetVocabulary: tokenizer " +
                                                 Hex64(vocabulary->fingerprint) +
                                                 ", or its content, is not as in reports"),
                             "VOCABULARY_MISMATCH"),
                  now_us);
  }
  w.vocabulary = std::make_shared<const Vocabulary>(*vocabulary);
  Bind(w, now_us);
}

void Fleet::UpdateModels(int64_t now_us) {
  std::set<uint64_t> live;
  for (const auto& [handle, w] : workers_) {
    if (w.report.kind == WorkerKind::kTarget && w.fetched) live.insert(w.report.fingerprint);
  }
  size_t idle = 0;
  for (auto& [fingerprint, m] : models_) {
    m.in_use = live.contains(fingerprint);
    if (m.in_use) m.until_us = now_us;
    idle += m.in_use ? 0 : 1;
  }
  bool forgot = false;
  for (; idle > kMaxIdleModels; --idle, forgot = true) {
    // The one that was served for the shortest time: passers-by do not push out what served long.
    auto least = models_.end();
    for (auto it = models_.begin(); it != models_.end(); ++it) {
      if (it->second.in_use) continue;
      if (least == models_.end() || it->second.until_us - it->second.since_us <
                                        least->second.until_us - least->second.since_us)
        least = it;
    }
    models_.erase(least);
  }
  if (!forgot) return;
  std::set<uint64_t> tokenizers, experts;
  for (const auto& [fingerprint, m] : models_) {
    tokenizers.insert(m.info.tokenizer_fingerprint);
    if (m.experts.has_value()) experts.insert(m.experts->fingerprint);
  }
  std::erase_if(vocabularies_, [&](const auto& v) { return !tokenizers.contains(v.first); });
  experts_.KeepOnly(experts);
  ++epoch_;
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
  const auto it = vocabularies_.find(info.tokenizer_fingerprint);
  if (it != vocabularies_.end()) entry.vocabulary = it->second.vocabulary;
  return entry;
}

std::vector<ModelEntry> Fleet::Models() const {
  std::vector<ModelEntry> out;
  for (const auto& [fingerprint, m] : models_) out.push_back(EntryOf(m.info));
  std::stable_sort(out.begin(), out.end(), [](const ModelEntry& a, const ModelEntry& b) {
    if (a.info.name != b.info.name) return a.info.name < b.info.name;
    return a.ready_targets > b.ready_targets;
  });
  // Of models with the same name, the model that most targets serve.
  out.erase(std::unique(out.begin(), out.end(),
                        [](const ModelEntry& a, const ModelEntry& b) {
                          return a.info.name == b.info.name;
                        }),
            out.end());
  return out;
}

namespace {
// A name with spaces, as files have it, stands for the word that is made of it.
bool IsNamed(const ModelInfo& info, std::string_view name) {
  return info.name == name || info.name == OneWord(name) ||
         std::find(info.aliases.begin(), info.aliases.end(), name) != info.aliases.end();
}
}  // namespace

absl::StatusOr<ModelEntry> Fleet::FindModel(std::string_view name) const {
  if (models_.empty()) return absl::UnavailableError("fleet: no target has joined yet");
  std::vector<ModelEntry> models = Models();
  if (name.empty()) {
    if (models.size() == 1) return models[0];
    // Those that can serve; where none can, those whose targets are there; else the last that
    // could.
    const auto ready = [](const ModelEntry& m) { return m.ready_targets > 0; };
    const auto used = [&](const ModelEntry& m) { return models_.at(m.info.fingerprint).in_use; };
    if (std::any_of(models.begin(), models.end(), ready)) {
      std::erase_if(models, [&](const ModelEntry& m) { return !ready(m); });
    } else if (std::any_of(models.begin(), models.end(), used)) {
      std::erase_if(models, [&](const ModelEntry& m) { return !used(m); });
    } else {
      const auto until = [&](const ModelEntry& m) {
        return models_.at(m.info.fingerprint).until_us;
      };
      return *std::max_element(
          models.begin(), models.end(),
          [&](const ModelEntry& a, const ModelEntry& b) { return until(a) < until(b); });
    }
    if (models.size() == 1) return models[0];
  }
  std::string names;
  for (const ModelEntry& m : models) {
    if (!name.empty() && IsNamed(m.info, name)) return m;
    if (names.size() < 500) names += (names.empty() ? "" : ", ") + m.info.name;
  }
  if (name.empty())
    return absl::InvalidArgumentError("model: missing; there are several: " + names);
  return absl::NotFoundError("model: there is no \"" + Printable(name) + "\"; there is: " + names);
}

std::optional<ModelEntry> Fleet::FindModel(uint64_t fingerprint) const {
  const auto it = models_.find(fingerprint);
  if (it == models_.end()) return std::nullopt;
  return EntryOf(it->second.info);
}

}  // namespace tutti::router
