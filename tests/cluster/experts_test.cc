// Experts on shards: the tokens and digests of one process, whatever happens to the shards.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/cluster/answers.h"
#include "tests/cluster/processes.h"

namespace tutti::cluster {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;
using generation::v1::GenerationService;
using Clock = std::chrono::steady_clock;

constexpr int kChoices = 8, kTokens = 32;

// Eight samples of one prompt: a batch of 8 rows in each step.
GenerateRequest Story() {
  GenerateRequest r;
  r.set_text("Once upon a time, in a small village by the sea,");
  r.set_n(kChoices);
  r.mutable_sampling()->set_seed(1234567890123456789u);
  r.mutable_sampling()->set_temperature(0.8f);
  r.mutable_sampling()->set_max_tokens(kTokens);
  r.mutable_sampling()->set_ignore_eos(true);
  r.mutable_sampling()->set_logprobs(0);
  return r;
}

LocalClusterOptions Options(int num_experts, const std::string& slices = "2") {
  LocalClusterOptions o;
  o.num_targets = 1;
  o.num_experts = num_experts;
  o.target_flags = {"--ffn-slices", slices, "--messages-per-s", "0"};
  if (num_experts > 0) {
    o.target_flags.insert(o.target_flags.end(), {"--experts", "router"});
    o.expert_flags = {"--ffn-slices", slices};
  }
  return o;
}

class ExpertsClusterTest : public ::testing::Test {
 protected:
  // What one process gives, asked once.
  static void SetUpTestSuite() {
    if (ModelPath().empty()) return;
    auto local = LocalCluster::Start(Options(0));
    ASSERT_TRUE(local.ok()) << local.status();
    auto stub = GenerationService::NewStub((*local)->Connect());
    expected_ = Generate(stub.get(), Story());
    ASSERT_TRUE(expected_.status.ok()) << expected_.status.error_message() << (*local)->Logs();
    ASSERT_EQ(expected_.choices.size(), size_t{kChoices});
  }
  void SetUp() override {
    if (ModelPath().empty()) GTEST_SKIP() << "the real model is not on this machine";
  }
  void Start(LocalClusterOptions options) {
    auto started = LocalCluster::Start(std::move(options));
    ASSERT_TRUE(started.ok()) << started.status();
    cluster_ = std::move(*started);
    stub_ = GenerationService::NewStub(cluster_->Connect());
  }
  void ExpectTheSame(const Answer& a) {
    ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
    ASSERT_EQ(a.choices.size(), expected_.choices.size());
    for (const auto& [i, choice] : expected_.choices) {
      const Choice& got = a.choices.at(i);
      EXPECT_EQ(got.ids, choice.ids) << "choice " << i;
      EXPECT_EQ(got.logprob_bits, choice.logprob_bits) << "choice " << i;
      ASSERT_TRUE(got.finished.has_value());
      EXPECT_EQ(got.finished->digest(), choice.finished->digest()) << "choice " << i;
    }
  }
  // Generates, and calls `act` once when `at` messages have come.
  Answer GenerateWith(int at, const std::function<void()>& act, int64_t deadline_ms = 120'000) {
    int messages = 0;
    return Generate(
        stub_.get(), Story(),
        [&](const GenerateResponse&) {
          if (++messages == at) act();
          return true;
        },
        deadline_ms);
  }

  static Answer expected_;
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<GenerationService::Stub> stub_;
};
Answer ExpertsClusterTest::expected_;

TEST_F(ExpertsClusterTest, OneTwoAndThreeShardsGiveTheBitsOfOneProcess) {
  for (const int shards : {1, 2, 3}) {
    SCOPED_TRACE(shards);
    Start(Options(shards));
    ExpectTheSame(Generate(stub_.get(), Story()));
    cluster_.reset();
  }
}

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
  Start(Options(1));
  std::thread later;
  ExpectTheSame(GenerateWith(20, [&] {
    cluster_->expert(0).Signal(SIGKILL);
    later = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      EXPECT_TRUE(cluster_->AddExpert().ok());
    });
  }));
  if (later.joinable()) later.join();
}

TEST_F(ExpertsClusterTest, WithNoShardUntilTheDeadlineARequestIsUnavailable) {
  LocalClusterOptions options = Options(1);
  options.target_flags.insert(options.target_flags.end(), {"--expert-deadline-ms", "300"});
  Start(std::move(options));
  const Answer a = GenerateWith(
      20, [&] { cluster_->expert(0).Signal(SIGKILL); }, /*deadline_ms=*/20'000);
  EXPECT_EQ(a.status.error_code(), grpc::StatusCode::UNAVAILABLE) << a.status.error_message();
}

// Not a promise of the machine that runs this; the figures are printed.
// TUTTI_KILLS=100 for a percentile that means something.
TEST_F(ExpertsClusterTest, RecoveryFromAKillIsShort) {
  const char* const wanted = std::getenv("TUTTI_KILLS");
  const size_t kills = wanted == nullptr ? 12 : std::strtoul(wanted, nullptr, 10);
  ASSERT_GT(kills, 0u);
  Start(Options(2));
  std::vector<double> gaps;
  for (size_t kill = 0; kill < kills; ++kill) {
    double longest = 0;
    Clock::time_point last;
    int messages = 0;
    const Answer a = Generate(stub_.get(), Story(), [&](const GenerateResponse&) {
      const auto now = Clock::now();
      if (++messages > 60)
        longest = std::max(longest, std::chrono::duration<double, std::milli>(now - last).count());
      if (messages == 60) cluster_->expert(kill).Signal(SIGKILL);
      last = Clock::now();
      return true;
    });
    ExpectTheSame(a);
    gaps.push_back(longest);
    ASSERT_TRUE(cluster_->AddExpert().ok());
    ExpectTheSame(Generate(stub_.get(), Story()));  // the new one has joined meanwhile
  }
  std::sort(gaps.begin(), gaps.end());
  std::printf("ms from kill -9 to the next token, %zu kills: median %.1f, p99 %.1f, most %.1f\n",
              kills, gaps[gaps.size() / 2], gaps[(gaps.size() * 99 - 1) / 100], gaps.back());
  EXPECT_LT(gaps[gaps.size() / 2], 300);
}

}  // namespace
}  // namespace tutti::cluster
