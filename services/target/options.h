// Command line of tutti-target and tutti-draft.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/engine/engine.h"
#include "shared/rpc/worker.h"

namespace tutti::target {

struct TargetOptions {
  bool is_draft = false;  // tutti-draft: runs ahead of targets, for hints (no flag)
  // Changes the answer (and the fingerprint):
  std::string model;            // GGUF file or Hugging Face folder; required
  std::string kv_type = "f16";  // "f16", "f32" or "q8"

  std::string skip_layers;  // layers that are left out; see shared/model/skip_layers.h
  int ffn_slices = 0;       // cuts a dense model's FFN into experts; 0: whole

  // Changes only speed or memory:
  // Where experts run: addresses of shards, or "router" for those of the routers' fleets; empty: in
  // this process.
  std::vector<std::string> experts;
  int expert_deadline_ms = 30000;  // how long a layer waits for shards; then UNAVAILABLE
  // So many cores are kept awake while rows are with shards of this host; -1: as many as threads.
  int expert_warm_cores = -1;
  int expert_hedge_us = 30000;     // how long a part of a layer waits at least before a second
                                   // shard is asked as well; 0: others are asked at once
  int expert_double_check = 1000;  // one part of a layer in so many is computed twice and the bits
                                   // compared; 0: none
  // With experts elsewhere: those that stay here; see moe::ExpertSet.
  std::string local_experts;
  // Rows of a step that is cut into two micro-batches, one of which computes while the other's rows
  // are under way (0: never): with shards by gRPC, and with those of this host.
  int expert_overlap_rows = 0, expert_overlap_rows_shm = 0;
  int threads = 0;             // 0: the cores this process may use
  int spin_us = 50;            // busy wait of the pool's threads between loops
  bool pin = false;            // binds the pool's threads to cores; not on cores that others use
  int messages_per_s = 0;      // of all streams together; 0: no limit (see EmissionPacer)
  int forward_us_min = 0;      // see paced_model.h
  double start_within_s = 2;   // see EngineOptions::start_within_us
  double queue_wait_s = 30;    // and max_queue_us
  double hang_exit_s = 10;     // without progress in a step for so long the process ends; 0: never
  std::string isa = "auto";    // instruction set; see SelectIsa
  std::string draft = "none";  // or "ngram": guess from what was said before, besides hints
  // Names under which the model is served; the first one is the one that answers show. Empty: the
  // name in the model's file.
  std::vector<std::string> served_names;
  std::string draft_for;  // of a draft: the targets' model, in whose ids it speaks
  engine::EngineOptions engine;
  rpc::WorkerOptions worker;

  // Errors: INVALID_ARGUMENT naming the flag.
  absl::Status Validate() const;
};

// False when the process should end with `*exit_code` (--help, or a message was printed).
bool ParseOptions(int argc, char** argv, TargetOptions* options, int* exit_code);

}  // namespace tutti::target
