#include "services/target/target.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <bit>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "services/target/emission_pacer.h"
#include "shared/engine/test_harness.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/clients/await.h"
#include "shared/rpc/clients/decoder_client.h"
#include "shared/rpc/status.h"
#include "shared/testing/http_get.h"
#include "shared/testing/toy_model.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"

namespace tutti::target {
namespace {

using decoder::v1::DecodeManyReply;
using decoder::v1::DecodeManyRequest;
using decoder::v1::DecodeReply;
using decoder::v1::DecodeRequest;
using decoder::v1::DecoderService;
using engine::FinishReason;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

// Everything that one stream gave.
class Recorder final : public rpc::DecodeListener {
 public:
  void OnTokens(wire::DecodedTokens tokens) override {
    std::lock_guard lock(mutex_);
    if (!tokens.tokens.empty()) {
      EXPECT_EQ(tokens.position, first_index + this->tokens.size());
    }
    ++messages;
    for (auto& t : tokens.tokens) this->tokens.push_back(std::move(t));
    for (auto& t : tokens.prompt_tokens) prompt_tokens.push_back(std::move(t));
    changed_.notify_all();
  }
  void OnFinished(wire::DecodeFinished f) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished.has_value());
    finished = std::move(f);
  }
  void OnClosed(absl::Status s) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(closed);
    closed = true;
    status = std::move(s);
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 30s, [&] { return closed; })) << "the stream never ended";
  }
  void WaitForTokens(size_t n) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 30s, [&] { return closed || tokens.size() >= n; }));
  }
  std::vector<std::string> Bits() const {
    std::vector<std::string> bits;
    for (const auto& t : prompt_tokens) bits.push_back("prompt " + engine::BitsOf(t));
    for (const auto& t : tokens) bits.push_back(engine::BitsOf(t));
    return bits;
  }

  size_t first_index = 0;
  std::vector<engine::TokenOutput> tokens, prompt_tokens;
  std::optional<wire::DecodeFinished> finished;
  absl::Status status;
  bool closed = false;
  int messages = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

DecodeRequest RawOpen(int max_tokens) {
  DecodeRequest request;
  request.mutable_open()->add_prompt_ids(3);
  request.mutable_open()->mutable_sampling()->set_seed(1);
  request.mutable_open()->mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_open()->mutable_sampling()->set_ignore_eos(true);
  return request;
}

