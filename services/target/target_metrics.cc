#include "services/target/target_metrics.h"

#include "shared/base/hash.h"
#include "shared/kv_cache/page_pool.h"

namespace tutti::target {
namespace {

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

std::string ResultName(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      return "none";
    case engine::FinishReason::kEos:
      return "eos";
    case engine::FinishReason::kStopId:
      return "stop";
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kCancelled:
      return "cancelled";
    case engine::FinishReason::kDeadline:
      return "deadline";
    case engine::FinishReason::kError:
      return "error";
  }
  return "error";
}

}  // namespace

TargetMetrics::TargetMetrics(telemetry::Metrics* m)
    : metrics_(m),
      running_(m->Gauge("tutti_target_requests_running", "Sequences that hold KV pages")),
      waiting_(m->Gauge("tutti_target_requests_waiting", "Sequences in the queue")),
      kv_usage_(m->Gauge("tutti_target_kv_cache_usage_ratio",
                         "KV pages that sequences hold, 0 to 1 (pages that only the prefix cache "
                         "holds count as free)")),
      pages_(m->Gauge("tutti_target_kv_cache_blocks", "KV pages in all")),
      free_pages_(m->Gauge("tutti_target_kv_cache_free_blocks", "KV pages that nobody holds")),
      cached_pages_(m->Gauge("tutti_target_kv_cache_cached_blocks",
                             "KV pages that only the prefix cache holds")),
      prompt_tokens_(
          m->Counter("tutti_target_prompt_tokens_total", "Prompt tokens of sequences that ended")),
      generation_tokens_(m->Counter("tutti_target_generation_tokens_total", "Tokens sampled")),
      prefill_tokens_(m->Counter("tutti_target_prefill_computed_tokens_total",
                                 "Rows of prefill computed, after the prefix cache, with "
                                 "recomputation after preemption")),
      steps_(m->Counter("tutti_target_steps_total", "Forward passes")),
      preemptions_(m->Counter("tutti_target_preemptions_total",
                              "Sequences that lost their pages and were computed again")),
      prefix_queries_(m->Counter("tutti_target_prefix_cache_queries_total",
                                 "Tokens looked up in the prefix cache")),
      prefix_hits_(
          m->Counter("tutti_target_prefix_cache_hits_total", "Tokens found in the prefix cache")),
      decode_slices_(m->Counter("tutti_target_decode_slices_total",
                                "Times that a decoding sequence was given its row, and rows for "
                                "guesses; generation tokens over this: tokens per step")),
      proposed_(m->Counter("tutti_target_draft_proposed_tokens_total",
                           "Guessed tokens that were verified; over decode slices: the mean k")),
      accepted_(m->Counter("tutti_target_draft_accepted_tokens_total", "Guesses that were right")),
      wasted_(m->Counter("tutti_target_draft_wasted_tokens_total", "Guesses that were not")),
      hinted_(m->Counter("tutti_target_hint_tokens_total", "Tokens that drafts hinted")),
      accepted_hints_(m->Counter("tutti_target_hint_accepted_tokens_total",
                                 "Guesses that were right and came from a hint")),
      confirmed_(m->Counter("tutti_target_lookahead_confirmed_tokens_total",
                            "Of a draft: tokens it said that its targets said, too")),
      taken_back_(m->Counter("tutti_target_lookahead_wasted_tokens_total",
                             "Of a draft: tokens it said that were taken back")),
      distrusted_pages_(m->Counter("tutti_target_distrusted_pages_total",
                                   "Cached KV pages dropped because an expert shard that they "
                                   "were made with computed wrong")),
      distrusted_sequences_(m->Counter("tutti_target_distrusted_sequences_total",
                                       "Sequences that started over for the same reason")),
      guesses_per_step_(m->Gauge("tutti_target_draft_tokens_per_step",
                                 "Guesses verified for a sequence in a step (k), lately")),
      tokens_per_step_(m->Gauge("tutti_target_generation_tokens_per_step",
                                "Tokens that a sequence got in a step, lately")),
      ttft_(m->Latency("tutti_target_time_to_first_token_seconds",
                       "From a sequence's arrival to its first token")),
      inter_token_(
          m->Latency("tutti_target_inter_token_latency_seconds", "Between outputs of a sequence")),
      e2e_(m->Latency("tutti_target_e2e_request_latency_seconds",
                      "From a sequence's arrival to its end")),
      queue_(m->Latency("tutti_target_request_queue_time_seconds", "Waiting for pages")),
      prefill_(m->Latency("tutti_target_request_prefill_time_seconds",
                          "From the first prefill to the first token")),
      decode_(m->Latency("tutti_target_request_decode_time_seconds",
                         "From the first token to the last")) {}

prometheus::Counter& TargetMetrics::Requests(const std::string& result) {
  return metrics_->Counter("tutti_target_requests_total", "Sequences that ended, by how",
                           {{"result", result}});
}

