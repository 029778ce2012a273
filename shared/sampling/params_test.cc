#include "shared/sampling/params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "shared/base/strings.h"
#include "shared/sampling/ranges.h"

namespace tutti::sampling {
namespace {

using ::testing::HasSubstr;

constexpr int kVocab = 100;
const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

TEST(SamplingParamsTest, DefaultsAndBordersAreValid) {
  SamplingParams p;
  EXPECT_TRUE(p.Validate(kVocab).ok());
  p = {.temperature = 0,
       .top_k = 1 << 30,
       .top_p = 1e-9f,
       .min_p = 0.999f,
       .typical_p = 1e-9f,
       .repetition_penalty = 1e-3f,
       .presence_penalty = -2,
       .frequency_penalty = 2,
       .logit_bias = {{0, -100.0f}, {99, 100.0f}},
       .max_tokens = 0,
       .stop_ids = {0, 99},
       .logprobs = 20,
       .prompt_logprobs = 0};
  EXPECT_TRUE(p.Validate(kVocab).ok()) << p.Validate(kVocab);
  p = {.temperature = 0, .num_beams = 64, .num_return = 64, .length_penalty = -1};
  EXPECT_TRUE(p.Validate(kVocab).ok()) << p.Validate(kVocab);
}

TEST(SamplingParamsTest, EachFieldOutOfRangeIsRefusedByName) {
  const std::vector<std::pair<std::string, std::function<void(SamplingParams&)>>> cases = {
      {"temperature is -0.1", [](auto& p) { p.temperature = -0.1f; }},
      {"temperature is nan", [](auto& p) { p.temperature = kNan; }},
      {"temperature is inf", [](auto& p) { p.temperature = kInf; }},
      {"top_k is -1", [](auto& p) { p.top_k = -1; }},
      {"top_p is 0", [](auto& p) { p.top_p = 0; }},
      {"top_p is 1.5", [](auto& p) { p.top_p = 1.5f; }},
      {"top_p is nan", [](auto& p) { p.top_p = kNan; }},
      {"min_p is 1", [](auto& p) { p.min_p = 1; }},
      {"min_p is nan", [](auto& p) { p.min_p = kNan; }},
      {"typical_p is 0", [](auto& p) { p.typical_p = 0; }},
      {"repetition_penalty is 0", [](auto& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty is inf", [](auto& p) { p.repetition_penalty = kInf; }},
      {"presence_penalty is 2.5", [](auto& p) { p.presence_penalty = 2.5f; }},
      {"frequency_penalty is nan", [](auto& p) { p.frequency_penalty = kNan; }},
      {"no_repeat_ngram_size is -1", [](auto& p) { p.no_repeat_ngram_size = -1; }},
      {"max_tokens is -1", [](auto& p) { p.max_tokens = -1; }},
      {"min_tokens is 17", [](auto& p) { p.min_tokens = 17; }},
      {"logprobs is 21", [](auto& p) { p.logprobs = 21; }},
      {"prompt_logprobs is -2", [](auto& p) { p.prompt_logprobs = -2; }},
      {"logit_bias names token id 100",
       [](auto& p) {
         p.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias names token id 3 twice",
       [](auto& p) {
         p.logit_bias = {{3, 1.0f}, {4, 0.0f}, {3, 1.0f}};
       }},
      {"logit_bias of token id 3 is nan",
       [](auto& p) {
         p.logit_bias = {{3, kNan}};
       }},
      {"logit_bias of token id 3 is 101",
       [](auto& p) {
         p.logit_bias = {{3, 101.0f}};
       }},
      {"logit_bias has 1025 entries",
       [](auto& p) {
         p.logit_bias.assign(1025, {1, 1.0f});
       }},
      {"stop_ids names token id -1", [](auto& p) { p.stop_ids = {-1}; }},
      {"stop_ids has 65 entries", [](auto& p) { p.stop_ids.assign(65, 1); }},
      {"num_beams is 0", [](auto& p) { p.num_beams = 0; }},
      {"num_beams is 1e+06", [](auto& p) { p.num_beams = 1000000; }},
      {"num_return is 2", [](auto& p) { p.num_return = 2; }},
      {"length_penalty is nan", [](auto& p) { p.length_penalty = kNan; }},
      {"top_k cannot be used with num_beams", [](auto& p) { p.num_beams = 2, p.top_k = 5; }},
      {"temperature (other than 0 or 1) cannot",
       [](auto& p) { p.num_beams = 2, p.temperature = 0.5f; }},
      {"logprobs cannot be used with num_beams", [](auto& p) { p.num_beams = 2, p.logprobs = 0; }},
  };
  for (const auto& [message, change] : cases) {
    SamplingParams p;
    change(p);
    const absl::Status status = p.Validate(kVocab);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << message;
    EXPECT_THAT(std::string(ToStd(status.message())), HasSubstr(message));
  }
}

TEST(SeedTest, NegativeSeedsAreTheUnsignedOnesWithTheSameBits) {
  EXPECT_EQ(*SeedFromText("0"), 0u);
  EXPECT_EQ(*SeedFromText("-1"), UINT64_MAX);
  EXPECT_EQ(*SeedFromText("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(*SeedFromText("-9223372036854775808"), uint64_t{1} << 63);
  for (const char* bad :
       {"", "-", "1.5", "18446744073709551616", "-9223372036854775809", "7 ", "x"})
    EXPECT_FALSE(SeedFromText(bad).ok()) << bad;
}

}  // namespace
}  // namespace tutti::sampling
