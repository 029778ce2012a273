// The promises of store::Journal as tests, for any implementation.
//
// A test file of an implementation includes this header and instantiates the suite:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, JournalConformance, ::testing::Values(JournalFactory(
//       [](const JournalOptions& o) { return MakeMemoryJournal(o); })));
//
// The factory returns an empty journal with those limits.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shared/store/journal.h"

namespace tutti::store {

using JournalFactory = std::function<std::unique_ptr<Journal>(const JournalOptions&)>;

class JournalConformance : public ::testing::TestWithParam<JournalFactory> {
 protected:
  static RequestRecord Record(const std::string& id, int num_choices = 1) {
    RequestRecord r;
    r.request_id = id;
    r.model = "m";
    r.fingerprint = 0xfeedfacecafebeefull;
    r.seed = ~uint64_t{0};
    r.num_choices = num_choices;
    r.prompt_ids = {1, 2, 49151};
    r.prompt_text = std::string("a\0b\xff", 4);  // bytes, not text
    r.request = std::string("\x00\x01", 2);
    r.created_us = 5;
    return r;
  }
  static Token Tok(int32_t id, uint64_t digest, std::string text = "x") {
    Token t;
    t.id = id;
    t.digest = digest;
    t.text = std::move(text);
    t.logprob = -0.5f;
    t.top = {{id, -0.5f}, {id + 1, -1.5f}};
    return t;
  }
  static std::vector<int32_t> Ids(const std::vector<Token>& tokens) {
    std::vector<int32_t> out;
    for (const Token& t : tokens) out.push_back(t.id);
    return out;
  }
  std::unique_ptr<Journal> New(JournalOptions o = {}) { return GetParam()(o); }
};

TEST_P(JournalConformance, WhatWasWrittenIsReadBackBitForBit) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a", 2), 0).ok());
  const std::vector<Token> prompt = {Tok(1, 0), Tok(2, 0)};
  ASSERT_TRUE(j->SetPromptTokens("a", 1, prompt, 1).ok());
  Token nan = Tok(7, 77);
  nan.logprob = std::numeric_limits<float>::quiet_NaN();
  nan.top.clear();
  ASSERT_TRUE(j->Append("a", 1, 0, std::vector<Token>{nan, Tok(8, 78, "\xf0\x9f")}, 2).ok());
  Finish f;
  f.reason = FinishReason::kStop;
  f.matched_stop = "\n\n";
  f.matched_stop_id = 9;
  f.tail_text = "tail";
  f.failovers = 3;
  f.usage.output_tokens = 2;
  f.beams = {{{1, 2}, -0.25f, "b"}};
  f.status = absl::InternalError("why");
  ASSERT_TRUE(j->FinishChoice("a", 1, f, 3).ok());