void TargetMetrics::SetCacheConfig(const engine::EngineStats& stats, const std::string& cache_dtype,
                                   bool prefix_cache) {
  const std::string block_size = std::to_string(kv_cache::kPageTokens);
  // The label names are those that readers of vllm:cache_config_info look for.
  metrics_
      ->Gauge("tutti_target_cache_config_info", "The KV cache, as labels",
              {{"block_size", block_size},
               {"num_gpu_blocks", std::to_string(stats.num_pages)},
               {"cache_dtype", cache_dtype},
               {"enable_prefix_caching", prefix_cache ? "True" : "False"}})
      .Set(1);
  metrics_->Gauge("tutti_target_kv_cache_block_size_tokens", "Tokens of one KV page")
      .Set(kv_cache::kPageTokens);
  Publish(stats);
}

void TargetMetrics::SetModel(const std::string& name, uint64_t fingerprint,
                             const std::string& isa) {
  metrics_
      ->Gauge("tutti_target_model_info", "The model served, as labels",
              {{"model_name", name}, {"fingerprint", Hex64(fingerprint)}, {"isa", isa}})
      .Set(1);
}

void TargetMetrics::Publish(const engine::EngineStats& stats) {
  running_.Set(stats.num_running);
  waiting_.Set(stats.num_waiting);
  pages_.Set(stats.num_pages);
  free_pages_.Set(stats.num_free_pages);
  cached_pages_.Set(stats.num_cached_pages);
  const int held = stats.num_pages - stats.num_free_pages - stats.num_cached_pages;
  kv_usage_.Set(stats.num_pages > 0 ? static_cast<double>(held) / stats.num_pages : 0);
  const auto add = [](prometheus::Counter& counter, uint64_t now, uint64_t before) {
    if (now > before) counter.Increment(static_cast<double>(now - before));
  };
  add(steps_, stats.steps, last_.steps);
  add(prefill_tokens_, stats.prefill_tokens, last_.prefill_tokens);
  add(preemptions_, stats.preemptions, last_.preemptions);
  add(prefix_queries_, stats.prefix_query_tokens, last_.prefix_query_tokens);
  add(prefix_hits_, stats.prefix_hit_tokens, last_.prefix_hit_tokens);
  add(decode_slices_, stats.decode_slices, last_.decode_slices);
  add(proposed_, stats.proposed_tokens, last_.proposed_tokens);
  add(accepted_, stats.accepted_tokens, last_.accepted_tokens);
  add(wasted_, stats.proposed_tokens - stats.accepted_tokens,
      last_.proposed_tokens - last_.accepted_tokens);
  add(hinted_, stats.hint_tokens, last_.hint_tokens);
  add(accepted_hints_, stats.accepted_hint_tokens, last_.accepted_hint_tokens);
  add(confirmed_, stats.confirmed_tokens, last_.confirmed_tokens);
  add(taken_back_, stats.taken_back_tokens, last_.taken_back_tokens);
  PublishPerStep(stats);
  add(distrusted_pages_, stats.distrusted_pages, last_.distrusted_pages);
  add(distrusted_sequences_, stats.distrusted_sequences, last_.distrusted_sequences);
  last_ = stats;
}

void TargetMetrics::PublishPerStep(const engine::EngineStats& stats) {
  constexpr uint64_t kWindow = 256;  // rows, or groups of rows, of sequences
  const uint64_t slices = stats.decode_slices - last_per_step_.decode_slices;
  // Until the first window is full, over all there were.
  if (slices == 0 || (slices < kWindow && last_per_step_.decode_slices > 0)) return;
  const auto per_slice = [&](uint64_t now, uint64_t before) {
    return static_cast<double>(now - before) / static_cast<double>(slices);
  };
  guesses_per_step_.Set(per_slice(stats.proposed_tokens, last_per_step_.proposed_tokens));
  tokens_per_step_.Set(1 + per_slice(stats.accepted_tokens, last_per_step_.accepted_tokens));
  if (slices >= kWindow) last_per_step_ = stats;
}

void TargetMetrics::Observe(const engine::SequenceOutput& output, int64_t now_us,
                            SequenceTimes* times) {
  if (!output.tokens.empty()) {
    generation_tokens_.Increment(static_cast<double>(output.tokens.size()));
    if (times->last_output_us == 0) {
      ttft_.Observe(Seconds(now_us - times->submit_us));
    } else {
      inter_token_.Observe(Seconds(now_us - times->last_output_us));
    }
    times->last_output_us = now_us;
  }
  if (output.finish == engine::FinishReason::kNone) return;
  const engine::Usage& usage = output.usage;
  Requests(ResultName(output.finish)).Increment();
  prompt_tokens_.Increment(usage.prompt_tokens);
  e2e_.Observe(Seconds(now_us - times->submit_us));
  queue_.Observe(Seconds(usage.queue_us));
  prefill_.Observe(Seconds(usage.prefill_us));
  decode_.Observe(Seconds(usage.decode_us));
}

void TargetMetrics::Refused(const absl::Status& status) {
  Requests(status.code() == absl::StatusCode::kInvalidArgument ? "invalid" : "refused").Increment();
}

void TargetMetrics::Cancelled() { Requests("cancelled").Increment(); }

}  // namespace tutti::target
