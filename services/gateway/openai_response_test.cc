#include "services/gateway/openai_response.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti::gateway {
namespace {

using generation::v1::GenerateResponse;
using ::testing::HasSubstr;

GenerateResponse Started(uint64_t seed, std::string prompt_text = "") {
  GenerateResponse m;
  auto* s = m.mutable_started();
  s->set_model("m");
  s->set_fingerprint(0xabc);
  s->set_seed(seed);
  s->set_prompt_text(std::move(prompt_text));
  s->add_prompt_ids(7);
  s->add_prompt_ids(8);
  return m;
}

GenerateResponse Delta(uint32_t index, const std::string& text, int32_t id, float logprob = -0.5f) {
  GenerateResponse m;
  auto* d = m.mutable_delta();
  d->set_index(index);
  d->set_text(text);
  auto* t = d->add_tokens();
  t->set_token_id(id);
  t->set_logprob(logprob);
  auto* top = t->add_top();
  top->set_token_id(id + 1);
  top->set_logprob(-0.25f);
  d->add_token_bytes(text);
  d->add_top_bytes("alt");
  return m;
}

GenerateResponse Finished(uint32_t index, common::v1::FinishReason reason, uint32_t tokens) {
  GenerateResponse m;
  auto* f = m.mutable_finished();
  f->set_index(index);
  f->set_reason(reason);
  f->set_seed(11);
  f->set_digest(0x1234);
  f->set_output_tokens(tokens);
  f->mutable_usage()->set_prompt_tokens(2);
  f->mutable_usage()->set_cached_tokens(1);
  return m;
}

std::vector<Json> Parse(const std::string& events) {
  std::vector<Json> out;
  size_t at = 0;
  while (at < events.size()) {
    const size_t end = events.find("\n\n", at);
    EXPECT_EQ(events.substr(at, 6), "data: ");
    const std::string data = events.substr(at + 6, end - at - 6);
    out.push_back(data == "[DONE]" ? Json(data) : Json::parse(data, nullptr, false));
    at = end + 2;
  }
  return out;
}

ApiRequest Request(std::string_view body, bool chat = false) {
  auto r = chat ? ParseChatRequest(body) : ParseCompletionRequest(body);
  EXPECT_TRUE(r.ok()) << r.status();
  return *std::move(r);
}

constexpr std::string_view kChat =
    R"({"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":1})";

TEST(WholeResponseTest, HoldsChoicesInOrderWithSeedDigestAndUsage) {
  const ApiRequest request = Request(R"({"prompt":["a","b"],"n":2,"return_token_ids":true})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  for (const size_t prompt : {1u, 0u}) {
    b.Add(prompt, Started(11), &events);
    b.Add(prompt, Delta(1, "one", 3), &events);
    b.Add(prompt, Delta(0, "zero", 4), &events);
    b.Add(prompt, Finished(0, common::v1::FINISH_REASON_EOS, 1), &events);
    EXPECT_FALSE(b.complete() && prompt == 1);
    b.Add(prompt, Finished(1, common::v1::FINISH_REASON_LENGTH, 1), &events);
  }
  EXPECT_TRUE(b.complete());
  EXPECT_EQ(events, "");
  const Json j = Json::parse(b.Whole());
  EXPECT_EQ(j["object"], "text_completion");
  EXPECT_EQ(j["id"], "cmpl-1");
  EXPECT_EQ(j["system_fingerprint"], "0000000000000abc");
  ASSERT_EQ(j["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const Json& c = j["choices"][i];
    EXPECT_EQ(c["index"], i);
    EXPECT_EQ(c["text"], i % 2 == 0 ? "zero" : "one");
    EXPECT_EQ(c["finish_reason"], i % 2 == 0 ? "stop" : "length");
    EXPECT_EQ(c["seed"], 11);
    EXPECT_EQ(c["digest"], "0000000000001234");
    EXPECT_EQ(c["logprobs"], nullptr);
    EXPECT_EQ(c["token_ids"], Json::array({i % 2 == 0 ? 4 : 3}));
    EXPECT_EQ(c["prompt_token_ids"], Json::array({7, 8}));
  }
  EXPECT_EQ(j["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(j["usage"]["completion_tokens"], 4);
  EXPECT_EQ(j["usage"]["total_tokens"], 8);
  EXPECT_EQ(j["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST(WholeResponseTest, ScoringAPromptGivesNullForItsFirstToken) {
  const ApiRequest request = Request(R"({"prompt":"é b","echo":true,"max_tokens":0,"logprobs":1})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  b.Add(0, Started(1, "é b"), &events);
  GenerateResponse m;
  m.mutable_delta()->add_prompt_tokens()->set_token_id(7);
  auto* second = m.mutable_delta()->add_prompt_tokens();
  second->set_token_id(8);
  second->set_logprob(-2);
  second->add_top()->set_token_id(9);
  m.mutable_delta()->add_prompt_token_bytes("é");
  m.mutable_delta()->add_prompt_token_bytes(" b");
  m.mutable_delta()->add_prompt_top_bytes(" c");
  b.Add(0, m, &events);
  b.Add(0, Finished(0, common::v1::FINISH_REASON_LENGTH, 0), &events);
  const Json j = Json::parse(b.Whole());
  const Json& c = j["choices"][0];
  EXPECT_EQ(c["text"], "é b");
  EXPECT_EQ(c["logprobs"]["tokens"], Json::array({"é", " b"}));
  EXPECT_EQ(c["logprobs"]["token_logprobs"], Json::array({nullptr, -2.0}));
  EXPECT_EQ(c["logprobs"]["text_offset"], Json::array({0, 1}));
  EXPECT_EQ(c["logprobs"]["top_logprobs"][0], nullptr);
  EXPECT_EQ(c["logprobs"]["top_logprobs"][1], (Json{{" c", 0.0}, {" b", -2.0}}));
}

TEST(WholeResponseTest, ChatLogprobsCarryBytes) {
  const ApiRequest request = Request(kChat, true);
  ResponseBuilder b(request, {"chatcmpl-1", 5});
  std::string events;
  b.Add(0, Started(1), &events);
  GenerateResponse m = Delta(0, "", 3, -0.1f);
  m.mutable_delta()->set_token_bytes(0, "\xe2\x82");
  b.Add(0, m, &events);
  b.Add(0, Finished(0, common::v1::FINISH_REASON_STOP, 1), &events);
  const Json j = Json::parse(b.Whole());
  const Json& t = j["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(t["token"], "bytes:\\xe2\\x82");
  EXPECT_EQ(t["bytes"], Json::array({0xe2, 0x82}));
  EXPECT_EQ(t["logprob"].dump(), "-0.1");  // the shortest digits of the f32
  EXPECT_EQ(t["top_logprobs"][0]["token"], "alt");
  EXPECT_EQ(j["choices"][0]["message"]["role"], "assistant");
}

TEST(WholeResponseTest, TokensPastAStopStringDoNotCount) {
  const ApiRequest request =
      Request(R"({"prompt":"a","stop":"x","logprobs":0,"return_token_ids":true})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  b.Add(0, Started(1), &events);
  b.Add(0, Delta(0, "ok", 1), &events);
  b.Add(0, Delta(0, "", 2), &events);
  GenerateResponse f = Finished(0, common::v1::FINISH_REASON_STOP, 1);
  f.mutable_finished()->set_matched_stop("x");
  b.Add(0, f, &events);
  const Json c = Json::parse(b.Whole())["choices"][0];
  EXPECT_EQ(c["token_ids"], Json::array({1}));
  EXPECT_EQ(c["logprobs"]["tokens"].size(), 1u);
  EXPECT_EQ(c["stop_reason"], "x");
}

TEST(StreamTest, ChunksJoinToTheWholeAndEndWithUsageAndDone) {
  ApiRequest request = Request(
      R"({"messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}})",
      true);
  ResponseBuilder b(request, {"chatcmpl-1", 5});
  std::string events;
  b.Add(0, Started(9), &events);
  EXPECT_EQ(events, "");
  b.Add(0, Delta(0, "Hel", 1), &events);
  b.Add(0, Delta(0, "", 2), &events);  // nothing to show yet
  b.Add(0, Delta(0, "lo", 3), &events);
  b.Add(0, Finished(0, common::v1::FINISH_REASON_EOS, 3), &events);
  ASSERT_TRUE(b.complete());
  events += b.LastEvents();
  const auto chunks = Parse(events);
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(chunks[0]["choices"][0]["delta"], (Json{{"role", "assistant"}, {"content", "Hel"}}));
  EXPECT_EQ(chunks[0]["choices"][0]["seed"], 9);
  EXPECT_EQ(chunks[0]["usage"], nullptr);
  EXPECT_EQ(chunks[1]["choices"][0]["delta"], (Json{{"content", "lo"}}));
  EXPECT_EQ(chunks[2]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(chunks[2]["choices"][0]["digest"], "0000000000001234");
  EXPECT_EQ(chunks[3]["choices"], Json::array());
  EXPECT_EQ(chunks[3]["usage"]["completion_tokens"], 3);
  EXPECT_EQ(chunks[4], "[DONE]");
}

TEST(StreamTest, OffsetsOfLogprobsGoOnOverChunks) {
  const ApiRequest request = Request(R"({"prompt":"x","stream":true,"logprobs":1})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  b.Add(0, Started(9), &events);
  b.Add(0, Delta(0, "ab", 1), &events);
  b.Add(0, Delta(0, "c", 2), &events);
  const auto chunks = Parse(events);
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[0]["choices"][0]["logprobs"]["text_offset"], Json::array({0}));
  EXPECT_EQ(chunks[1]["choices"][0]["logprobs"]["text_offset"], Json::array({2}));
}

TEST(StreamTest, EveryChoiceEchoesThePromptWithItsLogprobs) {
  const ApiRequest request =
      Request(R"({"prompt":"p","stream":true,"echo":true,"logprobs":0,"n":2})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  b.Add(0, Started(9, "p"), &events);
  b.Add(0, Delta(1, "one", 2), &events);
  EXPECT_EQ(events, "");  // the prompt's tokens come with choice 0
  GenerateResponse m = Delta(0, "zero", 1);
  m.mutable_delta()->add_prompt_tokens()->set_token_id(7);
  m.mutable_delta()->add_prompt_token_bytes("p");
  b.Add(0, m, &events);
  const auto chunks = Parse(events);
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[0]["choices"][0]["text"], "pzero");
  EXPECT_EQ(chunks[1]["choices"][0]["text"], "pone");
  for (const Json& chunk : chunks) {
    EXPECT_EQ(chunk["choices"][0]["logprobs"]["tokens"][0], "p");
    EXPECT_EQ(chunk["choices"][0]["logprobs"]["tokens"].size(), 2u);
  }
}

TEST(BeamsTest, EachBeamIsAChoiceWithItsScore) {
  for (const bool stream : {false, true}) {
    ApiRequest request = Request(R"({"prompt":"x","num_beams":3,"n":2})");
    request.stream = stream;
    ResponseBuilder b(request, {"cmpl-1", 5});
    std::string events;
    b.Add(0, Started(9), &events);
    GenerateResponse f = Finished(0, common::v1::FINISH_REASON_LENGTH, 2);
    for (int i = 0; i < 2; ++i) {
      auto* beam = f.mutable_finished()->add_beams();
      beam->add_token_ids(i);
      beam->set_text(i == 0 ? "best" : "next");
      beam->set_score(-0.5f - static_cast<float>(i));
    }
    b.Add(0, f, &events);
    ASSERT_TRUE(b.complete());
    if (stream) {
      EXPECT_EQ(Parse(events).size(), 4u);
      EXPECT_THAT(events, HasSubstr("\"score\":-1.5"));
    } else {
      const Json j = Json::parse(b.Whole());
      EXPECT_EQ(j["choices"][0]["text"], "best");
      EXPECT_EQ(j["choices"][1]["text"], "next");
      EXPECT_EQ(j["choices"][1]["score"], -1.5);
      EXPECT_EQ(j["usage"]["completion_tokens"], 2);
    }
  }
}

TEST(HostilePeerTest, ChoicesOutsideOfTheRequestAreDropped) {
  const ApiRequest request = Request(R"({"prompt":"x"})");
  ResponseBuilder b(request, {"cmpl-1", 5});
  std::string events;
  b.Add(0, Delta(99, "x", 1), &events);
  b.Add(0, Finished(99, common::v1::FINISH_REASON_EOS, 1), &events);
  EXPECT_FALSE(b.complete());
  b.Add(0, Finished(0, common::v1::FINISH_REASON_EOS, 1), &events);
  b.Add(0, Finished(0, common::v1::FINISH_REASON_EOS, 1), &events);
  EXPECT_TRUE(b.complete());
}

TEST(ResponseTest, ATokenThatTheTokenizerAddedTakesNoRoomInTheOffsets) {
  const ApiRequest request = Request(R"({"prompt":"a b","echo":true,"max_tokens":0,"logprobs":0})");
  ResponseBuilder builder(request, {"id", 1});
  std::string events;
  builder.Add(0, Started(9, "a b"), &events);
  GenerateResponse m;
  for (const char* bytes : {"<s>", "a", " b"}) {
    m.mutable_delta()->add_prompt_tokens()->set_logprob(-1);
    m.mutable_delta()->add_prompt_token_bytes(bytes);
  }
  builder.Add(0, m, &events);
  builder.Add(0, Finished(0, common::v1::FINISH_REASON_LENGTH, 0), &events);
  const Json c = Json::parse(builder.Whole())["choices"][0];
  EXPECT_EQ(c["text"], "a b");
  EXPECT_EQ(c["logprobs"]["text_offset"], Json::array({0, 0, 1}));
}

TEST(ResponseTest, ANegativeSeedIsReportedAsItWasSent) {
  const ApiRequest request = Request(R"({"prompt":"p","n":2,"seed":-1})");
  ResponseBuilder builder(request, {"id", 1});
  std::string events;
  builder.Add(0, Started(UINT64_MAX), &events);
  for (const uint32_t i : {0u, 1u}) {
    GenerateResponse finished = Finished(i, common::v1::FINISH_REASON_EOS, 0);
    finished.mutable_finished()->set_seed(UINT64_MAX);
    builder.Add(0, finished, &events);
  }
  const Json choices = Json::parse(builder.Whole())["choices"];
  EXPECT_EQ(choices[1]["seed"], -1);
}

TEST(ResponseTest, UsageComesWithEachChunkWhenAsked) {
  const ApiRequest request =
      Request(R"({"prompt":"p","stream":true,"stream_options":{"continuous_usage_stats":true}})");
  ResponseBuilder builder(request, {"id", 1});
  std::string events;
  builder.Add(0, Started(1), &events);
  builder.Add(0, Delta(0, "a", 1), &events);
  builder.Add(0, Delta(0, "b", 2), &events);
  builder.Add(0, Finished(0, common::v1::FINISH_REASON_EOS, 2), &events);
  const auto chunks = Parse(events);
  ASSERT_EQ(chunks.size(), 3u);
  EXPECT_EQ(chunks[0]["usage"]["completion_tokens"], 1);
  EXPECT_EQ(chunks[1]["usage"]["total_tokens"], 4);
  EXPECT_EQ(chunks[2]["usage"]["prompt_tokens"], 2);
}

}  // namespace
}  // namespace tutti::gateway
