#include "shared/wire/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tutti::wire {
namespace {

using ::testing::HasSubstr;

TEST(SamplingTest, UnsetFieldsGetTheDefaultsThatTheProtoStates) {
  const auto params = SamplingFromProto(common::v1::SamplingParams(), 3, 100);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(params->temperature, 1.0f);
  EXPECT_EQ(params->top_k, 0);
  EXPECT_EQ(params->top_p, 1.0f);
  EXPECT_EQ(params->repetition_penalty, 1.0f);
  EXPECT_EQ(params->max_tokens, std::numeric_limits<int32_t>::max());
  EXPECT_EQ(params->logprobs, -1);
  EXPECT_EQ(params->num_beams, 1);
  EXPECT_EQ(params->sample_index, 3u);
}

TEST(SamplingTest, EveryFieldSurvivesTheRoundTrip) {
  sampling::SamplingParams in;
  in.seed = ~uint64_t{0};
  in.temperature = 0.7f;
  in.top_k = 40;
  in.top_p = 0.9f;
  in.min_p = 0.05f;
  in.typical_p = 0.95f;
  in.repetition_penalty = 1.1f;
  in.presence_penalty = -0.5f;
  in.frequency_penalty = 0.25f;
  in.logit_bias = {{5, -100.0f}, {7, 2.5f}};
  in.no_repeat_ngram_size = 3;
  in.max_tokens = 77;
  in.min_tokens = 2;
  in.ignore_eos = true;
  in.stop_ids = {9, 11};
  in.logprobs = 0;
  in.prompt_logprobs = 5;
  common::v1::SamplingParams proto;
  SamplingToProto(in, &proto);
  const auto out = SamplingFromProto(proto, 0, 100);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->seed, in.seed);
  EXPECT_EQ(out->temperature, in.temperature);
  EXPECT_EQ(out->top_k, in.top_k);
  EXPECT_EQ(out->top_p, in.top_p);
  EXPECT_EQ(out->min_p, in.min_p);
  EXPECT_EQ(out->typical_p, in.typical_p);
  EXPECT_EQ(out->repetition_penalty, in.repetition_penalty);
  EXPECT_EQ(out->presence_penalty, in.presence_penalty);
  EXPECT_EQ(out->frequency_penalty, in.frequency_penalty);
  EXPECT_EQ(out->logit_bias, in.logit_bias);
  EXPECT_EQ(out->no_repeat_ngram_size, in.no_repeat_ngram_size);
  EXPECT_EQ(out->max_tokens, in.max_tokens);
  EXPECT_EQ(out->min_tokens, in.min_tokens);
  EXPECT_EQ(out->ignore_eos, in.ignore_eos);
  EXPECT_EQ(out->stop_ids, in.stop_ids);
  EXPECT_EQ(out->logprobs, in.logprobs);
  EXPECT_EQ(out->prompt_logprobs, in.prompt_logprobs);
}

TEST(SamplingTest, BeamFieldsSurviveTheRoundTrip) {
  sampling::SamplingParams in;
  in.temperature = 0;
  in.num_beams = 4;
  in.num_return = 2;
  in.length_penalty = 0.5f;
  in.early_stopping = true;
  common::v1::SamplingParams proto;
  SamplingToProto(in, &proto);
  const auto out = SamplingFromProto(proto, 0, 100);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->num_beams, 4);
  EXPECT_EQ(out->num_return, 2);
  EXPECT_EQ(out->length_penalty, 0.5f);
  EXPECT_TRUE(out->early_stopping);
}

TEST(SamplingTest, WhatIsOutOfRangeIsRefusedByItsField) {
  const auto refusal = [](auto change) {
    common::v1::SamplingParams proto;
    change(proto);
    const auto result = SamplingFromProto(proto, 0, 100);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_THAT(refusal([](auto& p) { p.set_temperature(NAN); }), HasSubstr("sampling.temperature"));
  EXPECT_THAT(refusal([](auto& p) { p.set_top_p(0); }), HasSubstr("sampling.top_p"));
  EXPECT_THAT(refusal([](auto& p) { p.set_max_tokens(-1); }), HasSubstr("sampling.max_tokens"));
  EXPECT_THAT(refusal([](auto& p) { p.set_logprobs(-1); }), HasSubstr("sampling.logprobs"));
  EXPECT_THAT(refusal([](auto& p) { p.set_logprobs(21); }), HasSubstr("sampling.logprobs"));
  EXPECT_THAT(refusal([](auto& p) { p.set_prompt_logprobs(-7); }),
              HasSubstr("sampling.prompt_logprobs"));
  EXPECT_THAT(refusal([](auto& p) { p.set_num_beams(1000000); }), HasSubstr("num_beams"));
  EXPECT_THAT(refusal([](auto& p) {
                for (int i = 0; i < 2; ++i) p.add_logit_bias()->set_token_id(5);
              }),
              HasSubstr("sampling.logit_bias: token id 5 stands there twice"));
  EXPECT_THAT(refusal([](auto& p) {
                for (int i = 0; i < 100000; ++i) p.add_logit_bias()->set_token_id(i % 100);
              }),
              HasSubstr("sampling.logit_bias: 100000 entries"));
  EXPECT_THAT(refusal([](auto& p) { p.add_logit_bias()->set_token_id(100); }),
              HasSubstr("logit_bias"));
  EXPECT_THAT(refusal([](auto& p) {
                for (int i = 0; i < 65; ++i) p.add_stop_ids(i);
              }),
              HasSubstr("sampling.stop_ids: 65"));
  EXPECT_THAT(refusal([](auto& p) { p.add_stop_ids(-3); }), HasSubstr("stop_ids"));
}

TEST(SamplingTest, TokensKeepTheirLogprobBitsAndNaNMeansNone) {
  engine::TokenOutput token{
      .token_id = 7, .logprob = -1.2345678e-5f, .digest = 0xfedcba9876543210u};
  token.top = {{7, -0.0f}, {3, -std::numeric_limits<float>::infinity()}};
  common::v1::TokenInfo proto;
  TokenToProto(token, true, &proto);
  auto back = TokenFromProto(proto, 100);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(std::bit_cast<uint32_t>(back->logprob), std::bit_cast<uint32_t>(token.logprob));
  EXPECT_EQ(back->digest, token.digest);
  ASSERT_EQ(back->top.size(), 2u);
  EXPECT_TRUE(std::signbit(back->top[0].logprob));
  EXPECT_EQ(back->top[1].logprob, token.top[1].logprob);

  token.logprob = NAN;
  proto.Clear();
  TokenToProto(token, true, &proto);
  EXPECT_FALSE(proto.has_logprob());
  EXPECT_TRUE(std::isnan(TokenFromProto(proto, 100)->logprob));
  proto.set_token_id(100);
  EXPECT_EQ(TokenFromProto(proto, 100).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SamplingTest, FinishReasonsMapBothWaysAndUnknownOnesAreErrors) {
  using engine::FinishReason;
  for (const auto reason :
       {FinishReason::kNone, FinishReason::kEos, FinishReason::kStopId, FinishReason::kLength,
        FinishReason::kCancelled, FinishReason::kDeadline, FinishReason::kError}) {
    EXPECT_EQ(FinishFromProto(FinishToProto(reason)), reason);
  }
  EXPECT_EQ(FinishFromProto(static_cast<common::v1::FinishReason>(99)), FinishReason::kError);
}

}  // namespace
}  // namespace tutti::wire
