#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "services/target/testing_target.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"

namespace tutti::target {
namespace {

using decoder::v1::DecodeReply;
using decoder::v1::DecodeRequest;
using decoder::v1::DecoderService;
using engine::FinishReason;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

TEST_F(TargetTest, WhatIsWrongWithAnOpenIsNamedAndTheTargetGoesOn) {
  StartTarget();
  const auto refusal = [&](auto change) {
    auto open = Open({1, 2}, 1);
    change(open);
    const auto got = Run(open);
    EXPECT_EQ(got->status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(got->tokens.empty());
    return std::string(got->status.message());
  };
  EXPECT_THAT(refusal([](auto& o) { o.sequence.prompt.clear(); }), HasSubstr("open.prompt_ids"));
  EXPECT_THAT(refusal([](auto& o) {
                o.sequence.prompt = {1, 64};
              }),
              HasSubstr("target[0]: open.prompt_ids[1]: token id 64 is outside"));
  EXPECT_THAT(refusal([](auto& o) { o.sequence.params.temperature = -1; }),
              HasSubstr("open.sampling.temperature"));
  EXPECT_THAT(refusal([](auto& o) { o.lookahead = 4; }), HasSubstr("open.lookahead"));
  EXPECT_THAT(refusal([](auto& o) { o.sequence.prompt.assign(600, 2); }), HasSubstr("context"));
  EXPECT_TRUE(Run(Open({1}, 1))->status.ok());
}

TEST_F(TargetTest, AnotherFingerprintIsRefusedWithItsReason) {
  StartTarget();
  auto open = Open({1}, 1);
  open.fingerprint = 12345;
  const auto got = Run(open);
  EXPECT_EQ(got->status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(got->status), "FINGERPRINT_MISMATCH");
}

TEST_F(TargetTest, AFullQueueRefusesAtOnceAndSaysWhenToComeBack) {
  options_.engine.max_running = 1;
  options_.engine.max_waiting = 2;
  const auto steps = HoldSteps(/*quick=*/0, 60s);
  StartTarget();
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (uint64_t i = 0; i < 12; ++i) recorders.push_back(Start(Open({5}, i, 30)));
  // The refusals come while the first sequence is still in its first step.
  ASSERT_TRUE(Eventually([&] {
    return std::count_if(recorders.begin(), recorders.end(),
                         [](auto& r) { return r->is_closed(); }) >= 8;
  }));
  EXPECT_LE(steps->steps(), 1);
  steps->Release();
  int refused = 0, served = 0;
  for (auto& r : recorders) {
    r->Wait();
    if (r->status.ok()) {
      ++served;
      continue;
    }
    ++refused;
    EXPECT_EQ(r->status.code(), absl::StatusCode::kResourceExhausted) << r->status;
    EXPECT_EQ(ReasonOf(r->status), "QUEUE_FULL");
    EXPECT_GT(RetryAfterMs(r->status), 0);
  }
  EXPECT_GE(served, 2);
  EXPECT_GE(refused, 8);
}

TEST_F(TargetTest, ASequenceThatCannotEverFitIsRefusedWithoutARetryHint) {
  options_.engine.num_pages = 2;
  StartTarget();
  const auto got = Run(Open(std::vector<int32_t>(100, 3), 1));
  EXPECT_EQ(got->status.code(), absl::StatusCode::kResourceExhausted) << got->status;
  EXPECT_EQ(ReasonOf(got->status), "KV_TOO_SMALL");
  EXPECT_EQ(RetryAfterMs(got->status), -1);
}

TEST_F(TargetTest, AFaultOfTheModelEndsThatStreamAloneWithItsReason) {
  toy_.fault_token = 63;
  StartTarget();
  auto good_open = Open({3, 4}, 1, 60);
  good_open.sequence.params.logit_bias = {{63, -100.0f}};
  const auto good = Start(good_open);
  const auto bad = Run(Open({1, 63}, 2));
  EXPECT_EQ(bad->status.code(), absl::StatusCode::kInternal) << bad->status;
  EXPECT_EQ(ReasonOf(bad->status), "NUMERIC_FAULT");
  good->Wait();
  EXPECT_TRUE(good->status.ok()) << good->status;
  EXPECT_EQ(good->Bits(), Expected(good_open));
}

TEST_F(TargetTest, ACancelledStreamFreesItsPagesWithinAStep) {
  options_.worker.service.metrics = "127.0.0.1:0";
  const auto steps = HoldSteps(/*quick=*/8, 60s);
  StartTarget();
  const auto got = Start(Open({5, 6}, 1, 400));
  got->WaitForTokens(3);
  ASSERT_TRUE(Eventually([&] { return steps->steps() == 9; })) << "the ninth step is held";
  EXPECT_EQ(Metric("tutti_target_requests_running"), 1);
  EXPECT_GT(Metric("tutti_target_kv_cache_usage_ratio"), 0);
  stream_->Cancel();
  got->Wait();
  EXPECT_EQ(got->status.code(), absl::StatusCode::kCancelled);
  // The target answers messages of a connection in order: it has heard of the cancel.
  EXPECT_EQ(Run(Open({-1}, 2))->status.code(), absl::StatusCode::kInvalidArgument);
  steps->Release();
  ASSERT_TRUE(Eventually([&] { return Metric("tutti_target_requests_running") == 0; }));
  EXPECT_EQ(Metric("tutti_target_kv_cache_usage_ratio"), 0);
  EXPECT_EQ(steps->steps(), 9) << "steps after the cancel";
  EXPECT_EQ(Metric("tutti_target_requests_total{result=\"cancelled\"}"), 1);
}

TEST_F(TargetTest, ADeadlineThatPassesFreesThePages) {
  options_.worker.service.metrics = "127.0.0.1:0";
  // No deadline below lets 400 tokens through; a slow machine may need a longer one for the first.
  std::atomic<int64_t> step_us{0};
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(std::chrono::microseconds(step_us));
    return absl::OkStatus();
  };
  StartTarget();
  size_t tokens = 0;
  for (int64_t deadline_us = 200'000; tokens == 0 && deadline_us < 60'000'000; deadline_us *= 4) {
    step_us = deadline_us / 20;
    const auto got = Start(Open({5, 6}, 1, 400), deadline_us);
    got->Wait();
    tokens = got->tokens.size();
    EXPECT_LT(tokens, 400u);
    if (!got->status.ok()) {
      EXPECT_EQ(got->status.code(), absl::StatusCode::kDeadlineExceeded) << got->status;
    } else {
      EXPECT_EQ(got->finished->reason, FinishReason::kDeadline);
    }
  }
  EXPECT_GT(tokens, 0u);
  EXPECT_TRUE(Eventually([&] { return Metric("tutti_target_requests_running") == 0; }));
  EXPECT_EQ(Metric("tutti_target_kv_cache_usage_ratio"), 0);
}

// Raw streams, for what DecoderClient would never do.
struct RawStream {
  explicit RawStream(const std::string& address) {
    stub = DecoderService::NewStub(*rpc::OpenChannel(address));
    rpc::SetDeadlineMs(&context, 120000);
    stream = stub->Decode(&context);
  }
  absl::Status Finish() {
    DecodeReply reply;
    while (stream->Read(&reply)) replies.push_back(reply);
    return rpc::FromGrpc(stream->Finish());
  }
  std::unique_ptr<DecoderService::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<DecodeRequest, DecodeReply>> stream;
  std::vector<DecodeReply> replies;
};

TEST_F(TargetTest, MessagesOutOfOrderAreRefused) {
  // Slow steps: the second `open` must find the first one's sequence still running.
  HoldSteps();
  StartTarget();
  {
    RawStream raw(address());
    DecodeRequest hint;
    hint.mutable_hint()->add_token_ids(1);
    raw.stream->Write(hint);
    EXPECT_THAT(raw.Finish().ToString(), HasSubstr("INVALID_ARGUMENT: open: must be the first"));
  }
  {
    RawStream raw(address());
    raw.stream->WritesDone();
    EXPECT_THAT(raw.Finish().ToString(), HasSubstr("open: the stream ended before it"));
  }
  {
    RawStream raw(address());
    raw.stream->Write(DecodeRequest());
    EXPECT_THAT(raw.Finish().ToString(), HasSubstr("message: one of open"));
  }
  {
    RawStream raw(address());
    raw.stream->Write(RawOpen(500));
    raw.stream->Write(RawOpen(500));
    EXPECT_THAT(raw.Finish().ToString(), HasSubstr("opened already"));
  }
}

TEST_F(TargetTest, AClientThatHasNothingMoreToSayStillGetsAllTokens) {
  StartTarget();
  RawStream raw(address());
  raw.stream->Write(RawOpen(25));
  raw.stream->WritesDone();
  EXPECT_TRUE(raw.Finish().ok());
  int tokens = 0;
  for (const auto& reply : raw.replies) tokens += reply.tokens().tokens_size();
  EXPECT_EQ(tokens, 25);
  EXPECT_EQ(raw.replies.back().finished().reason(), common::v1::FINISH_REASON_LENGTH);
  EXPECT_FALSE(raw.replies[0].tokens().tokens(0).has_logprob()) << "nobody asked for logprobs";
}

TEST_F(TargetTest, CloseEndsTheSequenceAsCancelled) {
  HoldSteps(/*quick=*/8);
  StartTarget();
  RawStream raw(address());
  raw.stream->Write(RawOpen(500));
  DecodeReply first;
  ASSERT_TRUE(raw.stream->Read(&first));
  DecodeRequest close;
  close.mutable_close();
  raw.stream->Write(close);
  EXPECT_TRUE(raw.Finish().ok());
  ASSERT_FALSE(raw.replies.empty());
  EXPECT_EQ(raw.replies.back().finished().reason(), common::v1::FINISH_REASON_CANCELLED);
}

TEST_F(TargetTest, HintsAreTakenAndChangeNothing) {
  StartTarget();
  const auto open = Open({3, 1, 4}, 7, 50);
  const auto got = Start(open);
  for (uint32_t i = 0; i < 20; ++i) stream_->Hint(i, i, {1, 2, 3});
  got->Wait();
  EXPECT_TRUE(got->status.ok()) << got->status;
  EXPECT_EQ(got->Bits(), Expected(open));
}

// Takes the stream and never reads from it.
class DeafDecoder final : public DecoderService::CallbackService {
  class Reactor final : public grpc::ServerBidiReactor<decoder::v1::DecodeManyRequest,
                                                       decoder::v1::DecodeManyReply> {
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override { delete this; }
  };
  grpc::ServerBidiReactor<decoder::v1::DecodeManyRequest, decoder::v1::DecodeManyReply>* DecodeMany(
      grpc::CallbackServerContext*) override {
    return new Reactor;
  }
};

TEST_F(TargetTest, ADecoderThatDoesNotReadIsGivenUpAndHoldsNoMemory) {
  DeafDecoder deaf;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + folder_ + "/deaf", grpc::InsecureServerCredentials());
  builder.RegisterService(&deaf);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  client_ = *rpc::DecoderClient::Create("unix:" + folder_ + "/deaf", "target[0]");
  const auto got = Start(Open({3, 1, 4}, 7, 50));
  for (int i = 0; i < 80; ++i) stream_->Hint(0, 0, std::vector<int32_t>(1 << 20, 1));
  got->Wait();
  EXPECT_FALSE(got->status.ok());
  client_.reset();
  server->Shutdown(std::chrono::system_clock::now());
}

}  // namespace
}  // namespace tutti::target
