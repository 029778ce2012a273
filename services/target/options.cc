#include "services/target/options.h"

#include <CLI/CLI.hpp>

#include "shared/base/cores.h"
#include "shared/model/load.h"
#include "shared/moe/expert_set.h"
#include "shared/rpc/model_names.h"
#include "shared/rpc/worker_program.h"

namespace tutti::target {

absl::Status TargetOptions::Validate() const {
  constexpr int kMany = 1 << 20;
  if (model.empty()) return absl::InvalidArgumentError("--model: needed");
  TUTTI_RETURN_IF_ERROR(Annotate(model::KvTypeFromName(kv_type).status(), "--kv"));
  TUTTI_RETURN_IF_ERROR(rpc::CheckModelNames(served_names));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--ffn-slices", ffn_slices, 0, 1 << 16));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--expert-deadline-ms", expert_deadline_ms, 1, 86400000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--expert-warm-cores", expert_warm_cores, -1, 1024));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--expert-hedge-us", expert_hedge_us, 0, 86400000));
  TUTTI_RETURN_IF_ERROR(
      rpc::FlagInRange("--expert-double-check", expert_double_check, 0, 1'000'000'000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--expert-overlap-rows", expert_overlap_rows, 0, kMany));
  TUTTI_RETURN_IF_ERROR(
      rpc::FlagInRange("--expert-overlap-rows-shm", expert_overlap_rows_shm, 0, kMany));
  if (!local_experts.empty()) {
    if (experts.empty())
      return absl::InvalidArgumentError("--local-experts: all are, without --experts");
    TUTTI_RETURN_IF_ERROR(
        Annotate(moe::ParseExpertRanges(local_experts).status(), "--local-experts"));
  }
  if (!skip_layers.empty() && !experts.empty())
    return absl::InvalidArgumentError("--skip-layers: not with --experts");
  for (const std::string& address : experts) {
    if (address == "router" && worker.routers.empty())
      return absl::InvalidArgumentError("--experts: router needs a router to --join");
  }
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--threads", threads, 1, 1024));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--spin-us", spin_us, 0, 1000000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--messages-per-s", messages_per_s, 0, 1000000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--forward-us-min", forward_us_min, 0, 60000000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--pages", engine.num_pages, 0, 1 << 26));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--max-batch-tokens", engine.max_batch_tokens, 1, kMany));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--prefill-chunk", engine.prefill_chunk_tokens, 0, kMany));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--max-running", engine.max_running, 1, 65536));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--max-waiting", engine.max_waiting, 1, kMany));
  if (draft != "none" && draft != "ngram") {
    return absl::InvalidArgumentError("--draft: must be none or ngram");
  }
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--draft-tokens", engine.max_draft_tokens, 0, 64));
  TUTTI_RETURN_IF_ERROR(
      rpc::FlagInRange("--draft-recent", engine.recent_output_tokens, 0, 1 << 26));
  return worker.Validate();
}

