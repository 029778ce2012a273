// A draft runs ahead, and is taken back to what the target said: after any Confirm it goes on as an
// engine does that was given that output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/engine/random_service.h"
#include "shared/testing/toy_model.h"

namespace tutti::engine {
namespace {

using ::testing::ElementsAreArray;
using ::testing::SizeIs;
using testing::ToyModel;

SequenceRequest DraftRequest(Random& r, SequenceId id) {
  SequenceRequest request{.id = id, .prompt = RandomPrompt(r), .params = RandomParams(r)};
  request.params.num_beams = request.params.num_return = 1;
  request.params.logprobs = request.params.prompt_logprobs = -1;
  request.params.max_tokens = r(30, 120);
  request.params.min_tokens = r.OneIn(2) ? 10 : 0;
  request.lookahead = r(1, 12);
  return request;
}

// What an engine says next that was given this output: all of it without output; else the next
// tokens of a draft, since a target would find out that the output is not its own.
std::vector<int32_t> GoesOn(ToyModel* model, SequenceRequest request,
                            const std::vector<int32_t>& output) {
  request.lookahead = 0;
  if (output.empty()) return RunAlone(model, request).ids();
  request.lookahead = 16;
  request.generated = output;
  auto engine = std::move(*Engine::Create(model, {.prefix_cache = false, .max_draft_tokens = 0}));
  EXPECT_TRUE(engine->Submit(std::move(request), 0).ok());
  std::vector<int32_t> ids;
  while (engine->HasWork()) {
    for (const SequenceOutput& o : engine->Step(0)) {
      for (const TokenOutput& t : o.tokens) ids.push_back(t.token_id);
    }
  }
  return ids;
}

TEST(DraftTest, AfterAnyConfirmItGoesOnFromWhatItWasTold) {
  ToyModel model;
  int rollbacks = 0, checked = 0;
  uint64_t preemptions = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random r(seed);
    EngineOptions options = RandomOptions(r);
    options.max_waiting = 256;
    auto engine = std::move(*Engine::Create(&model, options));
    auto* generation = static_cast<Generation*>(engine.get());
    struct Stream {
      SequenceRequest request;
      std::vector<int32_t> output;  // as told by the draft and to it
      size_t confirmed = 0;
      uint64_t epoch = 0;
    };
    std::map<SequenceId, Stream> streams;
    for (SequenceId id = 1; id <= 4; ++id) {
      streams[id].request = DraftRequest(r, id);
      ASSERT_TRUE(engine->Submit(streams[id].request, 0).ok());
    }
    for (int step = 0; step < 60; ++step) {
      for (auto& [id, s] : streams) {
        if (!r.OneIn(3)) continue;
        // Confirm some, and sometimes another token than it said, or more than it has said.
        std::vector<int32_t> tokens(s.output.begin() + static_cast<ptrdiff_t>(s.confirmed),
                                    s.output.end());
        if (!tokens.empty())
          tokens.resize(static_cast<size_t>(r(0, static_cast<int>(tokens.size()))));
        if (r.OneIn(2)) tokens.push_back(r(2, 63));
        if (r.OneIn(4)) tokens.push_back(r(2, 63));
        const auto most = static_cast<size_t>(s.request.params.max_tokens);
        if (s.confirmed + tokens.size() > most) tokens.resize(most - s.confirmed);
        if (tokens.empty()) continue;
        const auto position = static_cast<int32_t>(s.confirmed);
        std::vector<int32_t> told(s.output.begin(), s.output.begin() + position);
        told.insert(told.end(), tokens.begin(), tokens.end());
        const bool agrees = told.size() <= s.output.size() &&
                            std::equal(told.begin(), told.end(), s.output.begin());
        const bool anew = r.OneIn(3);
        if (anew) ++s.epoch;
        if (!agrees || anew) {
          s.output = told;
          ++rollbacks;
        }
        s.confirmed = told.size();
        engine->Confirm(id, s.epoch, position, tokens);
      }
      const absl::Status before = generation->CheckInvariants();
      ASSERT_TRUE(before.ok()) << before;
      for (const SequenceOutput& o : engine->Step(step)) {
        Stream& s = streams[o.id];
        ASSERT_EQ(o.finish, FinishReason::kNone) << o.status;
        ASSERT_EQ(o.epoch, s.epoch);
        ASSERT_EQ(static_cast<size_t>(o.confirmed), s.confirmed);
        ASSERT_EQ(static_cast<size_t>(o.first_index), s.output.size());
        const auto want = GoesOn(&model, s.request, s.output);
        for (size_t i = 0; i < o.tokens.size(); ++i) {
          ASSERT_LT(i, want.size()) << "it went on after the end";
          ASSERT_EQ(o.tokens[i].token_id, want[i]) << o.id;
          s.output.push_back(o.tokens[i].token_id);
          ++checked;
        }
        ASSERT_LE(s.output.size(), s.confirmed + static_cast<size_t>(s.request.lookahead));
      }
      const absl::Status after = generation->CheckInvariants();
      ASSERT_TRUE(after.ok()) << after;
    }
    preemptions += engine->Stats().preemptions;
    for (const auto& [id, s] : streams) engine->Cancel(id);
    EXPECT_FALSE(engine->HasWork());
    const EngineStats end = engine->Stats();
    EXPECT_EQ(end.num_free_pages + end.num_cached_pages, end.num_pages);
  }
  EXPECT_GT(rollbacks, 500);
  EXPECT_GT(checked, 3000);
  EXPECT_GT(preemptions, 10u);
}

TEST(DraftTest, ItWaitsAtItsLookaheadAndTheEngineHasNoWork) {
  ToyModel model;
  auto engine = std::move(*Engine::Create(&model, {.num_pages = 64}));
  SequenceRequest request{
      .id = 1, .prompt = {5, 6, 7}, .params = {.max_tokens = 50, .ignore_eos = true}};
  request.lookahead = 3;
  ASSERT_TRUE(engine->Submit(request, 0).ok());
  std::vector<int32_t> said;
  const auto run = [&] {
    while (engine->HasWork()) {
      for (const auto& o : engine->Step(0))
        for (const auto& t : o.tokens) said.push_back(t.token_id);
    }
  };
  run();
  EXPECT_THAT(said, SizeIs(3));
  engine->Confirm(1, 0, 0, said);
  EXPECT_TRUE(engine->HasWork());
  run();
  EXPECT_THAT(said, SizeIs(6));
  std::vector<int32_t> want = GoesOn(&model, request, {});
  want.resize(6);
  EXPECT_THAT(said, ElementsAreArray(want));
  engine->Confirm(1, 1, 9, std::vector<int32_t>{4});  // leaves a gap
  engine->Confirm(2, 1, 0, std::vector<int32_t>{4});  // nobody
  run();
  EXPECT_THAT(said, SizeIs(6));
}

TEST(DraftTest, ADraftOfTheSameModelIsAlwaysRight) {
  // The same noise at the same place: also at a high temperature.
  ToyModel model, draft_model;
  Random r(3);
  for (int round = 0; round < 10; ++round) {
    SequenceRequest request = DraftRequest(r, 1);
    request.lookahead = 4;
    request.params.ignore_eos = true;
    request.params.stop_ids.clear();
    const Outcome alone = RunAlone(&model, [&] {
      SequenceRequest plain = request;
      plain.lookahead = 0;
      return plain;
    }());
    auto draft = std::move(*Engine::Create(&draft_model, {.num_pages = 64}));
    ASSERT_TRUE(draft->Submit(request, 0).ok());
    SequenceRequest plain = request;
    plain.lookahead = 0;
    size_t confirmed = 0;
    EngineStats stats;
    auto outcomes = RunJobs(&model, {.num_pages = 64, .adapt_drafts = false}, {Job{plain}}, &stats,
                            1000, [&](Generation* target, const std::map<SequenceId, Outcome>& o) {
                              const auto ids = o.empty() ? std::vector<int32_t>() : o.at(1).ids();
                              draft->Confirm(1, 0, static_cast<int32_t>(confirmed),
                                             std::span(ids).subspan(confirmed));
                              confirmed = ids.size();
                              while (draft->HasWork()) {
                                for (const auto& d : draft->Step(0)) {
                                  std::vector<int32_t> hint;
                                  for (const auto& t : d.tokens) hint.push_back(t.token_id);
                                  target->Hint(1, d.first_index, hint);
                                }
                              }
                            });
    EXPECT_THAT(BitsOf(outcomes[1]), ElementsAreArray(BitsOf(alone)));
    EXPECT_EQ(stats.accepted_tokens, stats.proposed_tokens);
    EXPECT_GT(stats.accepted_tokens, alone.tokens.size() / 2);
  }
}

}  // namespace
}  // namespace tutti::engine
