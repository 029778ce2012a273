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
        mismatches(m->Counter("tutti_target_expert_mismatches_total",
                              "Comparisons of two shards' bits that differed")),
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
    add(mismatches, now.mismatches - last_.mismatches);
    last_ = now;
  }

  prometheus::Counter &batches, &dispatches, &retries, &hedges, &mismatches, &bytes_out, &bytes_in;
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
