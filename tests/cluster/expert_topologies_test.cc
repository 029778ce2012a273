// One golden continuation, a batch of eight samples of one process, out of every place where
// experts can be: here, on shards, on both, anywhere, twice, moving; and with moves and shards that
// leave in the middle.
#include <gmock/gmock.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <set>

#include "shared/model/pack.h"
#include "shared/moe/expert_set.h"
#include "shared/testing/http_get.h"
#include "tests/cluster/experts_fixture.h"

namespace tutti::cluster {
namespace {

using fleet::v1::FleetService;
using fleet::v1::GetFleetResponse;

constexpr int kLayers = 30, kSlices = 2;

class ExpertTopologiesTest : public ExpertsClusterTest {
 protected:
  void StartWith(int shards, const std::vector<std::string>& target_flags,
                 const std::vector<std::string>& expert_flags = {}) {
    router_.reset();
    stub_.reset();
    cluster_.reset();
    LocalClusterOptions o = Options(shards);
    o.target_flags.insert(o.target_flags.end(), target_flags.begin(), target_flags.end());
    o.expert_flags.insert(o.expert_flags.end(), expert_flags.begin(), expert_flags.end());
    Start(std::move(o));
    router_ = FleetService::NewStub(cluster_->ConnectAsWorker());
  }
  std::string AddressOf(size_t shard) const {
    return "unix:" + cluster_->folder() + "/expert" + std::to_string(shard);
  }
  // Experts that a shard ran, numbered layer * slices + slice.
  std::set<int> AskedOf(size_t shard) {
    const auto stub = expert::v1::ExpertService::NewStub(*rpc::OpenChannel(AddressOf(shard)));
    grpc::ClientContext context;
    expert::v1::GetExpertsResponse response;
    const auto status = stub->GetExperts(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    std::set<int> out;
    for (const auto& e : response.experts()) {
      if (e.rows() > 0) out.insert(static_cast<int>(e.moe_layer() * kSlices + e.expert_id()));
    }
    return out;
  }
  std::set<int> AskedOfAll() {
    std::set<int> out;
    for (size_t i = 0; i < cluster_->num_experts(); ++i) out.merge(AskedOf(i));
    return out;
  }
  // The worker id of a shard once it has joined and is part of the placement.
  std::string WorkerOf(size_t shard) {
    std::string id;
    EXPECT_TRUE(WaitForFleet(router_.get(), [&](const GetFleetResponse& view) {
      for (const auto& w : view.workers()) {
        if (w.address() == AddressOf(shard) && w.has_experts()) id = w.worker_id();
      }
      if (id.empty() || view.placements_size() != 1) return false;
      const auto& shards = view.placements(0).shards();
      return std::find(shards.begin(), shards.end(), AddressOf(shard)) != shards.end();
    }));
    return id;
  }
  // Pins every expert to the workers that `of` names for it; returns at once.
  void Pin(const std::function<std::vector<std::string>(int layer, int expert)>& of,
           bool unpin = false) {
    fleet::v1::PinExpertsRequest request;
    request.set_unpin(unpin);
    for (int l = 0; l < kLayers; ++l) {
      for (int e = 0; e < kSlices; ++e) {
        for (const std::string& worker : of(l, e)) {
          auto* pin = request.add_pins();
          pin->set_moe_layer(static_cast<uint32_t>(l));
          pin->set_expert_id(static_cast<uint32_t>(e));
          pin->set_worker_id(worker);
        }
      }
    }
    grpc::ClientContext context;
    fleet::v1::PinExpertsResponse response;
    const auto status = router_->PinExperts(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // Until these workers have so many pinned experts in memory, and nothing moves.
  void WaitForPinned(const std::map<std::string, int>& want) {
    EXPECT_TRUE(WaitForFleet(router_.get(), [&](const GetFleetResponse& view) {
      std::map<std::string, int> have;
      for (const auto& w : view.workers()) {
        for (const uint32_t flags : w.experts().flags())
          have[w.worker_id()] +=
              flags == (fleet::v1::EXPERT_FLAG_RESIDENT | fleet::v1::EXPERT_FLAG_PINNED);
      }
      for (const auto& [worker, pinned] : want) {
        if (have[worker] != pinned) return false;
      }
      return view.placements_size() == 1 && view.placements(0).moving() == 0;
    })) << cluster_->Logs();
  }
  // Pins the experts of each layer to the worker that `of` names for it in this turn, then in the
  // next, until experts were seen on their way; `turn` is then that one, and its pins are there. A
  // move may be over before it is seen. False: none was seen within 120 s.
  bool PinUntilTheyMove(const std::function<std::string(size_t turn, int layer)>& of,
                        size_t* turn) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    for (; std::chrono::steady_clock::now() < until; ++*turn) {
      const auto there = [&](int layer, int) { return std::vector{of(*turn, layer)}; };
      Pin(there);
      for (int i = 0; i < 2000; ++i) {
        grpc::ClientContext context;
        GetFleetResponse view;
        if (router_->GetFleet(&context, {}, &view).ok() && view.placements_size() == 1 &&
            view.placements(0).moving() > 0) {
          return true;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      Pin(there, /*unpin=*/true);
    }
    return false;
  }

  // From its log.
  std::string MetricsAddressOfTarget() const {
    const std::string logs = cluster_->Logs(), before = "metrics=127.0.0.1:";
    const size_t at = logs.rfind(before);
    if (at == std::string::npos) return "";
    const size_t port = at + before.size();
    return "127.0.0.1:" + logs.substr(port, logs.find_first_not_of("0123456789", port) - port);
  }

  // Parts of the one test.
  void NumbersOfShards();
  void SomeHere();
  void Hedged();
  void TwoMicroBatches();
  void PinnedTwiceAndMoving();

  std::unique_ptr<FleetService::Stub> router_;
};

void ExpertTopologiesTest::NumbersOfShards() {
  for (const int shards : {1, 2, 3, 5}) {
    SCOPED_TRACE(std::to_string(shards) + " shards");
    StartWith(shards, {});
    ExpectTheSame(Generate(stub_.get(), Story()));
    EXPECT_EQ(AskedOfAll().size(), size_t{kLayers * kSlices});
  }
}

void ExpertTopologiesTest::SomeHere() {
  for (const std::string local : {"1", "0-9/0-1,29/0", "all"}) {
    SCOPED_TRACE("here: " + local);
    const auto here = moe::ExpertSet::Parse(local, kLayers, kSlices);
    std::set<int> elsewhere;
    for (int i = 0; i < kLayers * kSlices; ++i) {
      if (!here->Contains(i / kSlices, i % kSlices)) elsewhere.insert(i);
    }
    StartWith(2, {"--local-experts", local});
    ExpectTheSame(Generate(stub_.get(), Story()));
    EXPECT_EQ(AskedOfAll(), elsewhere);
  }
}

void ExpertTopologiesTest::Hedged() {
  SCOPED_TRACE("every part of a layer goes to the other shard as well, at once");
  StartWith(2, {"--expert-hedge-us", "0"});
  ExpectTheSame(Generate(stub_.get(), Story()));
  for (const size_t shard : {0, 1}) EXPECT_EQ(AskedOf(shard).size(), size_t{kLayers * kSlices});
}

void ExpertTopologiesTest::TwoMicroBatches() {
  for (const bool shared_memory : {true, false}) {
    SCOPED_TRACE(shared_memory ? "two micro-batches by shared memory" : "by gRPC");
    std::vector<std::string> expert_flags;
    if (!shared_memory) expert_flags = {"--no-shared-memory"};
    StartWith(2,
              {"--expert-overlap-rows", "2", "--expert-overlap-rows-shm", "2", "--metrics",
               "127.0.0.1:0"},
              expert_flags);
    ExpectTheSame(Generate(stub_.get(), Story()));
    // A step goes to shards 30 times, or in two halves but for the last layer 59 times.
    const std::string metrics = MetricsAddressOfTarget();
    const double steps = testing::MetricOf(metrics, "tutti_target_steps_total");
    EXPECT_GT(steps, 0);
    EXPECT_GT(testing::MetricOf(metrics, "tutti_target_expert_batches_total"), 45 * steps);
  }
}

void ExpertTopologiesTest::PinnedTwiceAndMoving() {
  StartWith(3, {});
  const std::string first = WorkerOf(0), second = WorkerOf(1), third = WorkerOf(2);
  {
    SCOPED_TRACE("everything on one shard, but for one expert");
    const auto odd = [&](int layer, int expert) {
      return std::vector{layer == 17 && expert == 1 ? third : second};
    };
    Pin(odd);
    WaitForPinned({{first, 0}, {second, 59}, {third, 1}});
    ExpectTheSame(Generate(stub_.get(), Story()));
    Pin(odd, /*unpin=*/true);
  }
  {
    SCOPED_TRACE("every expert on two shards");
    const auto twice = [&](int, int) { return std::vector{first, third}; };
    Pin(twice);
    WaitForPinned({{first, 60}, {third, 60}});
    const int64_t before[] = {RowsOf(AddressOf(0)), RowsOf(AddressOf(2))};
    ExpectTheSame(Generate(stub_.get(), Story()));
    EXPECT_GT(RowsOf(AddressOf(0)), before[0]);
    EXPECT_GT(RowsOf(AddressOf(2)), before[1]);
    Pin(twice, /*unpin=*/true);
  }
  SCOPED_TRACE("experts move to and fro all the time");
  // Each shard has room for half of them, or all would soon have all.
  StartWith(3, {}, {"--memory", "28"});
  const std::vector<std::string> shards = {WorkerOf(0), WorkerOf(1), WorkerOf(2)};
  std::atomic<bool> stop{false}, stopped{false};
  std::atomic<int> moves{0};
  std::thread mover([&] {
    const auto of = [&](size_t turn, int layer) {
      return shards[(turn + static_cast<size_t>(layer)) % shards.size()];
    };
    for (size_t turn = 0; !stop && PinUntilTheyMove(of, &turn); ++turn) {
      ++moves;
      Pin([&](int layer, int) { return std::vector{of(turn, layer)}; }, /*unpin=*/true);
    }
    stopped = true;
  });
  for (int i = 0; i < 3 || (moves == 0 && !stopped); ++i)
    ExpectTheSame(Generate(stub_.get(), Story()));
  stop = true;
  mover.join();
  EXPECT_GT(moves, 0) << "no move was seen on the way";
}

TEST_F(ExpertTopologiesTest, OneGoldenContinuationComesOutOfEveryTopology) {
  NumbersOfShards();
  SomeHere();
  Hedged();
  TwoMicroBatches();
  PinnedTwiceAndMoving();
}

// Experts are on their way to a shard, or from it, when it dies.
TEST_F(ExpertTopologiesTest, AShardKilledDuringALiveMoveChangesNothing) {
  for (const bool receiver : {true, false}) {
    SCOPED_TRACE(receiver ? "the receiver dies" : "the giver dies");
    StartWith(3, {});
    const std::string giver = WorkerOf(0), taker = WorkerOf(1);
    const auto on = [](const std::string& worker) {
      return [worker](int, int) { return std::vector{worker}; };
    };
    Pin(on(giver));
    WaitForPinned({{giver, 60}});
    Pin(on(giver), /*unpin=*/true);
    bool moving = false;
    ExpectTheSame(GenerateWith(20, [&] {
      size_t turn = 0;
      moving = PinUntilTheyMove([&](size_t t, int) { return t % 2 == 0 ? taker : giver; }, &turn);
      const size_t receiving = turn % 2 == 0 ? 1 : 0;  // of the shards
      cluster_->expert(receiver ? receiving : 1 - receiving).Signal(SIGKILL);
    }));
    EXPECT_TRUE(moving) << "it died when nothing moved";
    ExpectTheSame(Generate(stub_.get(), Story()));
  }
}

TEST_F(ExpertTopologiesTest, AShardThatDrainsInTheMiddleChangesNothing) {
  StartWith(3, {});
  WorkerOf(0), WorkerOf(1), WorkerOf(2);
  ExpectTheSame(GenerateWith(20, [&] { cluster_->expert(0).Signal(SIGTERM); }));
  EXPECT_EQ(cluster_->expert(0).Wait(120'000), 0) << cluster_->Logs();
  // The next one leaves while its streams are busy, too; the last one stays.
  ExpectTheSame(GenerateWith(40, [&] { cluster_->expert(2).Signal(SIGTERM); }));
  EXPECT_EQ(cluster_->expert(2).Wait(120'000), 0) << cluster_->Logs();
  ExpectTheSame(Generate(stub_.get(), Story()));
}

TEST_F(ExpertTopologiesTest, AShardTellsHowLongRowsWaited) {
  for (const bool shared_memory : {true, false}) {
    SCOPED_TRACE(shared_memory);
    StartWith(1, {},
              shared_memory ? std::vector<std::string>{}
                            : std::vector<std::string>{"--no-shared-memory"});
    ExpectTheSame(Generate(stub_.get(), Story()));
    EXPECT_TRUE(WaitForFleet(router_.get(), [&](const GetFleetResponse& view) {
      uint64_t waited = 0, ran = 0;
      for (const auto& w : view.workers()) {
        for (const uint64_t us : w.experts().queue_us()) waited += us;
        for (const uint64_t us : w.experts().run_us()) ran += us;
      }
      return waited > 0 && ran > 0;
    }));
  }
}

// Target and shards map one packed directory, whose matrices are whole.
TEST_F(ExpertTopologiesTest, SlicesOfAPackedDirectoryGiveTheGoldenContinuation) {
  const std::string folder = ::testing::TempDir() + "tutti-packed-" + std::to_string(::getpid());
  const auto packed = model::PackModel({.source = ModelPath(), .out = folder});
  ASSERT_TRUE(packed.ok()) << packed.status();
  LocalClusterOptions o = Options(2);
  o.model = folder;
  o.target_flags.insert(o.target_flags.end(), {"--local-experts", "0-4/1"});
  Start(std::move(o));
  ExpectTheSame(Generate(stub_.get(), Story()));
  cluster_.reset();
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tutti::cluster
