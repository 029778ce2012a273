#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "services/target/testing_target.h"
#include "shared/rpc/clients/await.h"
#include "shared/rpc/status.h"

namespace tutti::target {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST_F(TargetTest, WhileTheModelLoadsCallsAreUnavailableAndHealthSaysSo) {
  std::promise<void> go;
  auto target = Target::Start(options_, [&](const TargetOptions&, ThreadPool*) {
    go.get_future().wait();
    LoadedModel out;
    out.model = std::make_unique<testing::ToyModel>(toy_);
    return absl::StatusOr<LoadedModel>(std::move(out));
  });
  ASSERT_TRUE(target.ok());
  target_ = *std::move(target);
  client_ = *rpc::DecoderClient::Create(address(), "target[0]");
  const auto got = Run(Open({1}, 1));
  EXPECT_EQ(got->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(got->status), "STARTING");
  const auto model =
      rpc::Await<wire::DecoderInfo>([&](auto done) { client_->GetModel(5000000, done); });
  EXPECT_EQ(ReasonOf(model.status()), "STARTING");
  go.set_value();
  ASSERT_TRUE(target_->worker().WaitReady().ok());
  EXPECT_TRUE(Run(Open({1}, 1))->status.ok());
}

TEST_F(TargetTest, AModelThatCannotBeLoadedIsTheResultOfWaitReady) {
  options_.model = "/no/such/model.gguf";
  auto target = Target::Start(options_);
  ASSERT_TRUE(target.ok());
  const absl::Status status = (*target)->worker().WaitReady();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/model.gguf"));
}

TEST_F(TargetTest, GetModelSaysWhatIsServed) {
  StartTarget();
  const auto model =
      rpc::Await<wire::DecoderInfo>([&](auto done) { client_->GetModel(5000000, done); });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "toy");
  EXPECT_EQ(model->vocab_size, toy_.vocab_size);
  EXPECT_EQ(model->context_tokens, toy_.context_tokens);
  EXPECT_EQ(model->fingerprint, testing::ToyModel(toy_).info().fingerprint);
  EXPECT_EQ(model->tokenizer_fingerprint, 77u);
  EXPECT_EQ(model->num_pages, 128);
  EXPECT_EQ(model->page_tokens, 16);
}

TEST_F(TargetTest, ADrainFinishesWhatRunsAndRefusesWhatIsNew) {
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(5ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto open = Open({5, 6}, 1, 60);
  const auto got = Start(open);
  got->WaitForTokens(2);
  std::thread drain([&] { target_->worker().server().Drain(); });
  got->Wait();
  drain.join();
  EXPECT_TRUE(got->status.ok()) << got->status;
  EXPECT_EQ(got->Bits(), Expected(open));
  const auto late = Run(Open({5}, 2));
  EXPECT_EQ(late->status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(TargetTest, MetricsCountWhatHappened) {
  options_.worker.service.metrics = "127.0.0.1:0";
  StartTarget();
  const std::vector<int32_t> prompt(40, 7);
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(Run(Open(prompt, i, 10))->status.ok());
  EXPECT_EQ(Metric("tutti_target_requests_total{result=\"length\"}"), 3);
  EXPECT_EQ(Metric("tutti_target_prompt_tokens_total"), 120);
  EXPECT_EQ(Metric("tutti_target_generation_tokens_total"), 30);
  EXPECT_EQ(Metric("tutti_target_time_to_first_token_seconds_count"), 3);
  EXPECT_EQ(Metric("tutti_target_inter_token_latency_seconds_count"), 27);
  EXPECT_EQ(Metric("tutti_target_e2e_request_latency_seconds_count"), 3);
  EXPECT_GE(Metric("tutti_target_prefix_cache_hits_total"), 64);
  EXPECT_EQ(Metric("tutti_target_kv_cache_blocks"), 128);
  EXPECT_THAT(HttpText(), HasSubstr("block_size=\"16\""));
  EXPECT_THAT(HttpText(), HasSubstr("num_gpu_blocks=\"128\""));
}

TEST_F(TargetTest, MetricsAndUsageTellHowManyGuessesWereRight) {
  options_.worker.service.metrics = "127.0.0.1:0";
  options_.engine.adapt_drafts = false;  // every guess is verified
  std::atomic<bool> hint_expected{false};
  on_forward_ = [&](auto) {  // so that the hint comes before the tokens
    for (int i = 0; hint_expected && i < 10'000; ++i) std::this_thread::sleep_for(1ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto open = Open({3, 1, 4}, 7, 60);
  const auto alone = Run(open);
  ASSERT_TRUE(alone->status.ok()) << alone->status;
  EXPECT_EQ(alone->finished->usage.proposed_tokens, 0);
  EXPECT_EQ(Metric("tutti_target_decode_slices_total"), 59);
  EXPECT_EQ(Metric("tutti_target_draft_tokens_per_step"), 0);
  EXPECT_EQ(Metric("tutti_target_generation_tokens_per_step"), 1);

  std::vector<int32_t> truth;
  for (const auto& t : alone->tokens) truth.push_back(t.token_id);
  truth[50] ^= 1;
  hint_expected = true;  // the first step ends when the target has heard of it
  const auto got = Start(open);
  stream_->Hint(0, 0, truth);
  EXPECT_EQ(Run(Open({-1}, 2))->status.code(), absl::StatusCode::kInvalidArgument);
  hint_expected = false;
  got->Wait();
  EXPECT_EQ(got->Bits(), alone->Bits());
  const engine::Usage& usage = got->finished->usage;
  EXPECT_GT(usage.accepted_tokens, 20);
  EXPECT_GT(usage.proposed_tokens, usage.accepted_tokens);
  EXPECT_EQ(Metric("tutti_target_draft_proposed_tokens_total"), usage.proposed_tokens);
  EXPECT_EQ(Metric("tutti_target_draft_accepted_tokens_total"), usage.accepted_tokens);
  EXPECT_EQ(Metric("tutti_target_draft_wasted_tokens_total"),
            usage.proposed_tokens - usage.accepted_tokens);
  EXPECT_EQ(Metric("tutti_target_hint_tokens_total"), 60);
  EXPECT_EQ(Metric("tutti_target_hint_accepted_tokens_total"), usage.accepted_tokens);
  // The first token is the prompt's; each step gives one that was not guessed.
  const double steps = 59 + 59 - usage.accepted_tokens;
  EXPECT_EQ(Metric("tutti_target_decode_slices_total"), steps);
  EXPECT_NEAR(Metric("tutti_target_draft_tokens_per_step"), usage.proposed_tokens / steps, 1e-4);
  EXPECT_NEAR(Metric("tutti_target_generation_tokens_per_step"), 118 / steps, 1e-4);
}

}  // namespace
}  // namespace tutti::target