class TargetTest : public ::testing::Test {
 protected:
  TargetTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tutti-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.model = "toy";
    options_.threads = 1;
    options_.engine.num_pages = 128;
    options_.worker.service.listen = {"unix:" + folder_ + "/s"};
    options_.worker.service.metrics = "";
    options_.worker.service.drain_grace_s = 20;
  }
  ~TargetTest() override {
    client_.reset();
    target_.reset();
    std::filesystem::remove_all(folder_);
  }

  void StartTarget() {
    auto target = Target::Start(options_, [this](const TargetOptions&, ThreadPool*) {
      LoadedModel out;
      auto toy = std::make_unique<testing::ToyModel>(toy_);
      toy->on_forward = on_forward_;
      out.model = std::move(toy);
      out.tokenizer_fingerprint = 77;
      return absl::StatusOr<LoadedModel>(std::move(out));
    });
    ASSERT_TRUE(target.ok()) << target.status();
    target_ = *std::move(target);
    ASSERT_TRUE(target_->worker().WaitReady().ok());
    client_ = *rpc::DecoderClient::Create(address(), "target[0]");
  }
  std::string address() { return target_->worker().server().addresses()[0]; }

  static wire::DecodeOpen Open(std::vector<int32_t> prompt, uint64_t seed, int max_tokens = 20) {
    wire::DecodeOpen open;
    open.request_id = "test-" + std::to_string(seed);
    open.sequence.prompt = std::move(prompt);
    open.sequence.params.seed = seed;
    open.sequence.params.max_tokens = max_tokens;
    open.sequence.params.ignore_eos = true;
    open.sequence.params.logprobs = 2;
    return open;
  }
  std::shared_ptr<Recorder> Start(const wire::DecodeOpen& open, int64_t deadline_us = 0) {
    auto recorder = std::make_shared<Recorder>();
    recorder->first_index = open.sequence.generated.size();
    stream_ = client_->Open(open, toy_.vocab_size, deadline_us, recorder);
    return recorder;
  }
  std::shared_ptr<Recorder> Run(const wire::DecodeOpen& open) {
    auto recorder = Start(open);
    recorder->Wait();
    return recorder;
  }
  // What one process says of the same request.
  std::vector<std::string> Expected(const wire::DecodeOpen& open) {
    testing::ToyModel model(toy_);
    engine::Job job;
    job.request = open.sequence;
    job.request.id = 1;
    auto outcome = engine::RunJobs(&model, options_.engine, {job})[1];
    auto bits = engine::BitsOf(outcome);
    if (!bits.empty()) bits.pop_back();  // the "finish" line
    return bits;
  }
  double Metric(const std::string& line) {
    return testing::MetricOf(target_->worker().metrics_address(), line);
  }
  std::string HttpText() {
    return testing::HttpGet(target_->worker().metrics_address(), "/metrics");
  }
  template <typename F>
  static bool Eventually(F condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) std::this_thread::sleep_for(5ms);
    return condition();
  }

  std::string folder_;
  TargetOptions options_;
  testing::ToyOptions toy_;
  std::function<absl::Status(std::span<const model::SequenceSlice>)> on_forward_;
  std::unique_ptr<Target> target_;
  std::unique_ptr<rpc::DecoderClient> client_;
  std::shared_ptr<rpc::DecodeStream> stream_;
};

TEST_F(TargetTest, AStreamGivesTheSameBitsAsOneProcess) {
  StartTarget();
  const auto open = Open({3, 1, 4, 1, 5}, 42, 40);
  const auto got = Run(open);
  ASSERT_TRUE(got->status.ok()) << got->status;
  EXPECT_EQ(got->Bits(), Expected(open));
  EXPECT_EQ(got->tokens.size(), 40u);
  EXPECT_EQ(got->finished->reason, FinishReason::kLength);
  EXPECT_EQ(got->finished->usage.prompt_tokens, 5);
  EXPECT_EQ(got->finished->usage.output_tokens, 40);
}

TEST_F(TargetTest, AStreamOfOneTokenEndsAtOnce) {
  StartTarget();
  const auto start = std::chrono::steady_clock::now();
  for (const int max_tokens : {1, 0, 1}) {
    const auto got = Run(Open({3, 1, 4}, 42, max_tokens));
    ASSERT_TRUE(got->status.ok()) << got->status;
    EXPECT_EQ(got->tokens.size(), static_cast<size_t>(max_tokens));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s) << "a write was held back";
}

TEST_F(TargetTest, ManyStreamsAtOnceGiveTheBitsThatEachGivesAlone) {
  StartTarget();
  std::vector<wire::DecodeOpen> opens;
  for (uint64_t i = 0; i < 24; ++i) {
    std::vector<int32_t> prompt(1 + i * 3);
    for (size_t k = 0; k < prompt.size(); ++k)
      prompt[k] = static_cast<int32_t>((i * 7 + k) % 60 + 2);
    opens.push_back(Open(prompt, i, 10 + static_cast<int>(i)));
    opens.back().sequence.params.prompt_logprobs = i % 3 == 0 ? 1 : -1;
  }
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (const auto& open : opens) recorders.push_back(Start(open));
  for (size_t i = 0; i < opens.size(); ++i) {
    recorders[i]->Wait();
    ASSERT_TRUE(recorders[i]->status.ok()) << recorders[i]->status;
    EXPECT_EQ(recorders[i]->Bits(), Expected(opens[i])) << i;
  }
}

