// Where the time of a target's expert layers goes, at /metrics.
#pragma once

#include "shared/exchange/expert_exchange.h"
#include "shared/telemetry/metrics.h"

namespace tutti::rpc {

// Thread-safe.
struct ExpertStats {
  explicit ExpertStats(telemetry::Metrics* m)
      : batches(m->Counter("tutti_target_expert_batches_total", "Layers sent to shards")),
        dispatches(m->Counter("tutti_target_expert_dispatches_total", "Messages to shards")),
        retries(m->Counter("tutti_target_expert_retries_total",
                           "Parts of a layer sent again because a shard was lost or refused")),
        hedges(m->Counter("tutti_target_expert_hedges_total",
                          "Parts sent to a second shard because the first was slow")),
        parts(m->Counter("tutti_target_expert_parts_total",
                         "Parts of layers handed to shards; compared over parts: the rate of the "
                         "double check")),
        compared(m->Counter("tutti_target_expert_compared_total",
                            "Parts of which two computations were compared")),
        by_own(m->Counter("tutti_target_expert_compared_own_total",
                          "Parts that the target's own experts computed, to compare a shard's "
                          "rows or to settle who is wrong")),
        mismatches(m->Counter("tutti_target_expert_mismatches_total",
                              "Comparisons of two computations' bits that differed")),
        unsettled(m->Counter("tutti_target_expert_unsettled_total",
                             "Mismatches of which nobody could say who was wrong")),
        quarantined(m->Counter("tutti_target_expert_quarantined_total",
                               "Shard processes found to compute wrong and not asked any more")),
        bytes_out(Bytes(m, "out")),
        bytes_in(Bytes(m, "in")),
        send(Seconds(m, "send")),
        run(Seconds(m, "run")),
        way(Seconds(m, "way")),
        copy(Seconds(m, "copy")) {}

  void Publish(const exchange::ExchangeStats& now) {
    const auto add = [](prometheus::Counter& counter, int64_t value) {
      counter.Increment(static_cast<double>(value));
    };
    add(dispatches, now.dispatches - last_.dispatches);
    add(retries, now.retries - last_.retries);
    add(hedges, now.hedges - last_.hedges);
    add(parts, now.parts - last_.parts);
    add(compared, now.compared - last_.compared);
    add(by_own, now.by_own - last_.by_own);
    add(mismatches, now.mismatches - last_.mismatches);
    add(unsettled, now.unsettled - last_.unsettled);
    add(quarantined, now.quarantined - last_.quarantined);
    last_ = now;
  }

  prometheus::Counter &batches, &dispatches, &retries, &hedges, &parts, &compared, &by_own,
      &mismatches, &unsettled, &quarantined, &bytes_out, &bytes_in;
  // Seconds of the engine's thread. send: cutting the batch and writing it; run: the slowest
  // shard's computation; way: the rest of the wait; copy: rows to where they belong.
  prometheus::Counter &send, &run, &way, &copy;

 private:
  static prometheus::Counter& Bytes(telemetry::Metrics* m, const std::string& direction) {
    return m->Counter("tutti_target_expert_bytes_total", "Rows and ids to and from shards",
                      {{"direction", direction}});
  }
  static prometheus::Counter& Seconds(telemetry::Metrics* m, const std::string& part) {
    return m->Counter("tutti_target_expert_seconds_total",
                      "Time in expert layers: send, run (the slowest shard's), way, copy",
                      {{"part", part}});
  }
  exchange::ExchangeStats last_;
};

}  // namespace tutti::rpc
