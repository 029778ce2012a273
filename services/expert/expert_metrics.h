// What the ways in to a shard count together.
#pragma once

#include "shared/telemetry/metrics.h"

namespace tutti::expert {

// Thread-safe.
struct ExpertMetrics {
  explicit ExpertMetrics(telemetry::Metrics* m)
      : dispatches(m->Counter("tutti_expert_dispatches_total", "Dispatches answered")),
        pairs(m->Counter("tutti_expert_pairs_total", "Pairs of row and expert computed")),
        batches(m->Counter("tutti_expert_batches_total", "Batches of dispatches run")),
        refused(m->Counter("tutti_expert_refused_total", "Dispatches answered with an error")),
        queue_time(m->Latency("tutti_expert_queue_seconds", "Arrival to computation")),
        run_time(m->Latency("tutti_expert_run_seconds", "Computation of a batch")) {}

  void CountBatch(size_t num_dispatches, int64_t num_pairs, int64_t run_us) {
    batches.Increment();
    pairs.Increment(static_cast<double>(num_pairs));
    dispatches.Increment(static_cast<double>(num_dispatches));
    run_time.Observe(static_cast<double>(run_us) / 1e6);
  }

  prometheus::Counter &dispatches, &pairs, &batches, &refused;
  prometheus::Histogram &queue_time, &run_time;
};

}  // namespace tutti::expert
