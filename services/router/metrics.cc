#include "services/router/metrics.h"

#include <chrono>

#include "shared/base/strings.h"
#include "shared/router/router.h"
#include "shared/rpc/cluster_auth.h"
#include "shared/telemetry/log.h"

namespace tutti::router {
namespace {

using telemetry::Level;
using telemetry::Log;

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
  }
  return "none";
}

const char* Name(WorkerKind kind) {
  static constexpr const char* kNames[] = {"unknown", "tokenizer", "target", "draft",
                                           "expert",  "retrieval", "reward"};
  return kNames[static_cast<size_t>(kind)];
}

const char* Name(WorkerState state) {
  static constexpr const char* kNames[] = {"unknown", "starting", "ready", "draining", "dead"};
  return kNames[static_cast<size_t>(state)];
}

constexpr size_t kMaxModelCounts = 1000;

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

}  // namespace

RouterMetrics::RouterMetrics(telemetry::Metrics* metrics)
    : m_(*metrics),
      live_(m_.Gauge("tutti_router_requests_live", "Requests with a client, running or waiting")),
      choices_(m_.Gauge("tutti_router_choices_live", "Choices of live requests")),
      waiting_(
          m_.Gauge("tutti_router_choices_waiting", "Choices that wait for a tokenizer or target")),
      calls_(m_.Gauge("tutti_router_calls_open", "Open calls to workers")),
      streams_(m_.Gauge("tutti_router_streams_open", "Client streams")),
      ttft_(m_.Latency("tutti_router_time_to_first_token_seconds",
                       "From a request's arrival to its first token")),
      e2e_(m_.Latency("tutti_router_request_seconds",
                      "From a request's arrival to its end, failures too")),
      itl_(m_.Latency("tutti_router_inter_token_seconds", "Between tokens of one choice")),
      encode_(m_.Latency("tutti_router_encode_seconds", "Calls to the tokenizer")),
      queue_(m_.Latency("tutti_router_queue_seconds", "A choice's wait in the target's queue")),
      prefill_(m_.Latency("tutti_router_prefill_seconds", "A choice's prefill in the target")),
      decode_(m_.Latency("tutti_router_decode_seconds", "A choice's decoding in the target")),
      prompt_tokens_(
          m_.Counter("tutti_router_prompt_tokens_total", "Prompt tokens of ended requests")),
      output_tokens_(
          m_.Counter("tutti_router_output_tokens_total", "Output tokens of ended requests")),
      cached_tokens_(
          m_.Counter("tutti_router_cached_tokens_total", "Prompt tokens found in a prefix cache")),
      failovers_(m_.Counter("tutti_router_failovers_total",
                            "Decoders lost under a choice that went on elsewhere")),
      contradictions_(m_.Counter("tutti_router_contradictions_total",
                                 "Tokens or digests on which two decoders disagreed; must stay 0")),
      preemptions_(m_.Counter("tutti_router_preemptions_total", "Preemptions in targets")),
      journal_errors_(
          m_.Counter("tutti_router_journal_errors_total", "Journal writes that failed")),
      token_refusals_(m_.Counter("tutti_router_cluster_calls_refused_total",
                                 "Calls of the cluster's listener without its token")) {}

prometheus::Counter& RouterMetrics::Requests(const std::string& code, const std::string& reason) {
  prometheus::Counter*& c = requests_[{code, reason}];
  if (c == nullptr) {
    c = &m_.Counter("tutti_router_requests_total", "Requests by gRPC code and finish reason",
                    {{"method", "Generate"}, {"code", code}, {"reason", reason}});
  }
  return *c;
}

void RouterMetrics::OnAdmitted(std::string_view request_id, const RequestSpec& spec) {
  Log(Level::kDebug, "router/admit",
      {{"request_id", std::string(request_id)},
       {"label", spec.label},
       {"n", std::to_string(spec.n)},
       {"traceparent", spec.traceparent}});
}

void RouterMetrics::OnRefused(std::string_view request_id, const absl::Status& status) {
  Requests(absl::StatusCodeToString(status.code()), "refused").Increment();
  Log(Level::kInfo, "router/refuse",
      {{"request_id", std::string(request_id)}, {"error", std::string(status.message())}});
}