bool ParseOptions(int argc, char** argv, TargetOptions* o, int* exit_code) {
  o->threads = UsableCores();
  o->messages_per_s = 50 * o->threads;
  o->worker.service.listen = {"127.0.0.1:7071"};
  const std::string name = o->is_draft ? "tutti-draft" : "tutti-target";
  CLI::App app{name + (o->is_draft ? ": runs a smaller model ahead of targets; what it "
                                     "says are hints."
                                   : ": decodes sequences over one model "
                                     "(tutti.decoder.v1.DecoderService)."),
               name};
  if (o->is_draft) o->messages_per_s = 0;  // a hint that waits comes too late
  bool no_prefix_cache = false, draft_always = false;
  app.add_option("--model", o->model,
                 "GGUF file, Hugging Face folder, or a directory that tutti pack wrote")
      ->type_name("PATH")
      ->required();
  if (!o->is_draft) {
    app.add_option(
           "--served-model-name", o->served_names,
           "names under which requests find the model, the first shown in answers; without: "
           "the name in its file. The same for all targets of a model")
        ->type_name("NAME[,ALIAS]")
        ->delimiter(',');
  }
  app.add_option("--kv", o->kv_type, "type of the KV cache; part of the fingerprint")
      ->check(CLI::IsMember(model::KvTypeNames()))
      ->capture_default_str();
  app.add_option("--ffn-slices", o->ffn_slices,
                 "cut a dense model's FFN into so many experts; part of the fingerprint")
      ->capture_default_str();
  app.add_option("--skip-layers", o->skip_layers,
                 "leave these layers out, \"3,5,10-14\" or \"auto\": another, faster model, to "
                 "draft for the whole one")
      ->type_name("LAYERS");
  app.add_option("--experts", o->experts,
                 "run experts on these shards; \"router\": on those that joined our routers")
      ->type_name("ADDRESS,...")
      ->delimiter(',');
  app.add_option("--expert-deadline-ms", o->expert_deadline_ms,
                 "how long a layer waits for a shard; then UNAVAILABLE")
      ->capture_default_str();
  app.add_option("--expert-warm-cores", o->expert_warm_cores,
                 "so many cores are kept awake, by threads that give way to any other, while rows "
                 "are with shards of this host; -1: as many as --threads; 0: none")
      ->capture_default_str();
  app.add_option("--expert-hedge-us", o->expert_hedge_us,
                 "a part of a layer that takes longer, and several times longer than most, is sent "
                 "to a second shard as well; 0: every part to others at once, for tests")
      ->capture_default_str();
  app.add_option("--expert-double-check", o->expert_double_check,
                 "one part of a layer in so many is also computed by a second shard, or by this "
                 "process from the model's file, and the bits are compared: a shard that computes "
                 "wrong is found, quarantined, and what was computed with it is dropped; 0: never")
      ->capture_default_str();
  app.add_option("--local-experts", o->local_experts,
                 "with --experts: those that this process runs itself, at no hop: all, a number of "
                 "each layer's, or LAYERS/EXPERTS (3/0,0-29/1-4)")
      ->type_name("EXPERTS");
  app.add_option("--expert-overlap-rows", o->expert_overlap_rows,
                 "steps of so many rows are cut in two: one half computes while the other's rows "
                 "are with shards; 0: never")
      ->capture_default_str();
  app.add_option("--expert-overlap-rows-shm", o->expert_overlap_rows_shm,
                 "the same where all shards are on this host and share memory")
      ->capture_default_str();
  app.add_option("--threads", o->threads, "threads of the forward pass")->capture_default_str();
  app.add_flag("--pin", o->pin,
               "bind the compute threads to cores; for machines that run nothing else");
  app.add_option("--spin-us", o->spin_us, "how long those threads wait busily before they sleep")
      ->capture_default_str();
  app.add_option("--messages-per-s", o->messages_per_s,
                 "messages of all streams together; with many streams tokens wait for company, at "
                 "most 75 ms; 0: one for each token")
      ->capture_default_str();
  app.add_option("--cpu", o->isa,
                 "instruction set: auto, reference, avx2, avx_vnni, avx512, amx, neon")
      ->type_name("ISA")
      ->capture_default_str();
  app.add_option("--forward-us-min", o->forward_us_min,
                 "how long a forward pass takes at least, as that of a larger model; for tests")
      ->capture_default_str();
  app.add_option("--pages", o->engine.num_pages,
                 "KV pages of 16 tokens; 0: two full contexts, at most half of the free memory")
      ->capture_default_str();
  app.add_option("--max-batch-tokens", o->engine.max_batch_tokens, "rows of one step")
      ->capture_default_str();
  app.add_option("--prefill-chunk", o->engine.prefill_chunk_tokens,
                 "rows of one sequence's prefill in a step; 0: the whole prompt")
      ->capture_default_str();
  app.add_option("--max-running", o->engine.max_running, "sequences that hold pages")
      ->capture_default_str();
  app.add_option("--max-waiting", o->engine.max_waiting,
                 "sequences in the queue; more are refused with RESOURCE_EXHAUSTED")
      ->capture_default_str();
  app.add_option("--start-within", o->start_within_s,
                 "seconds; a sequence that by the measured rate would wait longer for its place is "
                 "refused at once with RESOURCE_EXHAUSTED and when to come again; 0: no bound")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--queue-wait", o->queue_wait_s,
                 "seconds after which a sequence without a place is refused; 0: no bound")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--hang-exit", o->hang_exit_s,
                 "seconds without progress in a step (or longer, where steps are slow) after which "
                 "the process ends, to be started again; 0: never")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_flag("--no-prefix-cache", no_prefix_cache, "forget pages with their sequence");
  if (o->is_draft) {
    app.add_option(
           "--for", o->draft_for,
           "the targets' model, in whose token ids the draft then speaks; refuses to start when "
           "too few of its tokens are the draft's, too")
        ->type_name("PATH");
  } else {
    app.add_option(
           "--draft", o->draft,
           "ngram: guess tokens that followed the same ones before; none: only hints of peers")
        ->check(CLI::IsMember({"none", "ngram"}))
        ->capture_default_str();
    app.add_option("--draft-tokens", o->engine.max_draft_tokens,
                   "guesses verified for a sequence in a step, at most; 0: none, hints are dropped")
        ->capture_default_str();
    app.add_flag("--draft-always", draft_always,
                 "verify every guess, whether or not it pays; for tests and measurements");
    app.add_option(
           "--draft-recent", o->engine.recent_output_tokens,
           "recent output tokens, of all clients, in which ngram looks for them; 0: only the "
           "sequence's own prompt and output")
        ->capture_default_str();
  }
  rpc::AddWorkerFlags(&app, &o->worker);
  const auto check = [&] {
    o->engine.prefix_cache = !no_prefix_cache;
    o->engine.ngram_drafts = o->draft == "ngram";
    o->engine.adapt_drafts = !draft_always;
    return o->Validate();
  };
  return rpc::ParseFlags(&app, argc, argv, check, exit_code);
}

}  // namespace tutti::target
