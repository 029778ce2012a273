// What the router tells the outside about its doings: metrics and logs hang here.
#pragma once

#include <cstdint>
#include <string_view>

#include "shared/router/types.h"

namespace tutti::router {

struct RequestSummary {
  std::string_view request_id, label;
  std::string_view
      model;            // its name in the fleet; "" when the request ended before it was looked up
  absl::Status status;  // OK also for cancelled and expired requests; see reason
  FinishReason reason = FinishReason::kNone;  // of the first choice that has one
  int64_t e2e_us = 0;
  int64_t ttft_us = -1;  // -1: no token came
  int32_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  uint32_t failovers = 0;
  // Summed over the choices that a target ended, `choices` of them.
  int64_t queue_us = 0, prefill_us = 0, decode_us = 0;
  int32_t choices = 0;
  bool parked = false;  // its clients went; it can be resumed
};

// Called from inside the router's state machines, so implementations must not call back and not
// block.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnAdmitted(std::string_view /*request_id*/, const RequestSpec&) {}
  virtual void OnRefused(std::string_view /*request_id*/, const absl::Status&) {}
  virtual void OnEncoded(std::string_view /*request_id*/, int64_t /*encode_us*/,
                         int32_t /*prompt_tokens*/) {}
  virtual void OnFirstToken(int64_t /*ttft_us*/) {}
  // `tokens` came together, `gap_us` after the ones before them.
  virtual void OnTokens(int32_t /*tokens*/, int64_t /*gap_us*/) {}
  virtual void OnDecodeUsage(const Usage&) {}
  virtual void OnFailover(std::string_view /*request_id*/, uint32_t /*choice*/,
                          std::string_view /*worker*/, size_t /*tokens_so_far*/,
                          const absl::Status& /*why*/) {}
  // Two decoders disagreed about a token: the promise of the house is broken somewhere.
  virtual void OnContradiction(std::string_view /*request_id*/, uint32_t /*choice*/,
                               std::string_view /*worker*/, const absl::Status&) {}
  // An output of target `author` was audited (AuditResultName); `detail`: what differs, or "".
  virtual void OnAudit(std::string_view /*request_id*/, std::string_view /*author*/,
                       std::string_view /*result*/, std::string_view /*detail*/) {}
  // A target or tokenizer that joined was compared with a proven one (examiner.h); `error`: what
  // failed, or "".
  virtual void OnExamined(std::string_view /*worker*/, std::string_view /*result*/,
                          std::string_view /*error*/) {}
  // The worker computes wrong and gets no more work.
  virtual void OnDistrusted(const WorkerReport&, const absl::Status& /*why*/) {}
  virtual void OnDone(const RequestSummary&) {}
  virtual void OnJournalError(std::string_view /*request_id*/, const absl::Status&) {}
  virtual void OnWorker(std::string_view /*what*/, const WorkerReport&) {}
  // Gets no work from now on, for this reason (ReasonOf).
  virtual void OnWorkerRefused(const WorkerReport&, const absl::Status&) {}
};

}  // namespace tutti::router
