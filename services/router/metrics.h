// What operators see of the router: /metrics and the log.
#pragma once

#include <map>
#include <string>

#include "shared/router/observer.h"
#include "shared/telemetry/metrics.h"

namespace tutti::router {

class Router;

// Requests of one model since the process started.
struct ModelCounts {
  uint64_t succeeded = 0, failed = 0, choices = 0;
  int64_t succeeded_us = 0, failed_us = 0;  // from arrival to end, summed
  int64_t queue_us = 0, prefill_us = 0, decode_us = 0;
  int64_t last_end_unix_ms = 0;
};

// Called under the core's lock. Metrics have no request ids; log lines have.
class RouterMetrics final : public Observer {
 public:
  explicit RouterMetrics(telemetry::Metrics* metrics);

  void OnAdmitted(std::string_view request_id, const RequestSpec& spec) override;
  void OnRefused(std::string_view request_id, const absl::Status& status) override;
  void OnEncoded(std::string_view request_id, int64_t encode_us, int32_t prompt_tokens) override;
  void OnFirstToken(int64_t ttft_us) override;
  void OnTokens(int32_t tokens, int64_t gap_us) override;
  void OnDecodeUsage(const Usage& usage) override;
  void OnFailover(std::string_view request_id, uint32_t choice, std::string_view worker,
                  size_t tokens_so_far, const absl::Status& why) override;
  void OnContradiction(std::string_view request_id, uint32_t choice, std::string_view worker,
                       const absl::Status& status) override;
  void OnExamined(std::string_view worker, std::string_view result,
                  std::string_view error) override;
  void OnAudit(std::string_view request_id, std::string_view author, std::string_view result,
               std::string_view detail) override;
  void OnDistrusted(const WorkerReport& report, const absl::Status& why) override;
  void OnDone(const RequestSummary& summary) override;
  void OnJournalError(std::string_view request_id, const absl::Status& status) override;
  void OnWorker(std::string_view what, const WorkerReport& report) override;
  void OnWorkerRefused(const WorkerReport& report, const absl::Status& status) override;

  // Zeros for a name that had no request. Guarded as the router's callbacks are.
  ModelCounts CountsOf(const std::string& model) const;

  // Gauges, from time to time.
  void Update(const Router& router);

 private:
  void Count(const RequestSummary& summary);
  prometheus::Counter& Requests(const std::string& code, const std::string& reason);

  telemetry::Metrics& m_;
  prometheus::Gauge &live_, &choices_, &waiting_, &calls_, &streams_;
  prometheus::Histogram &ttft_, &e2e_, &itl_, &encode_, &queue_, &prefill_, &decode_;
  prometheus::Counter &prompt_tokens_, &output_tokens_, &cached_tokens_, &failovers_,
      &contradictions_, &preemptions_, &journal_errors_, &token_refusals_;
  std::map<std::pair<std::string, std::string>, prometheus::Counter*> requests_;
  std::map<std::string, ModelCounts, std::less<>> models_;
};

}  // namespace tutti::router