TEST_F(TargetTest, ACancelledSequenceLeavesTheOthersOfItsConnectionAlone) {
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(1ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto kept = Open({3, 1, 4}, 1, 60);
  const auto first = Start(kept);
  const auto second = Start(Open({1, 5, 9}, 2, 400));
  const auto second_stream = stream_;
  second->WaitForTokens(5);
  second_stream->Cancel();
  second->Wait();
  EXPECT_EQ(second->status.code(), absl::StatusCode::kCancelled) << second->status;
  EXPECT_THAT(std::string(second->status.message()), HasSubstr("target[0]"));
  first->Wait();
  ASSERT_TRUE(first->status.ok()) << first->status;
  EXPECT_EQ(first->Bits(), Expected(kept));
  EXPECT_TRUE(Run(Open({2}, 3))->status.ok()) << "the connection goes on";
}

TEST_F(TargetTest, WithManyStreamsTokensWaitForCompanyAndAreTheSame) {
  options_.messages_per_s = 100;
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(2ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto alone = Run(Open({7}, 9, 40));
  EXPECT_EQ(alone->messages, 40) << "nobody to wait for";
  std::vector<wire::DecodeOpen> opens;
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (uint64_t i = 0; i < 8; ++i) {
    opens.push_back(Open({3, static_cast<int32_t>(i)}, i, 60));
    recorders.push_back(Start(opens.back()));
  }
  for (size_t i = 0; i < opens.size(); ++i) {
    recorders[i]->Wait();
    ASSERT_TRUE(recorders[i]->status.ok()) << recorders[i]->status;
    EXPECT_EQ(recorders[i]->Bits(), Expected(opens[i])) << i;
    EXPECT_LT(recorders[i]->messages, 30) << i;
  }
}

TEST_F(TargetTest, AConnectionWithoutSequencesDoesNotDelayADrain) {
  StartTarget();
  EXPECT_TRUE(Run(Open({2}, 3))->status.ok());
  const auto start = std::chrono::steady_clock::now();
  target_->worker().server().Drain();
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s) << "of 20 s of grace";
}

TEST_F(TargetTest, WrongMessagesOfOneSequenceAreItsEndAlone) {
  StartTarget();
  auto channel = *rpc::OpenChannel(address());
  auto stub = DecoderService::NewStub(channel);
  grpc::ClientContext context;
  auto stream = stub->DecodeMany(&context);
  DecodeManyRequest request;
  request.set_sequence(5);
  request.mutable_request()->mutable_hint()->add_token_ids(1);
  stream->Write(request);  // of a sequence that is not there: ignored
  request.set_sequence(6);
  *request.mutable_request() = RawOpen(3);
  request.mutable_request()->mutable_open()->add_prompt_ids(-1);
  stream->Write(request);
  request.set_sequence(7);
  *request.mutable_request() = RawOpen(3);
  stream->Write(request);
  stream->WritesDone();
  std::map<uint64_t, int> tokens;
  std::map<uint64_t, std::string> ends;
  DecodeManyReply reply;
  while (stream->Read(&reply)) {
    for (const auto& part : reply.parts()) {
      EXPECT_FALSE(ends.contains(part.sequence())) << "said after its end";
      tokens[part.sequence()] += part.reply().tokens().tokens_size();
      if (part.has_status()) ends[part.sequence()] = rpc::StatusFromProto(part.status()).ToString();
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(ends, ::testing::ElementsAre(
                        ::testing::Pair(6, HasSubstr("INVALID_ARGUMENT: open.prompt_ids[1]")),
                        ::testing::Pair(7, "OK")));
  EXPECT_EQ(tokens[7], 3);
}

TEST(EmissionPacerTest, OneStreamIsNeverHeldAndManyShareTheRate) {
  EmissionPacer pacer(100);
  for (int64_t t = 1000; t < 5000; t += 1000) EXPECT_TRUE(pacer.Due(t, 1, false));
  // 4 streams: (4 - 1) / 100 per s = 30 ms.
  EXPECT_FALSE(pacer.Due(30000, 4, false));
  EXPECT_TRUE(pacer.Due(34000, 4, false));
  EXPECT_TRUE(pacer.Due(35000, 4, true)) << "a step with prefill is followed by a long one, maybe";
  // 100 streams would be 990 ms; nothing waits longer than 75.
  EXPECT_FALSE(pacer.Due(109000, 100, false));
  EXPECT_TRUE(pacer.Due(110000, 100, false));
  EmissionPacer unlimited(0);
  EXPECT_TRUE(unlimited.Due(1, 100, false));
  EXPECT_TRUE(unlimited.Due(2, 100, false));
}

TEST_F(TargetTest, AResumeContinuesWithTheSameBits) {
  StartTarget();
  const auto whole = Open({9, 8, 7}, 5, 30);
  const auto expected = Run(whole);
  auto rest = whole;
  for (int i = 0; i < 13; ++i) rest.sequence.generated.push_back(expected->tokens[i].token_id);
  rest.sequence.digest = expected->tokens[12].digest;
  const auto got = Run(rest);
  ASSERT_TRUE(got->status.ok()) << got->status;
  auto bits = expected->Bits();
  bits.erase(bits.begin(), bits.begin() + 13);
  EXPECT_EQ(got->Bits(), bits);
  EXPECT_EQ(got->finished->usage.output_tokens, 30);
}

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
  std::atomic<bool> slow{true};
  on_forward_ = [&](auto) {
    if (slow) std::this_thread::sleep_for(20ms);
    return absl::OkStatus();
  };
  StartTarget();
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (uint64_t i = 0; i < 12; ++i) recorders.push_back(Start(Open({5}, i, 30)));
  // The first refusals come while the first sequence still decodes.
  ASSERT_TRUE(Eventually([&] {
    return std::any_of(recorders.begin(), recorders.end(), [](auto& r) { return r->closed; });
  }));
  slow = false;
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
  std::atomic<int> forwards{0};
  on_forward_ = [&](auto) {
    ++forwards;
    std::this_thread::sleep_for(30ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto got = Start(Open({5, 6}, 1, 400));
  got->WaitForTokens(3);
  EXPECT_EQ(Metric("tutti_target_requests_running"), 1);
  EXPECT_GT(Metric("tutti_target_kv_cache_usage_ratio"), 0);
  const int before = forwards;
  stream_->Cancel();
  got->Wait();
  EXPECT_EQ(got->status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(Eventually([&] { return Metric("tutti_target_requests_running") == 0; }));
  EXPECT_EQ(Metric("tutti_target_kv_cache_usage_ratio"), 0);
  EXPECT_LE(forwards - before, 2) << "steps after the cancel";
  EXPECT_EQ(Metric("tutti_target_requests_total{result=\"cancelled\"}"), 1);
}

TEST_F(TargetTest, ADeadlineThatPassesFreesThePages) {
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(20ms);
    return absl::OkStatus();
  };
  StartTarget();
  const auto got = Start(Open({5, 6}, 1, 400), /*deadline_us=*/200000);
  got->Wait();
  EXPECT_GT(got->tokens.size(), 0u);
  if (!got->status.ok()) {
    EXPECT_EQ(got->status.code(), absl::StatusCode::kDeadlineExceeded) << got->status;
  } else {
    EXPECT_EQ(got->finished->reason, FinishReason::kDeadline);
  }
}

// Raw streams, for what DecoderClient would never do.
struct RawStream {
  explicit RawStream(const std::string& address) {
    stub = DecoderService::NewStub(*rpc::OpenChannel(address));
    rpc::SetDeadlineMs(&context, 20000);
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
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(10ms);
    return absl::OkStatus();
  };
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
  on_forward_ = [&](auto) {
    std::this_thread::sleep_for(10ms);
    return absl::OkStatus();
  };
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
  on_forward_ = [](auto) {
    std::this_thread::sleep_for(5ms);  // so that the hint comes before the tokens
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
  const auto got = Start(open);
  stream_->Hint(0, 0, truth);
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
