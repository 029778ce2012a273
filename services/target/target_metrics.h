// What a target counts and times; docs/metrics.md says how the names map to those of vLLM.
#pragma once

#include <cstdint>
#include <string>

#include "shared/base/status.h"
#include "shared/engine/engine.h"
#include "shared/telemetry/metrics.h"

namespace tutti::target {

// When things happened to a sequence, on EngineLoop::NowUs's clock.
struct SequenceTimes {
  int64_t submit_us = 0, last_output_us = 0;
};

// Thread safety: Refused from any thread; the rest from the engine's, or before it runs.
class TargetMetrics {
 public:
  explicit TargetMetrics(telemetry::Metrics* metrics);

  // Once the engine is there: tutti_target_cache_config_info and the like.
  void SetCacheConfig(const engine::EngineStats& stats, const std::string& cache_dtype,
                      bool prefix_cache);
  void SetModel(const std::string& name, uint64_t fingerprint, const std::string& isa);

  void Publish(const engine::EngineStats& stats);
  void Observe(const engine::SequenceOutput& output, int64_t now_us, SequenceTimes* times);
  void Refused(const absl::Status& status);
  void Cancelled();

 private:
  prometheus::Counter& Requests(const std::string& result);

  telemetry::Metrics* const metrics_;
  prometheus::Gauge &running_, &waiting_, &kv_usage_, &pages_, &free_pages_, &cached_pages_;
  prometheus::Counter &prompt_tokens_, &generation_tokens_, &prefill_tokens_, &steps_,
      &preemptions_, &prefix_queries_, &prefix_hits_, &decode_slices_, &proposed_, &accepted_,
      &wasted_, &hinted_, &accepted_hints_, &confirmed_, &taken_back_, &distrusted_pages_,
      &distrusted_sequences_;
  prometheus::Gauge &guesses_per_step_, &tokens_per_step_;
  prometheus::Histogram &ttft_, &inter_token_, &e2e_, &queue_, &prefill_, &decode_;
  void PublishPerStep(const engine::EngineStats& stats);
  engine::EngineStats last_, last_per_step_;
};

}  // namespace tutti::target
