// Which workers may have work: who was refused, who computes wrong, who is still to be examined.
#include "shared/router/fleet.h"

namespace tutti::router {
namespace {

constexpr size_t kMaxDistrusted = 4096;
constexpr char kComputesWrong[] = "it computes wrong; see the router's log";

// The worker as long as its process lives.
std::string ProcessOf(const WorkerReport& r) {
  if (!r.process_nonce.empty()) return r.worker_id + "@" + r.process_nonce;
  return r.worker_id + "@" + r.host + "/" + std::to_string(r.pid);
}

}  // namespace

bool Fleet::Ready(const Worker& w) const {
  return w.report.state == WorkerState::kReady && !w.suspect && !w.distrusted && w.fetched &&
         w.refused.ok();
}

bool Fleet::Usable(const Worker& w) const {
  return Ready(w) && (w.proven || options_.exam_tokens == 0);
}

bool Fleet::IsUsable(WorkerHandle handle) const {
  const auto it = workers_.find(handle);
  return it != workers_.end() && Usable(it->second);
}

std::string Fleet::WhyNoWork(const Worker& w) const {
  if (w.distrusted) return kComputesWrong;
  if (!w.refused.ok()) return std::string(w.refused.message());
  return w.disputed;
}

bool Fleet::IsDistrustedProcess(const WorkerReport& report) const {
  return distrusted_.contains(ProcessOf(report));
}

void Fleet::Distrust(WorkerHandle handle, absl::Status why) {
  const auto it = workers_.find(handle);
  if (it == workers_.end() || it->second.distrusted) return;
  Worker& w = it->second;
  w.distrusted = true;
  w.proven = false;
  w.report.refused = WhyNoWork(w);
  if (distrusted_.size() >= kMaxDistrusted) distrusted_.erase(distrusted_.begin());
  distrusted_.insert(ProcessOf(w.report));
  newly_distrusted_.push_back({w.report, std::move(why)});
  ++epoch_;
}

std::vector<Fleet::Candidate> Fleet::Candidates() const {
  std::vector<Candidate> out;
  for (const auto& [handle, w] : workers_) {
    if (w.distrusted || !w.fetched) continue;
    Candidate c{.handle = handle,
                .kind = w.report.kind,
                .usable = Ready(w),
                .proven = w.proven,
                .disputed = !w.disputed.empty()};
    if (w.report.kind == WorkerKind::kTarget) {
      const auto model = models_.find(w.report.fingerprint);
      if (model == models_.end()) continue;
      c.fingerprint = w.report.fingerprint;
      c.vocab_size = model->second.info.vocab_size;
    } else if (w.report.kind == WorkerKind::kTokenizer) {
      c.fingerprint = w.report.tokenizer_fingerprint;
    } else {
      continue;
    }
    out.push_back(c);
  }
  return out;
}

void Fleet::SetProven(WorkerHandle handle) {
  const auto it = workers_.find(handle);
  if (it == workers_.end() || it->second.distrusted || it->second.proven) return;
  it->second.proven = true;
  it->second.disputed.clear();
  it->second.report.refused = WhyNoWork(it->second);
  ++epoch_;
}

void Fleet::SetDisputed(WorkerHandle handle, std::string why) {
  const auto it = workers_.find(handle);
  if (it == workers_.end() || it->second.disputed == why) return;
  it->second.disputed = std::move(why);
  it->second.report.refused = WhyNoWork(it->second);
  ++epoch_;
}

}  // namespace tutti::router
