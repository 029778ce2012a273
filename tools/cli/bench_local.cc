#include <map>

#include "shared/engine/engine.h"
#include "shared/router/output_text.h"
#include "tools/cli/bench.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

struct Running {
  int64_t start_us = 0;
  RequestFigures figures;
  router::OutputText text;  // the work that a router does for each token
};

}  // namespace

absl::StatusOr<BenchReport> RunLocalBench(const BenchOptions& o, const LocalModelOptions& local,
                                          const std::function<void(int done)>& on_progress,
                                          const std::atomic<bool>& stop) {
  TUTTI_RETURN_IF_ERROR(o.Validate());
  TUTTI_ASSIGN_OR_RETURN(const auto model, LoadLocalModel(local));
  TUTTI_RETURN_IF_ERROR(model->text.status());
  engine::EngineOptions options;
  options.prefill_chunk_tokens = local.prefill_chunk_tokens;
  options.clock_us = NowUs;
  options.pool = model->pool.get();
  options.ngram_drafts = local.draft == "ngram";
  TUTTI_ASSIGN_OR_RETURN(const auto engine, engine::Engine::Create(model->decoder.get(), options));

  BenchTally tally;
  std::map<engine::SequenceId, Running> running;
  int next = 0;
  const int64_t start = NowUs();
  const auto seconds_since = [](int64_t us) { return static_cast<double>(NowUs() - us) / 1e6; };
  while (!stop.load() && (next < o.requests || !running.empty())) {
    while (next < o.requests && static_cast<int>(running.size()) < o.clients) {
      engine::SequenceRequest request;
      request.id = static_cast<engine::SequenceId>(next) + 1;
      const int64_t begin = NowUs();
      request.prompt = model->text->tokenizer->Encode(BenchPrompt(o, next), {.add_special = true});
      request.params.seed = o.seed + static_cast<uint64_t>(next++);
      request.params.temperature = static_cast<float>(o.temperature);
      request.params.max_tokens = o.max_tokens;
      request.params.ignore_eos = o.ignore_eos;
      Running r{begin, {}, router::OutputText(model->text->tokenizer->decoder(), {})};
      r.figures.prompt_tokens = static_cast<int64_t>(request.prompt.size());
      const auto id = request.id;
      if (const absl::Status s = engine->Submit(std::move(request), begin); !s.ok()) {
        tally.Add(s);
        on_progress(tally.done());
      } else {
        running.emplace(id, std::move(r));
      }
    }
    for (const engine::SequenceOutput& out : engine->Step(NowUs())) {
      const auto it = running.find(out.id);
      if (it == running.end()) continue;
      Running& r = it->second;
      for (const auto& t : out.tokens) r.text.Push(t.token_id, false);
      if (!out.tokens.empty()) {
        r.figures.arrivals.push_back(
            {seconds_since(r.start_us), static_cast<int>(out.tokens.size())});
      }
      if (out.finish == engine::FinishReason::kNone) continue;
      r.figures.output_tokens = out.usage.output_tokens;
      r.figures.end_s = seconds_since(r.start_us);
      tally.Add(out.status.ok() ? absl::StatusOr<RequestFigures>(r.figures) : out.status);
      running.erase(it);
      on_progress(tally.done());
    }
  }
  return tally.Finish(seconds_since(start));
}

}  // namespace tutti::cli