  const auto got = j->Load("a", 4);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->request.prompt_ids, Record("a").prompt_ids);
  EXPECT_EQ(got->request.prompt_text, Record("a").prompt_text);
  EXPECT_EQ(got->request.request, Record("a").request);
  EXPECT_EQ(got->request.seed, ~uint64_t{0});
  EXPECT_EQ(got->request.fingerprint, 0xfeedfacecafebeefull);
  ASSERT_EQ(got->choices.size(), 2u);
  EXPECT_TRUE(got->choices[0].tokens.empty());
  EXPECT_FALSE(got->choices[0].finish.has_value());
  const ChoiceRecord& c = got->choices[1];
  EXPECT_EQ(Ids(c.prompt_tokens), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(Ids(c.tokens), (std::vector<int32_t>{7, 8}));
  EXPECT_TRUE(std::isnan(c.tokens[0].logprob));
  EXPECT_EQ(c.tokens[1].text, "\xf0\x9f");
  EXPECT_EQ(c.tokens[1].digest, 78u);
  EXPECT_EQ(c.tokens[1].top, Tok(8, 0).top);
  ASSERT_TRUE(c.finish.has_value());
  EXPECT_EQ(c.finish->reason, FinishReason::kStop);
  EXPECT_EQ(c.finish->matched_stop, "\n\n");
  EXPECT_EQ(c.finish->matched_stop_id, 9);
  EXPECT_EQ(c.finish->tail_text, "tail");
  EXPECT_EQ(c.finish->failovers, 3u);
  EXPECT_EQ(c.finish->usage.output_tokens, 2);
  ASSERT_EQ(c.finish->beams.size(), 1u);
  EXPECT_EQ(c.finish->beams[0].token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(c.finish->status, absl::InternalError("why"));
}

TEST_P(JournalConformance, AnIdIsCreatedOnce) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  EXPECT_EQ(j->Create(Record("a"), 1).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(j->Create(Record(""), 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(j->Create(Record("b", 0), 1).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(JournalConformance, UnknownRequestsAndChoicesAreErrors) {
  auto j = New();
  const std::vector<Token> t = {Tok(1, 1)};
  EXPECT_EQ(j->Append("a", 0, 0, t, 0).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(j->FinishChoice("a", 0, {}, 0).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(j->Load("a", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(j->Create(Record("a", 2), 0).ok());
  EXPECT_EQ(j->Append("a", 2, 0, t, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(j->FinishChoice("a", 2, {}, 0).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(JournalConformance, AppendsAreIdempotentByPosition) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  const std::vector<Token> abc = {Tok(1, 11), Tok(2, 12), Tok(3, 13)};
  ASSERT_TRUE(j->Append("a", 0, 0, abc, 0).ok());
  EXPECT_TRUE(j->Append("a", 0, 0, abc, 0).ok());  // the same again
  EXPECT_TRUE(
      j->Append("a", 0, 2, std::vector<Token>{Tok(3, 13), Tok(4, 14)}, 0).ok());  // overlapping
  EXPECT_EQ(Ids(j->Load("a", 0)->choices[0].tokens), (std::vector<int32_t>{1, 2, 3, 4}));
}

TEST_P(JournalConformance, AGapIsRefusedAndAStoredTokenIsNeverChanged) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  EXPECT_EQ(j->Append("a", 0, 1, std::vector<Token>{Tok(1, 1)}, 0).code(),
            absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(j->Append("a", 0, 0, std::vector<Token>{Tok(1, 11)}, 0).ok());
  EXPECT_EQ(j->Append("a", 0, 0, std::vector<Token>{Tok(2, 11)}, 0).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(j->Append("a", 0, 0, std::vector<Token>{Tok(1, 12), Tok(2, 13)}, 0).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(Ids(j->Load("a", 0)->choices[0].tokens), (std::vector<int32_t>{1}));
}

TEST_P(JournalConformance, AFinishedChoiceStaysAsItIs) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  ASSERT_TRUE(j->Append("a", 0, 0, std::vector<Token>{Tok(1, 11)}, 0).ok());
  Finish length, eos;
  length.reason = FinishReason::kLength;
  eos.reason = FinishReason::kEos;
  ASSERT_TRUE(j->FinishChoice("a", 0, length, 0).ok());
  EXPECT_TRUE(j->FinishChoice("a", 0, eos, 0).ok());
  EXPECT_EQ(j->Load("a", 0)->choices[0].finish->reason, FinishReason::kLength);
  EXPECT_TRUE(j->Append("a", 0, 0, std::vector<Token>{Tok(1, 11)}, 0).ok());
  EXPECT_EQ(j->Append("a", 0, 1, std::vector<Token>{Tok(2, 12)}, 0).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_P(JournalConformance, EntriesExpireAfterTheLastWrite) {
  JournalOptions o;
  o.ttl_us = 1'000'000;
  auto j = New(o);
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  ASSERT_TRUE(j->Create(Record("b"), 0).ok());
  ASSERT_TRUE(j->Append("a", 0, 0, std::vector<Token>{Tok(1, 1)}, 900'000).ok());
  EXPECT_TRUE(j->Contains("a", 1'800'000));
  EXPECT_FALSE(j->Contains("b", 1'800'000));
  EXPECT_FALSE(j->Contains("a", 1'900'000));
  EXPECT_TRUE(j->Create(Record("a"), 1'900'001).ok());  // the id is free again
}

TEST_P(JournalConformance, CountAndBytesAreBoundedOldestFirst) {
  JournalOptions o;
  o.max_requests = 3;
  auto j = New(o);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(j->Create(Record("r" + std::to_string(i)), i).ok());
  EXPECT_EQ(j->num_requests(5), 3);
  EXPECT_FALSE(j->Contains("r1", 5));
  EXPECT_TRUE(j->Contains("r2", 5));

  o.max_requests = 1000;
  o.max_bytes = 64 << 10;
  j = New(o);
  for (int i = 0; i < 100; ++i) {
    const std::string id = "r" + std::to_string(i);
    ASSERT_TRUE(j->Create(Record(id), i).ok());
    ASSERT_TRUE(
        j->Append(id, 0, 0, std::vector<Token>{Tok(1, 1, std::string(8 << 10, 'x'))}, i).ok());
  }
  EXPECT_LT(j->num_requests(100), 9);
  EXPECT_GE(j->num_requests(100), 1);
  EXPECT_TRUE(j->Contains("r99", 100));
}

TEST_P(JournalConformance, ClearForgetsAll) {
  auto j = New();
  ASSERT_TRUE(j->Create(Record("a"), 0).ok());
  j->Clear();
  EXPECT_FALSE(j->Contains("a", 0));
  EXPECT_TRUE(j->Create(Record("a"), 0).ok());
}

}  // namespace tutti::store
