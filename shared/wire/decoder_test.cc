#include "shared/wire/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti::wire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

model::ModelInfo Model() {
  model::ModelInfo model;
  model.fingerprint = 42;
  model.vocab_size = 100;
  model.context_tokens = 64;
  return model;
}

decoder::v1::Open GoodOpen() {
  decoder::v1::Open open;
  open.add_prompt_ids(1);
  open.mutable_sampling()->set_seed(5);
  return open;
}

TEST(DecoderTest, AnOpenSurvivesTheRoundTrip) {
  DecodeOpen in;
  in.request_id = "req-1";
  in.sequence.prompt = {1, 2, 3};
  in.sequence.generated = {4, 5};
  in.sequence.digests = {7, 1ull << 63};
  in.sequence.digest = 0x8000000000000001u;
  in.sequence.priority = -3;
  in.sequence.params.seed = 9;
  in.sequence.params.sample_index = 2;
  in.sequence.params.max_tokens = 10;
  in.fingerprint = 42;
  in.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  decoder::v1::Open proto;
  DecodeOpenToProto(in, &proto);
  const auto out = DecodeOpenFromProto(proto, Model());
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->request_id, in.request_id);
  EXPECT_EQ(out->sequence.prompt, in.sequence.prompt);
  EXPECT_EQ(out->sequence.generated, in.sequence.generated);
  EXPECT_EQ(out->sequence.digests, in.sequence.digests);
  EXPECT_EQ(out->sequence.digest, in.sequence.digest);
  EXPECT_EQ(out->sequence.priority, in.sequence.priority);
  EXPECT_EQ(out->sequence.params.seed, 9u);
  EXPECT_EQ(out->sequence.params.sample_index, 2u);
  EXPECT_EQ(out->sequence.params.max_tokens, 10);
  EXPECT_EQ(out->traceparent, in.traceparent);
}

TEST(DecoderTest, ABadOpenIsRefusedByItsField) {
  const auto refusal = [](auto change) {
    auto open = GoodOpen();
    change(open);
    const auto result = DecodeOpenFromProto(open, Model());
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_TRUE(DecodeOpenFromProto(GoodOpen(), Model()).ok());
  EXPECT_THAT(refusal([](auto& o) { o.clear_prompt_ids(); }), HasSubstr("open.prompt_ids"));
  EXPECT_THAT(refusal([](auto& o) { o.add_prompt_ids(100); }),
              HasSubstr("open.prompt_ids[1]: token id 100 is outside the vocabulary of 100"));
  EXPECT_THAT(refusal([](auto& o) {
                o.add_generated_ids(1);
                o.add_generated_digests(1);
                o.add_generated_digests(2);
              }),
              HasSubstr("open.generated_digests: 2 for 1 generated_ids"));
  EXPECT_THAT(refusal([](auto& o) { o.add_generated_ids(-1); }),
              HasSubstr("open.generated_ids[0]"));
  EXPECT_THAT(refusal([](auto& o) { o.mutable_sampling()->clear_seed(); }),
              HasSubstr("open.sampling.seed"));
  EXPECT_THAT(refusal([](auto& o) { o.mutable_sampling()->set_top_p(2); }),
              HasSubstr("open.sampling.top_p"));
  EXPECT_THAT(refusal([](auto& o) { o.set_request_id(std::string(129, 'x')); }),
              HasSubstr("open.request_id"));
  EXPECT_THAT(refusal([](auto& o) { o.set_request_id("a\nb"); }), HasSubstr("open.request_id"));
  EXPECT_THAT(refusal([](auto& o) { o.set_traceparent(std::string(1000, 'x')); }),
              HasSubstr("open.traceparent"));
}

TEST(DecoderTest, AnotherModelsFingerprintIsAMismatchAndZeroIsAny) {
  auto open = GoodOpen();
  open.set_fingerprint(41);
  const auto result = DecodeOpenFromProto(open, Model());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(result.status()), "FINGERPRINT_MISMATCH");
  open.set_fingerprint(42);
  EXPECT_TRUE(DecodeOpenFromProto(open, Model()).ok());
  open.set_fingerprint(0);
  EXPECT_TRUE(DecodeOpenFromProto(open, Model()).ok());
}

TEST(DecoderTest, OutputsOfSeveralStepsGatherInOneMessage) {
  engine::SequenceOutput first{.first_index = 4, .tokens = {{.token_id = 1}}};
  engine::SequenceOutput second{.first_index = 5, .tokens = {{.token_id = 2}}};
  decoder::v1::Tokens proto;
  TokensToProto(first, false, false, &proto);
  TokensToProto(second, false, false, &proto);
  const auto tokens = TokensFromProto(proto, 100);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->position, 4u);
  ASSERT_EQ(tokens->tokens.size(), 2u);
  EXPECT_EQ(tokens->tokens[1].token_id, 2);
}

TEST(DecoderTest, APeersNonsenseIsAnError) {
  decoder::v1::Tokens tokens;
  tokens.set_position(0xFFFFFFFF);
  EXPECT_FALSE(TokensFromProto(tokens, 100).ok());
  tokens.set_position(0);
  tokens.add_tokens()->set_token_id(-1);
  EXPECT_FALSE(TokensFromProto(tokens, 100).ok());
  EXPECT_FALSE(FinishedFromProto(decoder::v1::Finished(), 100).ok());
  EXPECT_FALSE(DecoderInfoFromProto(decoder::v1::GetModelResponse()).ok());
}

TEST(DecoderTest, UsageBeamsAndModelSurviveTheRoundTrip) {
  engine::SequenceOutput output;
  output.finish = engine::FinishReason::kLength;
  output.usage = {.prompt_tokens = 1,
                  .cached_tokens = 2,
                  .output_tokens = 3,
                  .preemptions = 4,
                  .queue_us = 5,
                  .prefill_us = 6,
                  .decode_us = 7};
  output.beams = {{.token_ids = {1, 2}, .score = -0.5f}};
  decoder::v1::Finished proto;
  FinishedToProto(output, &proto);
  const auto finished = FinishedFromProto(proto, 100);
  ASSERT_TRUE(finished.ok());
  EXPECT_EQ(finished->reason, engine::FinishReason::kLength);
  EXPECT_EQ(finished->usage.cached_tokens, 2);
  EXPECT_EQ(finished->usage.decode_us, 7);
  ASSERT_EQ(finished->beams.size(), 1u);
  EXPECT_THAT(finished->beams[0].token_ids, ElementsAre(1, 2));

  DecoderInfo info{.name = "n",
                   .architecture = "llama",
                   .isa = "avx2",
                   .fingerprint = 1,
                   .tokenizer_fingerprint = 2,
                   .vocab_size = 3,
                   .context_tokens = 4,
                   .num_pages = 5,
                   .page_tokens = 16,
                   .threads = 2,
                   .eos_ids = {1}};
  decoder::v1::GetModelResponse response;
  DecoderInfoToProto(info, &response);
  const auto back = DecoderInfoFromProto(response);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->tokenizer_fingerprint, 2u);
  EXPECT_EQ(back->isa, "avx2");
  EXPECT_EQ(back->eos_ids, info.eos_ids);
}

}  // namespace
}  // namespace tutti::wire
