#include "shared/exchange/expert_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"

namespace tutti::exchange {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kLayers = 3, kExperts = 8;

ExchangeOptions Options() {
  return {.num_layers = kLayers,
          .experts_per_layer = kExperts,
          .deadline_us = 1'000'000,
          .hedge_min_us = 1000,
          .double_every = 0};
}

// Two rows; both want experts 0 and 1, the second also 5.
struct TwoRows {
  std::vector<int32_t> offsets = {0, 2, 5}, ids = {0, 1, 0, 1, 5};
  void Start(ExpertExchange* x, int64_t now = 0) { x->Start(0, 1, offsets, ids, now); }
};

TEST(ExpertExchangeTest, OneShardGetsEveryRowOnce) {
  ExpertExchange x(Options());
  x.OnShardUp(7, 7, 0);
  TwoRows batch;
  batch.Start(&x);
  const auto sends = x.TakeSends();
  ASSERT_EQ(sends.size(), 1u);
  EXPECT_THAT(sends[0].rows->rows, ElementsAre(0, 1));
  EXPECT_THAT(sends[0].rows->offsets, ElementsAre(0, 2, 5));
  EXPECT_THAT(sends[0].rows->pairs, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_FALSE(x.TakeResult(0).has_value());
  const auto filled = x.OnReply(7, sends[0].dispatch_id, absl::OkStatus(), 0, 10);
  ASSERT_TRUE(filled.has_value());
  EXPECT_EQ(filled->rows->pairs.size(), 5u);
  const auto result = x.TakeResult(0);
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->ok()) << *result;
}

TEST(ExpertExchangeTest, RowsOfAShardThatWentAwayGoToTheOthers) {
  ExpertExchange x(Options());
  x.OnShardUp(1, 1, 0);
  x.OnShardUp(2, 2, 0);
  std::vector<int32_t> offsets = {0, 8}, ids = {0, 1, 2, 3, 4, 5, 6, 7};
  x.Start(0, 0, offsets, ids, 0);
  auto sends = x.TakeSends();
  ASSERT_EQ(sends.size(), 2u);  // an equal share each
  EXPECT_EQ(sends[0].rows->pairs.size(), 4u);
  EXPECT_TRUE(x.OnReply(1, sends[0].dispatch_id, absl::OkStatus(), 0, 5).has_value());
  x.OnShardDown(2, 6);
  const auto again = x.TakeSends();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].shard, 1u);
  EXPECT_TRUE(x.OnReply(1, again[0].dispatch_id, absl::OkStatus(), 0, 9).has_value());
  EXPECT_TRUE(x.TakeResult(0).value_or(absl::UnknownError("")).ok());
}

TEST(ExpertExchangeTest, ASlowShardIsHedgedAndGetsNothingNewUntilItAnswers) {
  ExpertExchange x(Options());
  x.OnShardUp(1, 1, 0);
  x.OnShardUp(2, 2, 0);
  std::vector<int32_t> offsets = {0, 8}, ids = {0, 1, 2, 3, 4, 5, 6, 7};
  x.Start(0, 0, offsets, ids, 0);
  const auto sends = x.TakeSends();
  ASSERT_EQ(sends.size(), 2u);
  x.OnReply(1, sends[0].dispatch_id, absl::OkStatus(), 0, 100);
  x.OnTick(999);
  EXPECT_THAT(x.TakeSends(), IsEmpty());
  EXPECT_EQ(x.NextTickUs(), 1000);
  x.OnTick(1000);
  const auto hedge = x.TakeSends();
  ASSERT_EQ(hedge.size(), 1u);
  EXPECT_EQ(hedge[0].shard, 1u);
  EXPECT_TRUE(x.OnReply(1, hedge[0].dispatch_id, absl::OkStatus(), 0, 1100).has_value());
  EXPECT_TRUE(x.TakeResult(0).value_or(absl::UnknownError("")).ok());

  x.Start(0, 0, offsets, ids, 2000);
  const auto next = x.TakeSends();
  ASSERT_EQ(next.size(), 1u);
  EXPECT_EQ(next[0].shard, 1u);
  // Its late answer is dropped, and it is trusted again.
  EXPECT_FALSE(x.OnReply(2, sends[1].dispatch_id, absl::OkStatus(), 0, 2001).has_value());
  x.OnReply(1, next[0].dispatch_id, absl::OkStatus(), 0, 2100);
  EXPECT_TRUE(x.TakeResult(0).has_value());
  x.Start(0, 0, offsets, ids, 3000);
  EXPECT_EQ(x.TakeSends().size(), 2u);
}

