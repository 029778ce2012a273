// For tests: an engine over the toy model, and what its sequences said.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "shared/engine/engine.h"
#include "shared/engine/generation.h"
#include "shared/testing/toy_model.h"

namespace tutti::engine {

struct Result {
  std::vector<int32_t> tokens;
  std::vector<TokenOutput> outputs, prompt;
  SequenceOutput last;
  bool finished = false;
};

class EngineTest : public ::testing::Test {
 protected:
  void Make(const EngineOptions& options, const testing::ToyOptions& toy = {}) {
    engine_.reset();
    model_ = std::make_unique<testing::ToyModel>(toy);
    auto engine = Engine::Create(model_.get(), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  absl::Status Submit(SequenceId id, std::vector<int32_t> prompt,
                      sampling::SamplingParams params = {}, int32_t priority = 0,
                      int64_t deadline = 0) {
    return engine_->Submit({.id = id,
                            .prompt = std::move(prompt),
                            .params = std::move(params),
                            .priority = priority,
                            .deadline_us = deadline},
                           now_);
  }
  std::vector<SequenceOutput> Step() {
    auto out = engine_->Step(now_++);
    const absl::Status invariants = static_cast<Generation*>(engine_.get())->CheckInvariants();
    EXPECT_TRUE(invariants.ok()) << invariants;
    for (const auto& o : out) {
      Result& r = results_[o.id];
      EXPECT_FALSE(r.finished);
      if (!o.tokens.empty()) {
        EXPECT_EQ(o.first_index, static_cast<int32_t>(r.tokens.size()) + base_[o.id]);
      }
      for (const auto& t : o.tokens) r.tokens.push_back(t.token_id), r.outputs.push_back(t);
      for (const auto& t : o.prompt_tokens) r.prompt.push_back(t);
      r.last = o;
      r.finished = o.finish != FinishReason::kNone;
    }
    return out;
  }
  void RunAll(int max_steps = 5000) {
    while (engine_->HasWork() && max_steps-- > 0) Step();
    EXPECT_FALSE(engine_->HasWork()) << "still busy";
  }
  EngineStats Stats() { return engine_->Stats(); }

  std::unique_ptr<testing::ToyModel> model_;
  std::unique_ptr<Engine> engine_;
  std::map<SequenceId, Result> results_;
  std::map<SequenceId, int32_t> base_;
  int64_t now_ = 1;
};

inline std::vector<int32_t> Prompt(int n, int32_t salt = 0) {
  std::vector<int32_t> p;
  for (int i = 0; i < n; ++i) p.push_back(2 + (i * 7 + salt * 13 + i * i % 5) % 60);
  return p;
}

inline const sampling::SamplingParams kTen = {.seed = 7, .max_tokens = 10, .ignore_eos = true};

}  // namespace tutti::engine
