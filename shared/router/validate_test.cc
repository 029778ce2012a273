#include "shared/router/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace tutti::router {
namespace {

using ::testing::HasSubstr;

TEST(ValidateTest, WhatIsWrongIsNamed) {
  const auto message = [](const std::function<void(RequestSpec*)>& change) {
    RequestSpec s;
    s.prompt = std::string("hi");
    change(&s);
    const absl::Status status = ValidateRequest(&s, RouterOptions());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](auto* s) { s->n = 0; }), HasSubstr("n: 0"));
  EXPECT_THAT(message([](auto* s) { s->n = 129; }), HasSubstr("n: 129"));
  EXPECT_THAT(message([](auto* s) { s->first_choice = -1; }), HasSubstr("first_choice: -1"));
  EXPECT_THAT(message([](auto* s) { s->n = 2, s->first_choice = 127; }), HasSubstr("0 to 126"));
  EXPECT_THAT(message([](auto* s) { s->sampling.num_beams = 2, s->first_choice = 1; }),
              HasSubstr("first_choice"));
  EXPECT_THAT(message([](auto* s) { s->prompt = std::string("a\xff"); }), HasSubstr("byte 1"));
  EXPECT_THAT(message([](auto* s) { s->prompt = std::vector<int32_t>(); }), HasSubstr("token_ids"));
  EXPECT_THAT(message([](auto* s) { s->stop.assign(17, "x"); }), HasSubstr("17"));
  EXPECT_THAT(message([](auto* s) { s->stop = {std::string(257, 'x')}; }), HasSubstr("stop[0]"));
  EXPECT_THAT(message([](auto* s) { s->request_id = std::string(129, 'x'); }),
              HasSubstr("request_id"));
  EXPECT_THAT(message([](auto* s) { s->sampling.num_beams = 2, s->n = 2; }), HasSubstr("n:"));
}

TEST(ValidateTest, MaxTokensIsCutToWhatFits) {
  ModelInfo model;
  model.vocab_size = 10;
  model.context_tokens = 8;
  RequestSpec s;
  const std::vector<int32_t> five(5, 1), eight(8, 1), bad = {1, 10};
  ASSERT_TRUE(ValidateForModel(&s, five, model).ok());
  EXPECT_EQ(s.sampling.max_tokens, 3);
  s = RequestSpec();
  EXPECT_THAT(std::string(ValidateForModel(&s, eight, model).message()), HasSubstr("8 tokens"));
  s.has_max_tokens = true;
  s.sampling.max_tokens = 0;  // scoring needs no room
  EXPECT_TRUE(ValidateForModel(&s, eight, model).ok());
  EXPECT_THAT(std::string(ValidateForModel(&s, bad, model).message()), HasSubstr("token_ids[1]"));
}

TEST(ValidateTest, TraceparentsAreRecognised) {
  EXPECT_TRUE(IsTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
  EXPECT_FALSE(IsTraceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
  EXPECT_FALSE(IsTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"));
  EXPECT_FALSE(IsTraceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
}

}  // namespace
}  // namespace tutti::router