void RouterMetrics::OnEncoded(std::string_view request_id, int64_t encode_us,
                              int32_t prompt_tokens) {
  encode_.Observe(Seconds(encode_us));
  Log(Level::kDebug, "tokenizer/encode",
      {{"request_id", std::string(request_id)},
       {"prompt_tokens", std::to_string(prompt_tokens)},
       {"us", std::to_string(encode_us)}});
}

void RouterMetrics::OnFirstToken(int64_t ttft_us) { ttft_.Observe(Seconds(ttft_us)); }

void RouterMetrics::OnTokens(int32_t tokens, int64_t gap_us) {
  // Several tokens that came together share the gap evenly.
  for (int32_t i = 0; i < tokens; ++i) itl_.Observe(Seconds(gap_us) / tokens);
}

void RouterMetrics::OnDecodeUsage(const Usage& usage) {
  queue_.Observe(Seconds(usage.queue_us));
  prefill_.Observe(Seconds(usage.prefill_us));
  decode_.Observe(Seconds(usage.decode_us));
  preemptions_.Increment(usage.preemptions);
}

void RouterMetrics::OnFailover(std::string_view request_id, uint32_t choice,
                               std::string_view worker, size_t tokens_so_far,
                               const absl::Status& why) {
  failovers_.Increment();
  Log(Level::kWarning, "router/failover",
      {{"request_id", std::string(request_id)},
       {"choice", std::to_string(choice)},
       {"worker", std::string(worker)},
       {"tokens_so_far", std::to_string(tokens_so_far)},
       {"error", std::string(why.message())}});
}

void RouterMetrics::OnContradiction(std::string_view request_id, uint32_t choice,
                                    std::string_view worker, const absl::Status& status) {
  contradictions_.Increment();
  Log(Level::kError, "router/contradiction",
      {{"request_id", std::string(request_id)},
       {"choice", std::to_string(choice)},
       {"worker", std::string(worker)},
       {"error", std::string(status.message())}});
}

void RouterMetrics::OnAudit(std::string_view request_id, std::string_view author,
                            std::string_view result, std::string_view detail) {
  m_.Counter("tutti_router_audits_total",
             "Finished outputs that another target computed again, by what it came to",
             {{"result", std::string(result)}})
      .Increment();
  const bool fine = result == "agreed" || result == "inconclusive";
  Log(fine ? Level::kDebug : Level::kError, "router/audit",
      {{"request_id", std::string(request_id)},
       {"worker", std::string(author)},
       {"result", std::string(result)},
       {"error", std::string(detail)}});
}

void RouterMetrics::OnExamined(std::string_view worker, std::string_view result,
                               std::string_view error) {
  m_.Counter("tutti_router_exams_total",
             "Targets and tokenizers that joined and were compared with a proven one, by what it "
             "came to",
             {{"result", std::string(result)}})
      .Increment();
  const bool fine = result == "agreed", retried = result == "inconclusive" || result == "failed";
  Log(fine      ? Level::kInfo
      : retried ? Level::kWarning
                : Level::kError,
      "router/examined",
      {{"worker", std::string(worker)},
       {"result", std::string(result)},
       {"error", std::string(error)}});
}

void RouterMetrics::OnDistrusted(const WorkerReport& report, const absl::Status& why) {
  m_.Counter("tutti_router_distrusted_total", "Workers that computed wrong and get no more work",
             {{"kind", Name(report.kind)}})
      .Increment();
  Log(Level::kError, "router/distrusted",
      {{"worker", report.worker_id},
       {"kind", Name(report.kind)},
       {"address", report.address},
       {"error", std::string(why.message())}});
}

void RouterMetrics::OnDone(const RequestSummary& s) {
  Requests(s.parked ? "CANCELLED" : absl::StatusCodeToString(s.status.code()),
           s.parked ? "parked" : Name(s.reason))
      .Increment();
  e2e_.Observe(Seconds(s.e2e_us));
  prompt_tokens_.Increment(s.prompt_tokens);
  output_tokens_.Increment(s.output_tokens);
  cached_tokens_.Increment(s.cached_tokens);
  Count(s);
  Log(s.status.ok() ? Level::kInfo : Level::kWarning, "router/emit",
      {{"request_id", std::string(s.request_id)},
       {"label", std::string(s.label)},
       {"code", absl::StatusCodeToString(s.status.code())},
       {"reason", s.parked ? "parked" : Name(s.reason)},
       {"prompt_tokens", std::to_string(s.prompt_tokens)},
       {"output_tokens", std::to_string(s.output_tokens)},
       {"ttft_us", std::to_string(s.ttft_us)},
       {"e2e_us", std::to_string(s.e2e_us)},
       {"failovers", std::to_string(s.failovers)},
       {"error", std::string(s.status.message())}});
}

