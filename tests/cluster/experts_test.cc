// Experts on shards: the tokens and digests of one process, whatever happens to the shards.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "tests/cluster/experts_fixture.h"

namespace tutti::cluster {
namespace {

using generation::v1::GenerateResponse;
using generation::v1::GenerationService;
using Clock = std::chrono::steady_clock;

TEST_F(ExpertsClusterTest, AnotherNumberOfSlicesIsAnotherModelAndOneSliceIsThePlainOne) {
  const auto digest = [&](LocalClusterOptions options) -> uint64_t {
    Start(std::move(options));
    const Answer a = Generate(stub_.get(), Story());
    EXPECT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
    return a.choices.empty() ? 0 : a.choices.at(0).finished->digest();
  };
  const uint64_t plain = digest(Options(0, "0"));
  EXPECT_EQ(digest(Options(1, "1")), plain);
  EXPECT_NE(expected_.choices.at(0).finished->digest(), plain);
}

// A few experts fit, so that every layer's are loaded anew for every token; four stay.
TEST_F(ExpertsClusterTest, AShardWithLittleMemoryGivesTheSameBits) {
  LocalClusterOptions options = Options(1);
  options.expert_flags.insert(options.expert_flags.end(), {"--memory", "8", "--pin", "0-1/0-1"});
  Start(std::move(options));
  ExpectTheSame(Generate(stub_.get(), Story()));
}

TEST_F(ExpertsClusterTest, AShardKilledInTheMiddleChangesNothing) {
  Start(Options(3));
  ExpectTheSame(GenerateWith(20, [&] { cluster_->expert(1).Signal(SIGKILL); }));
  ExpectTheSame(GenerateWith(20, [&] { cluster_->expert(0).Signal(SIGKILL); }));
}

// Its memory goes bad while it serves. Answers before it is found may be wrong; the cluster finds
// it, tells everybody, and what it had a part in is not believed any more.
TEST_F(ExpertsClusterTest, AShardThatGoesBadIsQuarantinedAndNoAnswerIsWrongAfterThat) {
  LocalClusterOptions options = Options(1);
  options.target_flags.insert(options.target_flags.end(), {"--expert-double-check", "300"});
  Start(std::move(options));
  const auto fleet = fleet::v1::FleetService::NewStub(cluster_->ConnectAsWorker());
  const auto ready_shards = [](const fleet::v1::GetFleetResponse& r) {
    return std::count_if(r.workers().begin(), r.workers().end(), [](const auto& w) {
      return w.kind() == fleet::v1::WORKER_KIND_EXPERT && w.has_experts() &&
             w.quarantined_by().empty();
    });
  };
  const auto quarantined = [](const fleet::v1::GetFleetResponse& r) {
    return std::any_of(r.workers().begin(), r.workers().end(),
                       [](const auto& w) { return !w.quarantined_by().empty(); });
  };
  ASSERT_TRUE(cluster_->AddExpert(4000).ok());
  ASSERT_TRUE(WaitForFleet(fleet.get(), [&](const auto& r) { return ready_shards(r) == 2; }));
  // A story is 30 layers of 32 steps and more: 2000 parts with two shards, six times the rate.
  bool found = false;
  for (int i = 0; i < 8 && !found; ++i) {
    Generate(stub_.get(), Story());
    grpc::ClientContext context;
    fleet::v1::GetFleetResponse view;
    ASSERT_TRUE(fleet->GetFleet(&context, {}, &view).ok());
    found = quarantined(view);
  }
  ASSERT_TRUE(WaitForFleet(fleet.get(), quarantined)) << cluster_->Logs();
  // The prompt is the one that was cached with the bad shard's rows.
  for (int i = 0; i < 3; ++i) ExpectTheSame(Generate(stub_.get(), Story()));
  // Started again by somebody who has mended it.
  cluster_->expert(1).Signal(SIGKILL);
  ASSERT_TRUE(cluster_->AddExpert().ok());
  ASSERT_TRUE(WaitForFleet(fleet.get(), [&](const auto& r) {
    return ready_shards(r) == 2 && !quarantined(r);
  })) << cluster_->Logs();
  ExpectTheSame(Generate(stub_.get(), Story()));
}

// A shard that says from the start what it must not.
TEST_F(ExpertsClusterTest, AShardThatIsWrongFromTheStartChangesNothing) {
  Start(Options(1));
  const auto fleet = fleet::v1::FleetService::NewStub(cluster_->ConnectAsWorker());
  ASSERT_TRUE(cluster_->AddExpert(0).ok());
  ASSERT_TRUE(WaitForFleet(fleet.get(), [&](const auto& r) {
    return std::count_if(r.workers().begin(), r.workers().end(), [](const auto& w) {
             return w.kind() == fleet::v1::WORKER_KIND_EXPERT && w.has_experts();
           }) == 2;
  }));
  for (int i = 0; i < 4; ++i) ExpectTheSame(Generate(stub_.get(), Story()));
}

TEST_F(ExpertsClusterTest, AFrozenShardChangesNothing) {
  Start(Options(2));
  ExpectTheSame(GenerateWith(20, [&] { cluster_->expert(0).Signal(SIGSTOP); }));
  cluster_->expert(0).Signal(SIGCONT);
  ExpectTheSame(Generate(stub_.get(), Story()));
}

TEST_F(ExpertsClusterTest, AShardThatJoinsInTheMiddleChangesNothing) {
  Start(Options(1));
  ExpectTheSame(GenerateWith(10, [&] { ASSERT_TRUE(cluster_->AddExpert().ok()); }));
}

TEST_F(ExpertsClusterTest, WithNoShardLeftARequestWaitsAndGoesOnWhenOneComes) {
  LocalClusterOptions options = Options(1);
  options.target_flags.insert(options.target_flags.end(), {"--expert-deadline-ms", "120000"});
  Start(std::move(options));
  std::thread later;
  ExpectTheSame(GenerateWith(20, [&] {
    cluster_->expert(0).Signal(SIGKILL);
    later = std::thread([&] { EXPECT_TRUE(cluster_->AddExpert().ok()); });
  }));
  if (later.joinable()) later.join();
}

TEST_F(ExpertsClusterTest, WithNoShardUntilTheDeadlineARequestIsUnavailable) {
  LocalClusterOptions options = Options(1);
  options.target_flags.insert(options.target_flags.end(), {"--expert-deadline-ms", "300"});
  Start(std::move(options));
  const Answer a = GenerateWith(20, [&] { cluster_->expert(0).Signal(SIGKILL); });
  EXPECT_EQ(a.status.error_code(), grpc::StatusCode::UNAVAILABLE) << a.status.error_message();
}

// Two shards become five while requests run: experts move under load.
TEST_F(ExpertsClusterTest, ShardsThatComeTakeLoadSoonAndChangeNothing) {
  Start(Options(2));
  std::atomic<bool> stop{false};
  std::atomic<int> answers{0};
  std::vector<Answer> all;
  std::thread load([&] {
    const auto stub = GenerationService::NewStub(cluster_->Connect());
    do {
      all.push_back(Generate(stub.get(), Story()));
      ++answers;
    } while (!stop);
  });
  const auto router = fleet::v1::FleetService::NewStub(cluster_->ConnectAsWorker());
  EXPECT_TRUE(WaitForFleet(router.get(), [&](const auto&) { return answers > 0; }));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(cluster_->AddExpert().ok());
  std::map<std::string, Clock::time_point> ready, busy;  // by address, of those that came
  EXPECT_TRUE(WaitForFleet(router.get(), [&](const fleet::v1::GetFleetResponse& view) {
    for (const auto& w : view.workers()) {
      if (w.kind() != fleet::v1::WORKER_KIND_EXPERT || w.state() != fleet::v1::WORKER_STATE_READY ||
          w.address().ends_with("/expert0") || w.address().ends_with("/expert1")) {
        continue;
      }
      ready.emplace(w.address(), Clock::now());
      if (!busy.contains(w.address()) && RowsOf(w.address()) > 0)
        busy.emplace(w.address(), Clock::now());
    }
    return busy.size() == 3;
  }));
  const int before = answers;
  EXPECT_TRUE(WaitForFleet(router.get(), [&](const auto&) { return answers > before + 1; }));
  stop = true;
  load.join();
  for (const Answer& a : all) ExpectTheSame(a);
  std::vector<double> ms;
  for (const auto& [address, at] : busy)
    ms.push_back(std::chrono::duration<double, std::milli>(at - ready.at(address)).count());
  std::sort(ms.begin(), ms.end());
  ASSERT_EQ(ms.size(), 3u);
  std::printf("ms from ready to the first rows of three shards: %.0f %.0f %.0f; %d answers\n",
              ms[0], ms[1], ms[2], answers.load());
}

TEST_F(ExpertsClusterTest, APinnedExpertIsHeldWhereItIsPinned) {
  Start(Options(2));
  const auto router = fleet::v1::FleetService::NewStub(cluster_->ConnectAsWorker());
  std::string shard;
  ASSERT_TRUE(WaitForFleet(router.get(), [&](const fleet::v1::GetFleetResponse& view) {
    for (const auto& w : view.workers()) {
      if (w.address().ends_with("/expert1") && w.has_experts()) shard = w.worker_id();
    }
    // Part of the placement, too: that takes a target that knows the model.
    return !shard.empty() && view.placements_size() == 1 && view.placements(0).shards_size() == 2;
  }));
  fleet::v1::PinExpertsRequest request;
  for (const uint32_t expert : {0u, 1u}) {
    auto* pin = request.add_pins();
    pin->set_moe_layer(7);
    pin->set_expert_id(expert);
    pin->set_worker_id(shard);
  }
  grpc::ClientContext context;
  fleet::v1::PinExpertsResponse response;
  const auto status = router->PinExperts(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.pins_size(), 2);
  EXPECT_TRUE(WaitForFleet(router.get(), [&](const fleet::v1::GetFleetResponse& view) {
    int pinned = 0;
    for (const auto& w : view.workers()) {
      if (w.worker_id() != shard) continue;
      for (const uint32_t flags : w.experts().flags())
        pinned += flags == (fleet::v1::EXPERT_FLAG_RESIDENT | fleet::v1::EXPERT_FLAG_PINNED);
    }
    return pinned == 2;
  })) << cluster_->Logs();
  ExpectTheSame(Generate(stub_.get(), Story()));
}

// How long a stream pauses is printed. TUTTI_KILLS=100 gives a percentile that means something, and
// judges it: on a machine of its own the median is below 300 ms.
TEST_F(ExpertsClusterTest, KillAfterKillChangesNothing) {
  const char* const wanted = std::getenv("TUTTI_KILLS");
  const size_t kills = wanted == nullptr ? 6 : std::strtoul(wanted, nullptr, 10);
  ASSERT_GT(kills, 0u);
  Start(Options(2));
  std::vector<double> gaps;
  for (size_t kill = 0; kill < kills; ++kill) {
    double longest = 0;
    Clock::time_point last;
    int left = 60;
    const Answer a = Generate(stub_.get(), Story(), [&](const GenerateResponse& r) {
      if (left <= 0) {
        longest = std::max(longest,
                           std::chrono::duration<double, std::milli>(Clock::now() - last).count());
      } else if ((left -= r.delta().tokens_size()) <= 0) {
        cluster_->expert(kill).Signal(SIGKILL);
      }
      last = Clock::now();
      return true;
    });
    ExpectTheSame(a);
    ASSERT_LE(left, 0);
    gaps.push_back(longest);
    ASSERT_TRUE(cluster_->AddExpert().ok());
    ExpectTheSame(Generate(stub_.get(), Story()));  // the new one has joined meanwhile
  }
  std::sort(gaps.begin(), gaps.end());
  std::printf("ms from kill -9 to the next token, %zu kills: median %.1f, p99 %.1f, most %.1f\n",
              kills, gaps[gaps.size() / 2], gaps[(gaps.size() * 99 - 1) / 100], gaps.back());
  if (wanted != nullptr) EXPECT_LT(gaps[gaps.size() / 2], 300);
}

}  // namespace
}  // namespace tutti::cluster
