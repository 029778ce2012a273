#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <future>
#include <map>
#include <thread>

#include "services/target/emission_pacer.h"
#include "services/target/testing_target.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"

namespace tutti::target {
namespace {

using decoder::v1::DecodeManyReply;
using decoder::v1::DecodeManyRequest;
using decoder::v1::DecoderService;
using engine::FinishReason;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

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

// A write that waits for company would wait for ever.
TEST_F(TargetTest, AStreamOfOneTokenEnds) {
  StartTarget();
  for (const int max_tokens : {1, 0, 1}) {
    const auto got = Run(Open({3, 1, 4}, 42, max_tokens));
    ASSERT_TRUE(got->status.ok()) << got->status;
    EXPECT_EQ(got->tokens.size(), static_cast<size_t>(max_tokens));
  }
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
  const auto steps = HoldSteps(/*quick=*/8);
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
  steps->Release();
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
    EXPECT_LT(recorders[i]->messages, 60) << "no two of its tokens came together";
  }
}

TEST_F(TargetTest, AConnectionWithoutSequencesDoesNotDelayADrain) {
  options_.worker.service.drain_grace_s = 90;
  StartTarget();
  EXPECT_TRUE(Run(Open({2}, 3))->status.ok());
  auto drained = std::async(std::launch::async, [&] { target_->worker().server().Drain(); });
  EXPECT_EQ(drained.wait_for(60s), std::future_status::ready) << "of 90 s of grace";
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

}  // namespace
}  // namespace tutti::target