void RouterMetrics::Count(const RequestSummary& s) {
  if (s.model.empty() || s.parked) return;
  // Names come from the fleet, which bounds how many there are at a time, not over time.
  auto it = models_.find(s.model);
  if (it == models_.end() && models_.size() >= kMaxModelCounts) return;
  if (it == models_.end()) it = models_.emplace(s.model, ModelCounts()).first;
  ModelCounts& m = it->second;
  ++(s.status.ok() ? m.succeeded : m.failed);
  (s.status.ok() ? m.succeeded_us : m.failed_us) += s.e2e_us;
  m.choices += static_cast<uint64_t>(s.choices);
  m.queue_us += s.queue_us;
  m.prefill_us += s.prefill_us;
  m.decode_us += s.decode_us;
  m.last_end_unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count();
}

ModelCounts RouterMetrics::CountsOf(const std::string& model) const {
  const auto it = models_.find(model);
  return it == models_.end() ? ModelCounts() : it->second;
}

void RouterMetrics::OnJournalError(std::string_view request_id, const absl::Status& status) {
  journal_errors_.Increment();
  Log(status.code() == absl::StatusCode::kDataLoss ? Level::kError : Level::kDebug,
      "router/journal",
      {{"request_id", std::string(request_id)}, {"error", std::string(status.message())}});
}

void RouterMetrics::OnWorker(std::string_view what, const WorkerReport& report) {
  const bool wrong = what == "quarantined";
  Log(wrong ? Level::kError : Level::kInfo, "router/fleet",
      {{"what", std::string(what)},
       {"worker", report.worker_id},
       {"quarantined_by", report.quarantined_by},
       {"kind", Name(report.kind)},
       {"state", Name(report.state)},
       {"address", report.address}});
}

void RouterMetrics::OnWorkerRefused(const WorkerReport& report, const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  m_.Counter("tutti_router_workers_refused_total", "Workers that get no work, by the reason",
             {{"kind", Name(report.kind)}, {"reason", reason}})
      .Increment();
  Log(Level::kError, "router/worker-refused",
      {{"worker", Printable(report.worker_id, 128)},
       {"kind", Name(report.kind)},
       {"address", Printable(report.address, 128)},
       {"reason", reason},
       {"error", std::string(status.message())}});
}

void RouterMetrics::Update(const Router& router) {
  const RouterStats s = router.Stats();
  live_.Set(s.live_requests);
  choices_.Set(s.live_choices);
  waiting_.Set(s.waiting_choices);
  calls_.Set(static_cast<double>(s.open_calls));
  streams_.Set(s.subscribers);
  token_refusals_.Increment(static_cast<double>(rpc::NumTokenRefusals()) - token_refusals_.Value());
  std::map<std::pair<WorkerKind, WorkerState>, int> workers;
  int quarantined = 0;
  for (const WorkerView& w : router.fleet().View()) {
    quarantined += w.report.quarantined_by.empty() ? 0 : 1;
    ++workers[{w.report.kind, w.suspect ? WorkerState::kDead : w.report.state}];
  }
  m_.Gauge("tutti_router_quarantined_shards", "Expert shards that a target found to compute wrong")
      .Set(quarantined);
  for (const WorkerKind kind : {WorkerKind::kTokenizer, WorkerKind::kTarget}) {
    for (const WorkerState state : {WorkerState::kStarting, WorkerState::kReady,
                                    WorkerState::kDraining, WorkerState::kDead}) {
      m_.Gauge("tutti_router_workers", "Workers by kind and state; dead: silent",
               {{"kind", Name(kind)}, {"state", Name(state)}})
          .Set(workers[{kind, state}]);
    }
  }
}

}  // namespace tutti::router
