#include "services/expert/options.h"

#include <CLI/CLI.hpp>

#include "shared/moe/expert_set.h"
#include "shared/rpc/worker_program.h"

namespace tutti::expert {

absl::Status ExpertOptions::Validate() const {
  if (model.empty()) return absl::InvalidArgumentError("--model: needed");
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--ffn-slices", ffn_slices, 0, 1 << 16));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--memory", memory_mb, 0, int64_t{1} << 30));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--threads", threads, 1, 1024));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--spin-us", spin_us, 0, 1000000));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--queue-max", queue_max, 1, 1 << 20));
  TUTTI_RETURN_IF_ERROR(rpc::FlagInRange("--reply-delay-us", reply_delay_us, 0, 10'000'000));
  if (reply_delay_us > 0 && shared_memory)
    return absl::InvalidArgumentError("--reply-delay-us: needs --no-shared-memory");
  for (const std::string& pin : pins)
    TUTTI_RETURN_IF_ERROR(Annotate(moe::ParseExpertRanges(pin).status(), "--pin"));
  return worker.Validate();
}

bool ParseOptions(int argc, char** argv, ExpertOptions* o, int* exit_code) {
  o->worker.service.listen = {"127.0.0.1:7075"};
  CLI::App app{"tutti-expert: runs feed-forward experts (tutti.expert.v1.ExpertService).",
               "tutti-expert"};
  app.add_option("--model", o->model, "GGUF file, Hugging Face folder or packed directory")
      ->type_name("PATH")
      ->required();
  app.add_option("--ffn-slices", o->ffn_slices,
                 "cut a dense model's FFN into so many experts; part of the fingerprint")
      ->capture_default_str();
  app.add_option("--memory", o->memory_mb,
                 "MB of experts in memory; the least recently used one goes first; 0: no bound")
      ->capture_default_str();
  app.add_option("--pin", o->pins,
                 "experts loaded at start and kept: all, a number of each layer's, or "
                 "LAYERS/EXPERTS (3/0,0-29/1-4); repeatable");
  app.add_option("--threads", o->threads, "threads of the computation")->capture_default_str();
  app.add_option("--spin-us", o->spin_us, "how long threads wait busily before they sleep")
      ->capture_default_str();
  app.add_option("--queue-max", o->queue_max,
                 "dispatches that wait; more are refused with RESOURCE_EXHAUSTED")
      ->capture_default_str();
  app.add_option("--reply-delay-us", o->reply_delay_us,
                 "hold every reply back so long, as a network would; for measurements")
      ->capture_default_str();
  bool no_shared_memory = false;
  app.add_flag("--no-shared-memory", no_shared_memory,
               "gRPC alone, also to targets on this host (else they meet at PATH.shm beside each "
               "unix:PATH)");
  app.add_option("--cpu", o->isa,
                 "instruction set: auto, reference, avx2, avx_vnni, avx512, amx, neon")
      ->type_name("ISA")
      ->capture_default_str();
  rpc::AddWorkerFlags(&app, &o->worker);
  return rpc::ParseFlags(
      &app, argc, argv,
      [&] {
        o->shared_memory = !no_shared_memory;
        return o->Validate();
      },
      exit_code);
}

}  // namespace tutti::expert
