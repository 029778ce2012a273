// Runs requests through an engine as a service would, and compares what came out bit by bit. For
// tests here and in tests/.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "shared/engine/generation.h"

namespace tutti::engine {

// All that one sequence gave.
struct Outcome {
  std::vector<TokenOutput> tokens, prompt_tokens;
  std::vector<Beam> beams;
  FinishReason finish = FinishReason::kNone;  // kNone: cancelled
  absl::Status status;
  uint64_t digest = 0;
  Usage usage;

  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const TokenOutput& t : tokens) ids.push_back(t.token_id);
    return ids;
  }
};

inline std::string BitsOf(const TokenOutput& t) {
  std::string s =
      absl::StrFormat("%d %08x %016x", t.token_id, std::bit_cast<uint32_t>(t.logprob), t.digest);
  for (const TopLogprob& top : t.top)
    absl::StrAppendFormat(&s, " %d:%08x", top.token_id, std::bit_cast<uint32_t>(top.logprob));
  return s;
}

// Every bit of an outcome that may not depend on the topology, one line a token.
inline std::vector<std::string> BitsOf(const Outcome& o) {
  std::vector<std::string> lines;
  for (const TokenOutput& t : o.prompt_tokens) lines.push_back("prompt " + BitsOf(t));
  for (const TokenOutput& t : o.tokens) lines.push_back(BitsOf(t));
  for (const Beam& b : o.beams) {
    std::string line = absl::StrFormat("beam %08x", std::bit_cast<uint32_t>(b.score));
    for (int32_t id : b.token_ids) absl::StrAppendFormat(&line, " %d", id);
    lines.push_back(line);
  }
  if (o.finish != FinishReason::kNone)
    lines.push_back(absl::StrFormat("finish %d %016x", static_cast<int>(o.finish), o.digest));
  return lines;
}

struct Job {
  SequenceRequest request;
  int arrival_step = 0;
  int cancel_step = -1;  // -1: never
};

// Called before each step with what every sequence gave so far.
using BeforeStep = std::function<void(Generation*, const std::map<SequenceId, Outcome>&)>;

// Submits each job at its step (again later while the queue is full) and steps until all is done.
// Checks page ownership after every step, and that nothing is left at the end.
inline std::map<SequenceId, Outcome> RunJobs(model::DecoderModel* model,
                                             const EngineOptions& options, std::vector<Job> jobs,
                                             EngineStats* stats = nullptr, int max_steps = 100000,
                                             const BeforeStep& before_step = {}) {
  std::map<SequenceId, Outcome> outcomes;
  auto engine = Engine::Create(model, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return outcomes;
  auto* generation = static_cast<Generation*>(engine->get());
  size_t left = jobs.size();
  for (int step = 0; (left > 0 || generation->HasWork()) && step < max_steps; ++step) {
    for (Job& job : jobs) {
      if (job.arrival_step >= 0 && job.arrival_step <= step) {
        const SequenceId id = job.request.id;
        const absl::Status status = generation->Submit(job.request, step);
        if (ReasonOf(status) == "QUEUE_FULL") continue;
        EXPECT_TRUE(status.ok()) << status;
        job.arrival_step = -1;
        --left;
        outcomes[id];
      }
      if (job.cancel_step == step && job.arrival_step == -1) generation->Cancel(job.request.id);
    }
    if (before_step) before_step(generation, outcomes);
    for (SequenceOutput& o : generation->Step(step)) {
      Outcome& outcome = outcomes[o.id];
      EXPECT_EQ(outcome.finish, FinishReason::kNone) << "output after the end of " << o.id;
      outcome.tokens.insert(outcome.tokens.end(), o.tokens.begin(), o.tokens.end());
      outcome.prompt_tokens.insert(outcome.prompt_tokens.end(), o.prompt_tokens.begin(),
                                   o.prompt_tokens.end());
      outcome.finish = o.finish;
      outcome.status = o.status;
      outcome.beams = std::move(o.beams);
      outcome.digest = o.digest;
      outcome.usage = o.usage;
    }
    const absl::Status invariants = generation->CheckInvariants();
    EXPECT_TRUE(invariants.ok()) << invariants << " after step " << step;
    if (!invariants.ok()) break;
  }
  EXPECT_FALSE(generation->HasWork()) << "no end in sight";
  const EngineStats end = generation->Stats();
  EXPECT_EQ(end.num_free_pages + end.num_cached_pages, end.num_pages) << "pages leaked";
  if (stats != nullptr) *stats = end;
  return outcomes;
}

// One request in an engine of its own, with room for everything.
inline Outcome RunAlone(model::DecoderModel* model, SequenceRequest request) {
  EngineOptions options;
  options.prefix_cache = false;
  options.prefill_chunk_tokens = 0;
  options.max_batch_tokens = 1 << 20;
  options.max_draft_tokens = 0;
  const SequenceId id = request.id;
  return RunJobs(model, options, {Job{.request = std::move(request)}})[id];
}

}  // namespace tutti::engine