TEST(ExpertExchangeTest, WithNoShardABatchWaitsAndAShardThatComesInTimeSavesIt) {
  ExpertExchange x(Options());
  TwoRows batch;
  batch.Start(&x);
  EXPECT_THAT(x.TakeSends(), IsEmpty());
  x.OnTick(500'000);
  EXPECT_FALSE(x.TakeResult(0).has_value());
  x.OnShardUp(3, 3, 600'000);
  const auto sends = x.TakeSends();
  ASSERT_EQ(sends.size(), 1u);
  x.OnReply(3, sends[0].dispatch_id, absl::OkStatus(), 0, 600'100);
  EXPECT_TRUE(x.TakeResult(0).value_or(absl::UnknownError("")).ok());
}

TEST(ExpertExchangeTest, AfterTheDeadlineABatchIsUnavailable) {
  ExpertExchange x(Options());
  TwoRows batch;
  batch.Start(&x);
  x.OnTick(1'000'000);
  EXPECT_TRUE(absl::IsUnavailable(x.TakeResult(0).value_or(absl::OkStatus())));
}

TEST(ExpertExchangeTest, APartKnowsItsShareOfWhatIsHandedOutWithIt) {
  ExpertExchange x(Options());
  for (const ShardId s : {1u, 2u}) x.OnShardUp(s, 10 * s, 0);
  Holders holders(kLayers * kExperts);
  holders[kExperts + 0] = {10};
  holders[kExperts + 1] = {10};
  holders[kExperts + 5] = {20};
  x.SetHolders(holders);
  TwoRows batch;
  batch.Start(&x);
  std::map<ShardId, float> share;
  for (const auto& s : x.TakeSends()) share[s.shard] = s.rows->share;
  EXPECT_EQ(share, (std::map<ShardId, float>{{1, 4.0F / 5}, {2, 1.0F / 5}}));
  // What one that went away had is all that is handed out then.
  x.OnShardDown(1, 1);
  const auto again = x.TakeSends();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].rows->share, 1);
}

TEST(ExpertExchangeTest, RowsGoToTheHoldersOfTheirExpertsAndWithoutThemToAnyShard) {
  ExpertExchange x(Options());
  for (const ShardId s : {1u, 2u, 3u}) x.OnShardUp(s, 10 * s, 0);
  Holders holders(kLayers * kExperts);
  holders[kExperts + 0] = {30};
  holders[kExperts + 1] = {30};
  holders[kExperts + 5] = {99};  // is not there
  x.SetHolders(holders);
  TwoRows batch;
  batch.Start(&x);
  std::map<int32_t, ShardId> shard_of;
  for (const auto& s : x.TakeSends()) {
    for (const int32_t p : s.rows->pairs) shard_of[batch.ids[static_cast<size_t>(p)]] = s.shard;
  }
  EXPECT_EQ(shard_of[0], 3u);
  EXPECT_EQ(shard_of[1], 3u);
  ASSERT_TRUE(shard_of.contains(5));
  // One that goes away is missed by nobody for long.
  x.OnShardDown(3, 1);
  for (const auto& s : x.TakeSends()) EXPECT_NE(s.shard, 3u);
}

TEST(ExpertExchangeTest, HoldersOfOneExpertShareItsRowsEvenlyOverABatchAndOverTime) {
  ExpertExchange x(Options());
  for (const ShardId s : {1u, 2u}) x.OnShardUp(s, 10 * s, 0);
  Holders holders(kLayers * kExperts);
  holders[0] = {10, 20};
  holders[1] = {10};
  x.SetHolders(holders);
  const auto run = [&](int num_rows, bool both, int64_t now) {
    std::vector<int32_t> offsets = {0}, ids;
    for (int r = 0; r < num_rows; ++r) {
      ids.push_back(0);
      if (both) ids.push_back(1);
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
    x.Start(0, 0, offsets, ids, now);
    std::map<ShardId, size_t> sent;
    for (const auto& s : x.TakeSends()) {
      sent[s.shard] += s.rows->pairs.size();
      x.OnReply(s.shard, s.dispatch_id, absl::OkStatus(), 0, now + 1);
    }
    EXPECT_TRUE(x.TakeResult(0).value_or(absl::UnknownError("")).ok());
    return sent;
  };
  auto sent = run(64, false, 0);
  EXPECT_EQ(sent[1], 32u);
  EXPECT_EQ(sent[2], 32u);
  sent = run(8, true, 10);  // shard 1 has expert 1, so expert 0 is 2's
  EXPECT_EQ(sent[1], 8u);
  EXPECT_EQ(sent[2], 8u);
  size_t first = 0;
  for (int i = 0; i < 100; ++i) first += run(1, false, 100 + 10 * i)[1];
  EXPECT_GE(first, 40u);
  EXPECT_LE(first, 60u);
}

TEST(ExpertExchangeTest, AShardThatComesTakesOverFromOneThatDoesNotAnswer) {
  ExpertExchange x(Options());
  x.OnShardUp(1, 1, 0);
  TwoRows batch;
  batch.Start(&x);
  x.TakeSends();
  x.OnTick(5000);  // overdue, and nobody else is there
  EXPECT_THAT(x.TakeSends(), IsEmpty());
  x.OnShardUp(2, 2, 6000);
  const auto sends = x.TakeSends();
  ASSERT_EQ(sends.size(), 1u);
  EXPECT_EQ(sends[0].shard, 2u);
}

TEST(ExpertExchangeTest, WhenNoShardHasMemoryTheBatchSaysSo) {
  ExpertExchange x(Options());
  x.OnShardUp(1, 1, 0);
  x.OnShardUp(2, 2, 0);
  std::vector<int32_t> offsets = {0, 1}, ids = {0};
  x.Start(0, 0, offsets, ids, 0);
  for (int i = 0; i < 2; ++i) {
    const auto sends = x.TakeSends();
    ASSERT_EQ(sends.size(), 1u) << i;
    x.OnReply(sends[0].shard, sends[0].dispatch_id, absl::ResourceExhaustedError("full"), 0, i);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(x.TakeResult(0).value_or(absl::OkStatus())));
}

// Every dispatch is doubled. Shard 2 lies.
TEST(ExpertExchangeTest, AThirdShardDecidesWhoWasWrongAndTheLoserIsQuarantined) {
  for (const bool liar_first : {false, true}) {
    ExchangeOptions options = Options();
    options.double_every = 1;
    ExpertExchange x(options);
    for (const ShardId s : {1u, 2u, 3u}) x.OnShardUp(s, s, 0);
    const auto hash = [](ShardId s) { return s == 2 ? 666u : 42u; };
    std::vector<int32_t> offsets = {0, 1};
    // Until the liar is one of the two.
    for (int32_t e = 0; e < kExperts && x.stats().mismatches == 0; ++e) {
      const std::vector<int32_t> ids = {e};
      x.Start(0, 0, offsets, ids, 0);
      auto sends = x.TakeSends();
      ASSERT_EQ(sends.size(), 2u);
      if ((sends[0].shard == 2) != liar_first) std::swap(sends[0], sends[1]);
      ShardId used = kNoShard;
      for (const auto& s : sends) {
        EXPECT_TRUE(x.Compares(s.dispatch_id));
        if (x.OnReply(s.shard, s.dispatch_id, absl::OkStatus(), hash(s.shard), 1)) used = s.shard;
      }
      for (const auto& s : x.TakeSends()) {
        if (x.OnReply(s.shard, s.dispatch_id, absl::OkStatus(), hash(s.shard), 2)) used = s.shard;
      }
      EXPECT_TRUE(x.TakeResult(0).value_or(absl::UnknownError("")).ok());
      EXPECT_NE(used, 2u) << "the wrong rows would be kept";
    }
    EXPECT_EQ(x.stats().mismatches, 1);
    EXPECT_TRUE(x.quarantined(2));
    EXPECT_FALSE(x.quarantined(1));
    EXPECT_FALSE(x.quarantined(3));
    EXPECT_EQ(x.num_usable(), 2);
  }
}

// Shards that answer at once, but for what `delay` and `fails` say.
struct Calls {
  explicit Calls(const ExchangeOptions& options) : x(options) {}
  // Runs `num` batches in which each row wants experts [0, width).
  void Run(int num, int rows, int width) {
    for (int i = 0; i < num; ++i) {
      std::vector<int32_t> offsets = {0}, ids;
      for (int r = 0; r < rows; ++r) {
        for (int e = 0; e < width; ++e) ids.push_back(e);
        offsets.push_back(static_cast<int32_t>(ids.size()));
      }
      x.Start(0, i % kLayers, offsets, ids, now);
      std::multimap<int64_t, ExpertExchange::Send> due;
      while (true) {
        for (const auto& s : x.TakeSends()) {
          ++calls;
          due.emplace(s.shard == kOwnShard ? now : now + 100 + delay(calls), s);
        }
        if (x.TakeResult(0)) break;
        if (due.empty()) {  // all have refused
          now = std::max(now, x.NextTickUs());
          x.OnTick(now);
          continue;
        }
        const auto [at, s] = *due.begin();
        const int64_t next = std::min(at, x.NextTickUs());
        now = std::max(now, next);
        x.OnTick(now);
        if (next < at) continue;
        due.erase(due.begin());
        const absl::Status status =
            s.shard != kOwnShard && fails(s) ? absl::DeadlineExceededError("") : absl::OkStatus();
        x.OnReply(s.shard, s.dispatch_id, status, wrong(s) ? 666 : 42, now, 1000 + s.shard);
      }
      now += 1000;
    }
  }
  ExpertExchange x;
  std::function<int64_t(int64_t call)> delay = [](int64_t) { return 0; };
  std::function<bool(const ExpertExchange::Send&)> fails = [](const auto&) { return false; };
  std::function<bool(const ExpertExchange::Send&)> wrong = [](const auto&) { return false; };
  int64_t now = 0, calls = 0;
};

TEST(DoubleCheckTest, OnePartInSoManyIsComparedWhateverABatchIsCutInto) {
  for (const int num_shards : {2, 3, 5}) {
    for (const int64_t part_pairs : {0, 3, 7}) {
      for (const bool trouble : {false, true}) {
        for (const uint32_t every : {7u, 50u, 100u}) {
          ExchangeOptions options = Options();
          options.double_every = every;
          options.max_part_pairs = part_pairs;
          Calls c(options);
          if (trouble) {  // hedges and retries
            c.delay = [](int64_t call) { return call % 37 == 0 ? 5000 : 0; };
            c.fails = [&](const auto& s) { return s.dispatch_id % 101 == 0; };
          }
          for (int s = 0; s < num_shards; ++s)
            c.x.OnShardUp(static_cast<ShardId>(s), 10 + static_cast<uint64_t>(s), 0);
          c.Run(2000, 3, 5);
          const ExchangeStats& stats = c.x.stats();
          SCOPED_TRACE(absl::StrCat(num_shards, " shards, parts of ", part_pairs, ", every ", every,
                                    ", trouble ", trouble, ": ", stats.parts, " parts, ",
                                    stats.compared, " compared, ", stats.hedges, " hedges"));
          ASSERT_GE(stats.parts, 2000);
          if (trouble) {
            EXPECT_GT(stats.hedges, 0);
            EXPECT_GT(stats.retries, 0);
          }
          const int64_t due = stats.parts / every;
          // Parts 1, 2, 4, ... of a link are compared besides, and one that is given up is made up
          // for.
          const int64_t first_ones = num_shards * 7;
          EXPECT_GE(stats.compared, due - 2);
          EXPECT_LE(stats.compared, due + first_ones + stats.abandoned);
          EXPECT_EQ(stats.mismatches, 0);
        }
      }
    }
  }
}

TEST(DoubleCheckTest, WhatIsDueIsKeptUntilASecondShardComes) {
  ExchangeOptions options = Options();
  options.double_every = 100;
  Calls c(options);
  c.x.OnShardUp(1, 1, 0);
  c.Run(550, 1, 2);
  EXPECT_EQ(c.x.stats().compared, 0);
  c.x.OnShardUp(2, 2, c.now);
  c.Run(40, 1, 2);
  EXPECT_GE(c.x.stats().compared, 5);
}

TEST(DoubleCheckTest, OneShardAloneIsComparedWithTheCallersOwnExperts) {
  ExchangeOptions options = Options();
  options.double_every = 10;
  options.own_experts = true;
  Calls c(options);
  c.x.OnShardUp(1, 1, 0);
  c.Run(1600, 1, 2);
  EXPECT_GE(c.x.stats().by_own, 10);  // one in 16 of what is due, and parts 1, 2, 4, 8
  EXPECT_LE(c.x.stats().by_own, 20);
  EXPECT_EQ(c.x.stats().compared, c.x.stats().by_own);
}

TEST(DoubleCheckTest, AShardThatIsWrongFromTheStartIsFoundBeforeItsRowsAreUsed) {
  for (const bool own : {false, true}) {
    for (const ShardId liar : {1u, 2u, 3u}) {
      ExchangeOptions options = Options();
      options.double_every = 1000;
      options.own_experts = own;
      Calls c(options);
      c.wrong = [&](const auto& s) { return s.shard == liar; };
      for (const ShardId s : {1u, 2u, 3u}) c.x.OnShardUp(s, s, 0);
      c.Run(20, 4, 8);
      EXPECT_TRUE(c.x.quarantined(liar));
      EXPECT_EQ(c.x.num_usable(), 2);
      const Provenance p = c.x.TakeProvenance();
      EXPECT_NE(p.distrusted, 0u);
      EXPECT_EQ(p.made_by & p.distrusted, 0u);
    }
  }
}

// Two shards cannot say which of them is wrong; the caller's own experts can.
TEST(DoubleCheckTest, OwnExpertsSettleWhatTwoShardsDifferIn) {
  ExchangeOptions options = Options();
  options.double_every = 100;
  options.own_experts = true;
  Calls c(options);
  for (const ShardId s : {1u, 2u}) c.x.OnShardUp(s, s, 0);
  c.Run(200, 4, 8);
  EXPECT_EQ(c.x.stats().mismatches, 0);
  EXPECT_EQ(c.x.TakeProvenance().distrusted, 0u);
  c.wrong = [](const auto& s) { return s.shard == 2; };  // its memory goes bad
  const int64_t before = c.x.stats().parts;
  while (c.x.stats().mismatches == 0 && c.x.stats().parts < before + 1000) c.Run(1, 4, 8);
  EXPECT_LE(c.x.stats().parts - before, 300) << "found within a few times double_every parts";
  EXPECT_TRUE(c.x.quarantined(2));
  EXPECT_FALSE(c.x.quarantined(1));
  const Provenance p = c.x.TakeProvenance();
  EXPECT_NE(p.made_by & p.distrusted, 0u) << "its rows were used until then";
  EXPECT_NE(p.made_by & ~p.distrusted, 0u);
  // Nothing of it is used any more.
  c.Run(100, 4, 8);
  EXPECT_EQ(c.x.TakeProvenance().made_by & p.distrusted, 0u);
}

TEST(DoubleCheckTest, WithoutAThirdOpinionBothAreDistrustedAndTheBatchFails) {
  ExchangeOptions options = Options();
  options.double_every = 1;
  ExpertExchange x(options);
  for (const ShardId s : {1u, 2u}) x.OnShardUp(s, s, 0);
  TwoRows batch;
  batch.Start(&x);
  for (const auto& s : x.TakeSends())
    x.OnReply(s.shard, s.dispatch_id, absl::OkStatus(), 40 + s.shard, 1, 1000 + s.shard);
  const auto result = x.TakeResult(0);
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(absl::IsDataLoss(*result)) << *result;
  EXPECT_EQ(std::popcount(x.TakeProvenance().distrusted), 2);
  EXPECT_GE(x.stats().unsettled, 1);
  EXPECT_EQ(x.stats().quarantined, 0);
}

TEST(DoubleCheckTest, AQuarantinedProcessStaysSoWhenItConnectsAgainAndANewOneIsWatched) {
  ExchangeOptions options = Options();
  options.double_every = 1000;
  options.own_experts = true;
  Calls c(options);
  c.wrong = [](const auto& s) { return s.shard == 2; };
  for (const ShardId s : {1u, 2u}) c.x.OnShardUp(s, s, 0);
  c.Run(5, 4, 8);
  ASSERT_EQ(c.x.quarantined().size(), 1u);
  EXPECT_EQ(c.x.quarantined()[0].key, 2u);
  EXPECT_EQ(c.x.quarantined()[0].process, 1002u);
  c.x.OnShardDown(2, c.now);
  // The same process by another link, and at another address.
  for (const ShardId link : {7u, 8u}) {
    c.x.OnShardUp(link, link == 7 ? 2 : 88, c.now);
    std::vector<int32_t> offsets = {0, 8}, ids = {0, 1, 2, 3, 4, 5, 6, 7};
    c.x.Start(0, 0, offsets, ids, c.now);
    for (auto sends = c.x.TakeSends(); !sends.empty(); sends = c.x.TakeSends()) {
      for (const auto& s : sends) {
        const bool filled = c.x.OnReply(s.shard, s.dispatch_id, absl::OkStatus(), 42, c.now,
                                        s.shard == link ? 1002 : 1000 + s.shard)
                                .has_value();
        if (s.shard == link) {
          EXPECT_FALSE(filled);
        }
      }
    }
    EXPECT_TRUE(c.x.TakeResult(0).value_or(absl::UnknownError("")).ok());
    EXPECT_TRUE(c.x.quarantined(link));
    c.x.OnShardDown(link, c.now);
  }
  // A new process at its address: its first parts are all compared.
  c.x.OnShardUp(9, 2, c.now);
  const int64_t before = c.x.stats().compared;
  c.Run(100, 4, 8);
  EXPECT_FALSE(c.x.quarantined(9));
  EXPECT_GE(c.x.stats().compared - before, 95);
  c.Run(400, 4, 8);
  EXPECT_LE(c.x.stats().compared - before, kWatchedParts + 20);
}

TEST(DoubleCheckTest, WhatSomebodyElseFoundWrongIsComparedAtOnce) {
  ExchangeOptions options = Options();
  options.double_every = 100000;
  Calls c(options);
  for (const ShardId s : {1u, 2u, 3u}) c.x.OnShardUp(s, s, 0);
  c.Run(50, 4, 8);
  c.wrong = [](const auto& s) { return s.shard == 2; };
  c.Run(3, 4, 8);
  EXPECT_FALSE(c.x.quarantined(2));
  c.x.Suspect(1002);
  c.Run(2, 4, 8);
  EXPECT_TRUE(c.x.quarantined(2));
}

TEST(PlacementTest, SharesAreEqualAndAShardThatGoesMovesLittleElse) {
  std::vector<PlacementShard> shards = {{0, 11}, {1, 22}, {2, 33}, {3, 44}};
  const auto before = PlaceLayer(shards, 5, 64);
  std::map<ShardId, int> load;
  for (const ShardId s : before) ++load[s];
  for (const auto& [s, n] : load) EXPECT_EQ(n, 16) << s;
  shards.erase(shards.begin() + 1);
  const auto after = PlaceLayer(shards, 5, 64);
  int moved = 0;
  for (size_t e = 0; e < before.size(); ++e) moved += before[e] != 1 && before[e] != after[e];
  EXPECT_LT(moved, 16);  // of the 48 that could have stayed
  EXPECT_THAT(PlaceLayer({}, 0, 2), ElementsAre(kNoShard, kNoShard));
}

}  // namespace
}  // namespace tutti::exchange
