// SmolLM2 with its FFN in slices on shards, one batch of eight samples, and what one process gives
// for it.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "shared/rpc/channel.h"
#include "tests/cluster/answers.h"
#include "tests/cluster/processes.h"
#include "tutti/expert/v1/expert.grpc.pb.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::cluster {

inline constexpr int kChoices = 8, kTokens = 32;

// Eight samples of one prompt: a batch of 8 rows in each step.
inline generation::v1::GenerateRequest Story() {
  generation::v1::GenerateRequest r;
  r.set_text("Once upon a time, in a small village by the sea,");
  r.set_n(kChoices);
  r.mutable_sampling()->set_seed(1234567890123456789u);
  r.mutable_sampling()->set_temperature(0.8f);
  r.mutable_sampling()->set_max_tokens(kTokens);
  r.mutable_sampling()->set_ignore_eos(true);
  r.mutable_sampling()->set_logprobs(0);
  return r;
}

inline LocalClusterOptions Options(int num_experts, const std::string& slices = "2") {
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
    auto stub = generation::v1::GenerationService::NewStub((*local)->Connect());
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
    stub_ = generation::v1::GenerationService::NewStub(cluster_->Connect());
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
  // Generates, and calls `act` once when `at` of the 256 tokens have come (in how many messages is
  // up to the machine).
  Answer GenerateWith(int at, const std::function<void()>& act) {
    int left = at;
    return Generate(stub_.get(), Story(), [&](const generation::v1::GenerateResponse& r) {
      if (left > 0 && (left -= r.delta().tokens_size()) <= 0) act();
      return true;
    });
  }

  static inline Answer expected_;
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<generation::v1::GenerationService::Stub> stub_;
};

// Asks a router for its fleet until `condition` holds; false: not within 120 s.
inline bool WaitForFleet(fleet::v1::FleetService::Stub* router,
                         const std::function<bool(const fleet::v1::GetFleetResponse&)>& condition) {
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
       std::chrono::steady_clock::now() < end;) {
    grpc::ClientContext context;
    fleet::v1::GetFleetRequest request;
    request.set_with_experts(true);
    fleet::v1::GetFleetResponse response;
    if (router->GetFleet(&context, request, &response).ok() && condition(response)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// Rows that a shard computed, as it says itself.
inline int64_t RowsOf(const std::string& address) {
  const auto stub = expert::v1::ExpertService::NewStub(*rpc::OpenChannel(address));
  grpc::ClientContext context;
  expert::v1::GetExpertsResponse response;
  if (!stub->GetExperts(&context, {}, &response).ok()) return 0;
  int64_t rows = 0;
  for (const auto& e : response.experts()) rows += e.rows();
  return rows;
}

}  // namespace tutti::cluster
