// Beam search in the engine against transformers' generate (tests/data/sampling/beam_search.json:
// model llama_gqa, sequences best first; ids exact, scores within 1e-4).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "shared/engine/test_harness.h"
#include "tests/golden/model_fixture.h"

namespace tutti::golden {
namespace {

using engine::Job;
using engine::Outcome;
using engine::SequenceId;

nlohmann::json Cases() {
  std::ifstream file(TUTTI_SOURCE_DIR "/tests/data/sampling/beam_search.json");
  return nlohmann::json::parse(file)["cases"];
}

// The model's own end tokens do not count here: each case names its one, or none.
engine::SequenceRequest RequestOf(const nlohmann::json& c, SequenceId id) {
  engine::SequenceRequest request{.id = id, .prompt = c["prompt_ids"].get<std::vector<int32_t>>()};
  request.params.temperature = 0;
  request.params.num_beams = request.params.num_return = c["num_beams"].get<int>();
  request.params.length_penalty = c["length_penalty"].get<float>();
  request.params.no_repeat_ngram_size = c["no_repeat_ngram_size"].get<int>();
  request.params.early_stopping = c["early_stopping"].get<bool>();
  request.params.max_tokens = c["max_new_tokens"].get<int>();
  request.params.ignore_eos = true;
  if (!c["eos_token_id"].is_null()) request.params.stop_ids = {c["eos_token_id"].get<int32_t>()};
  return request;
}

void ExpectGolden(const nlohmann::json& c, const Outcome& outcome) {
  ASSERT_EQ(outcome.beams.size(), c["sequences"].size());
  for (size_t b = 0; b < outcome.beams.size(); ++b) {
    auto want = c["sequences"][b].get<std::vector<int32_t>>();
    if (!c["eos_token_id"].is_null()) {  // golden rows are padded behind the end token
      const auto end = std::find(want.begin(), want.end(), c["eos_token_id"].get<int32_t>());
      if (end != want.end()) want.erase(end + 1, want.end());
    }
    EXPECT_EQ(outcome.beams[b].token_ids, want) << "beam " << b;
    EXPECT_NEAR(outcome.beams[b].score, c["scores"][b].get<double>(), 1e-4) << "beam " << b;
  }
}

TEST(GoldenBeamSearchTest, BeamsAndScoresAreThoseOfTransformers) {
  const auto model = LoadOrDie(LoadGolden("llama_gqa").model_dir, DType::kF32);
  SequenceId id = 0;
  for (const auto& c : Cases()) {
    SCOPED_TRACE(::testing::Message() << "case " << id);
    ExpectGolden(c, engine::RunAlone(model.get(), RequestOf(c, ++id)));
  }
  EXPECT_EQ(id, 7u);
}

TEST(GoldenBeamSearchTest, AllSearchesTogetherInATightPoolGiveTheSameBits) {
  const auto model = LoadOrDie(LoadGolden("llama_gqa").model_dir, DType::kF32);
  std::vector<Job> jobs;
  for (const auto& c : Cases()) jobs.push_back({.request = RequestOf(c, jobs.size() + 1)});
  engine::EngineOptions options;
  options.num_pages = 20;
  options.prefill_chunk_tokens = 7;
  engine::EngineStats stats;
  auto outcomes = engine::RunJobs(model.get(), options, jobs, &stats);
  EXPECT_GT(stats.preemptions, 0u);
  for (const Job& job : jobs) {
    EXPECT_EQ(BitsOf(outcomes[job.request.id]), BitsOf(engine::RunAlone(model.get(), job.request)));
  }
}

}  // namespace
}  // namespace tutti::golden
