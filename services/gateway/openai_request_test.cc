#include "services/gateway/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/gateway/api_error.h"
#include "services/gateway/json_fields.h"

namespace tutti::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ApiError CompletionError(std::string_view body) {
  return ErrorFromStatus(ParseCompletionRequest(body).status());
}
ApiError ChatError(std::string_view body) {
  return ErrorFromStatus(ParseChatRequest(body).status());
}

TEST(CompletionRequestTest, EveryFormOfPromptBecomesCalls) {
  const auto text = ParseCompletionRequest(R"({"model":"m","prompt":"Hi"})");
  ASSERT_TRUE(text.ok()) << text.status();
  ASSERT_EQ(text->calls.size(), 1u);
  EXPECT_EQ(text->calls[0].text(), "Hi");
  EXPECT_EQ(text->calls[0].model(), "m");
  EXPECT_EQ(text->calls[0].sampling().max_tokens(), 16);
  EXPECT_FALSE(text->calls[0].sampling().has_seed());

  const auto texts = ParseCompletionRequest(R"({"prompt":["a","b"],"n":2})");
  ASSERT_TRUE(texts.ok());
  ASSERT_EQ(texts->calls.size(), 2u);
  EXPECT_EQ(texts->calls[1].text(), "b");
  EXPECT_EQ(texts->calls[1].n(), 2);

  const auto ids = ParseCompletionRequest(R"({"prompt":[1,2,3]})");
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(ids->calls[0].token_ids().ids(), ElementsAre(1, 2, 3));

  const auto id_lists = ParseCompletionRequest(R"({"prompt":[[1],[2,3]]})");
  ASSERT_TRUE(id_lists.ok());
  EXPECT_THAT(id_lists->calls[1].token_ids().ids(), ElementsAre(2, 3));
}

TEST(CompletionRequestTest, EveryFieldArrivesWhereTheRouterReadsIt) {
  const auto r = ParseCompletionRequest(
      R"({"prompt":"x","max_tokens":5,"temperature":0.5,"top_p":0.9,"top_k":7,
    "min_p":0.1,"typical_p":0.8,"repetition_penalty":1.1,"presence_penalty":-1,"frequency_penalty":2,"seed":18446744073709551615,
    "stop":["a","b"],"stop_token_ids":[4,5],"logit_bias":{"3":-100,"9":1.5},"ignore_eos":true,"min_tokens":2,"n":3,"best_of":3,
    "no_repeat_ngram_size":3,"echo":true,"logprobs":2,"priority":-4,"return_token_ids":true,"include_stop_str_in_output":true,
    "skip_special_tokens":false,"parse_special":true,"user":"u","stream":true,"stream_options":{"include_usage":true},"suffix":null})");
  ASSERT_TRUE(r.ok()) << r.status();
  const auto& call = r->calls[0];
  const auto& s = call.sampling();
  EXPECT_EQ(s.max_tokens(), 5);
  EXPECT_EQ(s.temperature(), 0.5f);
  EXPECT_EQ(s.top_p(), 0.9f);
  EXPECT_EQ(s.top_k(), 7);
  EXPECT_EQ(s.min_p(), 0.1f);
  EXPECT_EQ(s.typical_p(), 0.8f);
  EXPECT_EQ(s.repetition_penalty(), 1.1f);
  EXPECT_EQ(s.presence_penalty(), -1.0f);
  EXPECT_EQ(s.frequency_penalty(), 2.0f);
  EXPECT_EQ(s.seed(), UINT64_MAX);
  EXPECT_THAT(call.stop(), ElementsAre("a", "b"));
  EXPECT_THAT(s.stop_ids(), ElementsAre(4, 5));
  ASSERT_EQ(s.logit_bias_size(), 2);
  EXPECT_EQ(s.logit_bias(1).token_id(), 9);
  EXPECT_EQ(s.logit_bias(1).bias(), 1.5f);
  EXPECT_TRUE(s.ignore_eos());
  EXPECT_EQ(s.min_tokens(), 2);
  EXPECT_EQ(call.n(), 3);
  EXPECT_EQ(s.no_repeat_ngram_size(), 3);
  EXPECT_TRUE(call.echo());
  EXPECT_EQ(s.logprobs(), 2);
  EXPECT_EQ(s.prompt_logprobs(), 2);
  EXPECT_EQ(call.priority(), -4);
  EXPECT_TRUE(call.include_stop());
  EXPECT_FALSE(call.skip_special());
  EXPECT_TRUE(call.parse_special());
  EXPECT_TRUE(r->stream && r->include_usage && r->return_token_ids && r->logprobs && r->echo);
}

TEST(CompletionRequestTest, BeamSearchReturnsNBeams) {
  const auto r = ParseCompletionRequest(
      R"({"prompt":"x","num_beams":4,"n":2,"length_penalty":0.5,"early_stopping":true})");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_TRUE(r->beams);
  EXPECT_EQ(r->calls[0].sampling().num_beams(), 4);
  EXPECT_EQ(r->calls[0].sampling().num_return(), 2);
  EXPECT_FALSE(r->calls[0].has_n());
}

TEST(CompletionRequestTest, WrongFieldsAreErrorsThatNameThem) {
  const struct {
    const char* body;
    const char* param;
    const char* message;
  } cases[] = {
      {R"({})", "prompt", "missing"},
      {R"({"prompt":5})", "prompt", "must be a string"},
      {R"({"prompt":""})", "prompt", "must not be empty"},
      {R"({"prompt":[]})", "prompt", ""},
      {R"({"prompt":["a",1]})", "prompt[1]", "an integer"},
      {R"({"prompt":[1,"a"]})", "prompt[1]", "token id"},
      {R"({"prompt":[-1]})", "prompt[0]", "token id"},
      {R"({"prompt":[[]]})", "prompt[0]", "token ids"},
      {R"({"prompt":"x","temprature":1})", "temprature", "unknown field"},
      {R"({"prompt":"x","temperature":"hot"})", "temperature", "must be a number, not a string"},
      {R"({"prompt":"x","temperature":-1})", "temperature", "in [0, 1e+06]"},
      {R"({"prompt":"x","top_p":0})", "top_p", "in (0, 1]"},
      {R"({"prompt":"x","repetition_penalty":1e-60})", "repetition_penalty", "in (0, 100]"},
      {R"({"prompt":"x","temperature":1e999})", "", "not JSON"},
      {R"({"prompt":"x","top_p":1.5})", "top_p", "in (0, 1]"},
      {R"({"prompt":"x","max_tokens":1.5})", "max_tokens", "integer"},
      {R"({"prompt":"x","max_tokens":-2})", "max_tokens", "-1 to"},
      {R"({"prompt":"x","max_tokens":0})", "max_tokens", "echo"},
      {R"({"prompt":"x","n":1000000})", "n", "1 to 128"},
      {R"({"prompt":["a","b"],"n":100})", "n", "at most 128"},
      {R"({"prompt":"x","n":2,"best_of":4})", "best_of", "supported only when it equals n"},
      {R"({"prompt":"x","logprobs":true})", "logprobs", "integer, not a boolean"},
      {R"({"prompt":"x","logprobs":21})", "logprobs", "0 to 20"},
      {R"({"prompt":"x","seed":18446744073709551616})", "seed", "2^64"},
      {R"({"prompt":"x","seed":"7"})", "seed", "a string"},
      {R"({"prompt":"x","stream":true,"prompt_logprobs":1})", "prompt_logprobs", "stream"},
      {R"({"prompt":"x","seed":1.5})", "seed", ""},
      {R"({"prompt":"x","stop":[1]})", "stop[0]", "string"},
      {R"({"prompt":"x","stop":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]})",
       "stop", "16"},
      {R"({"prompt":"x","logit_bias":[1]})", "logit_bias", "object"},
      {R"({"prompt":"x","logit_bias":{"a":1}})", "logit_bias", "token ids, not \"a\""},
      {R"({"prompt":"x","logit_bias":{"1":101}})", "logit_bias.1", "-100 to 100"},
      {R"({"prompt":"x","suffix":"y"})", "suffix", "not supported"},
      {R"({"prompt":"x","stream":1})", "stream", "true or false"},
      {R"({"prompt":"x","stream":true,"stream_options":{"x":1}})", "stream_options.x", "unknown"},
      {R"({"prompt":"x","num_beams":2,"n":3})", "n", "num_beams"},
      {R"({"prompt":"x","length_penalty":2})", "length_penalty", "num_beams"},
      {R"({"prompt":"x","prompt":"y"})", "prompt", "twice"},
      {R"({"prompt":"x","messages":[]})", "messages", "unknown field"},
      {R"([1])", "", "object, not an array"},
      {R"({"prompt":)", "", "not JSON"},
      {"{\"prompt\":\"\xff\"}", "", "not JSON"},
      {"", "", "not JSON"},
  };
  for (const auto& c : cases) {
    const ApiError e = CompletionError(c.body);
    EXPECT_EQ(e.http_status, 400) << c.body;
    EXPECT_EQ(e.type, "invalid_request_error") << c.body;
    EXPECT_EQ(e.param, c.param) << c.body << "\n" << e.message;
    EXPECT_THAT(e.message, HasSubstr(c.message)) << c.body;
  }
}

TEST(CompletionRequestTest, HostileBodiesAreRefusedBeforeTheyCost) {
  EXPECT_THAT(CompletionError(std::string(kMaxBodyBytes + 1, ' ')).message,
              HasSubstr("at most 8388608"));
  EXPECT_THAT(CompletionError(std::string(1000000, '[')).message, HasSubstr("nests deeper"));
  std::string deep = "{\"prompt\":";
  for (int i = 0; i < 100; ++i) deep += "[";
  for (int i = 0; i < 100; ++i) deep += "]";
  EXPECT_THAT(CompletionError(deep + "}").message, HasSubstr("nests deeper than 64"));
  // Many keys anywhere: of the body, of a field, of a tool's schema, of a tool call's arguments.
  std::string keys, escaped;
  for (int i = 0; i < 50000; ++i) {
    const std::string key = "k" + std::to_string(i);
    keys += ",\"" + key + "\":1";
    escaped += ",\\\"" + key + "\\\":1";
  }
  keys[0] = escaped[0] = ' ';
  const std::string user = R"("messages":[{"role":"user","content":"x"}],)";
  const struct {
    std::string body;
    const char* param;
  } cases[] = {
      {"{" + keys + "}", ""},
      {R"({"prompt":"x","logit_bias":{)" + keys + "}}", "logit_bias"},
      {"{" + user + R"("chat_template_kwargs":{"a":{)" + keys + "}}}", "chat_template_kwargs.a"},
      {"{" + user + R"("tools":[{"type":"function","function":{"name":"f","parameters":{)" + keys +
           "}}}]}",
       "tools[0].function.parameters"},
      {R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{)" +
           escaped + R"(}"}}]}]})",
       "messages[1].tool_calls[0].function.arguments"},
  };
  for (const auto& c : cases) {
    const ApiError e = ChatError(c.body);
    EXPECT_EQ(e.http_status, 400);
    EXPECT_EQ(e.param, c.param) << e.message;
  }
}

TEST(ChatRequestTest, MessagesKeepTheirFieldsAndPartsBecomeText) {
  const auto r = ParseChatRequest(R"({"model":"m","messages":[
      {"role":"system","content":"S"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"Ann"},
      {"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"z\":1,\"a\":2}"}}]},
      {"role":"tool","tool_call_id":"1","content":"42"}],
    "tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto",
    "max_completion_tokens":9,"logprobs":true,"top_logprobs":3,"chat_template_kwargs":{"date_string":"x"}})");
  ASSERT_TRUE(r.ok()) << r.status();
  const auto& call = r->calls[0];
  EXPECT_EQ(
      call.chat().messages_json(),
      R"([{"role":"system","content":"S"},{"role":"user","content":"a\nb","name":"Ann"},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]},)"
      R"({"role":"tool","tool_call_id":"1","content":"42"}])");
  EXPECT_EQ(call.chat().tools_json(),
            R"([{"type":"function","function":{"name":"f","parameters":{}}}])");
  EXPECT_EQ(call.chat().variables_json(), R"({"date_string":"x"})");
  EXPECT_EQ(call.sampling().max_tokens(), 9);
  EXPECT_EQ(call.sampling().logprobs(), 3);
  EXPECT_TRUE(r->chat && r->logprobs);
}

TEST(ChatRequestTest, WithoutALimitTheContextIsTheLimit) {
  const auto r = ParseChatRequest(R"({"messages":[{"role":"user","content":"x"}]})");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_FALSE(r->calls[0].sampling().has_max_tokens());
  EXPECT_FALSE(r->calls[0].sampling().has_logprobs());
}

TEST(ChatRequestTest, WrongFieldsAreErrorsThatNameThem) {
  const struct {
    const char* fields;
    const char* param;
  } cases[] = {
      {R"("messages":[])", "messages"},
      {R"("messages":"x")", "messages"},
      {R"("messages":["x"])", "messages[0]"},
      {R"("messages":[{"content":"x"}])", "messages[0].role"},
      {R"("messages":[{"role":"user"}])", "messages[0].content"},
      {R"("messages":[{"role":"user","content":1}])", "messages[0].content"},
      {R"("messages":[{"role":"user","content":"x","mood":"y"}])", "messages[0].mood"},
      {R"("messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}])",
       "messages[0].content[0].type"},
      {R"("messages":[{"role":"user","content":[{"type":"text"}]}])",
       "messages[0].content[0].text"},
      {R"("messages":[{"role":"assistant","tool_calls":[{}]}])", "messages[0].tool_calls[0]"},
      {R"("messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}])",
       "messages[0].tool_calls[0].function.arguments"},
      {R"("messages":[{"role":"user","content":"x"}],"prompt":"x")", "prompt"},
      {R"("messages":[{"role":"user","content":"x"}],"logprobs":3)", "logprobs"},
      {R"("messages":[{"role":"user","content":"x"}],"top_logprobs":3)", "top_logprobs"},
      {R"("messages":[{"role":"user","content":"x"}],"max_tokens":0)", "max_tokens"},
      {R"("messages":[{"role":"user","content":"x"}],"max_tokens":1,"max_completion_tokens":2)",
       "max_tokens"},
      {R"("messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"})",
       "response_format"},
      {R"("messages":[{"role":"user","content":"x"}],"tools":[{}])", "tools[0]"},
      {R"("messages":[{"role":"user","content":"x"}],"tool_choice":"required")", "tool_choice"},
      {R"("messages":[{"role":"user","content":"x"}],"functions":[{}])", "functions"},
      {R"("messages":[{"role":"user","content":"x"}],"echo":1)", "echo"},
      {R"("messages":[{"role":"user","content":"x"}],"web_search_options":{})",
       "web_search_options"},
      {R"("messages":[{"role":"user","content":"x"}],"parallel_tool_calls":"no")",
       "parallel_tool_calls"},
      {R"("messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"messages":1})",
       "chat_template_kwargs.messages"},
  };
  for (const auto& c : cases) {
    const ApiError e = ChatError("{" + std::string(c.fields) + "}");
    EXPECT_EQ(e.http_status, 400) << c.fields;
    EXPECT_EQ(e.param, c.param) << c.fields << "\n" << e.message;
  }
}

TEST(RequestTest, FieldsThatCannotChangeATokenAreTakenAndNamed) {
  for (const char* field :
       {R"("metadata":{"a":"b"})", R"("store":true)", R"("service_tier":"flex")",
        R"("prompt_cache_key":"k")", R"("safety_identifier":"s")", R"("verbosity":"low")",
        R"("prediction":{"type":"content","content":"x"})"}) {
    const std::string name = std::string(field).substr(1, std::string(field).find(':') - 2);
    const auto chat = ParseChatRequest(R"({"messages":[{"role":"user","content":"x"}],)" +
                                       std::string(field) + "}");
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_THAT(chat->ignored, ElementsAre(name));
    const auto text = ParseCompletionRequest(R"({"prompt":"x",)" + std::string(field) + "}");
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_THAT(text->ignored, ElementsAre(name));
  }
  const auto agent = ParseChatRequest(R"({"messages":[
      {"role":"assistant","content":"x","annotations":[],"id":"m1","audio":null},
      {"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}],
      "reasoning_effort":"low","parallel_tool_calls":false,"prediction":null,"metadata":null,
      "functions":null,"web_search_options":null,"response_format":null,"audio":null,
      "best_of":null,"of_next_year":null,"stream_options":null})");
  ASSERT_TRUE(agent.ok()) << agent.status();
  EXPECT_THAT(agent->ignored,
              ElementsAre("messages[].annotations", "messages[].content[].cache_control",
                          "messages[].id", "parallel_tool_calls", "reasoning_effort"));
  EXPECT_EQ(agent->calls[0].chat().variables_json(), R"({"reasoning_effort":"low"})");
}

TEST(RequestTest, NumbersAndEmptyValuesAreReadAsClientsSendThem) {
  const auto r = ParseCompletionRequest(
      R"({"prompt":[1.0,2],"max_tokens":5.0,"n":1.0,"top_k":7.0,"stop":"","seed":3.0,"best_of":null})");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_THAT(r->calls[0].token_ids().ids(), ElementsAre(1, 2));
  EXPECT_EQ(r->calls[0].sampling().max_tokens(), 5);
  EXPECT_EQ(r->calls[0].sampling().top_k(), 7);
  EXPECT_EQ(r->calls[0].sampling().seed(), 3u);
  EXPECT_EQ(r->calls[0].stop_size(), 0);
  const auto open = ParseCompletionRequest(R"({"prompt":"x","max_tokens":-1,"stop":["","a"]})");
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_FALSE(open->calls[0].sampling().has_max_tokens());
  EXPECT_THAT(open->calls[0].stop(), ElementsAre("a"));
  EXPECT_TRUE(open->calls[0].parse_special());
  EXPECT_FALSE(
      ParseCompletionRequest(R"({"prompt":"x","parse_special":false})")->calls[0].parse_special());
}

TEST(RequestTest, NegativeSeedsAreTheUnsignedOnesWithTheSameBits) {
  for (const auto& [text, seed] :
       {std::pair{"-1", UINT64_MAX}, std::pair{"-9223372036854775808", uint64_t{1} << 63},
        std::pair{"18446744073709551615", UINT64_MAX}}) {
    const auto r = ParseCompletionRequest(R"({"prompt":"x","seed":)" + std::string(text) + "}");
    ASSERT_TRUE(r.ok()) << r.status();
    EXPECT_EQ(r->calls[0].sampling().seed(), seed);
    EXPECT_EQ(r->negative_seed, text[0] == '-');
  }
}

TEST(RequestTest, AChoiceIsAskedForByItsNumber) {
  const auto r = ParseCompletionRequest(R"({"prompt":"x","n":3,"first_choice":125})");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->calls[0].first_choice(), 125);
  EXPECT_EQ(CompletionError(R"({"prompt":"x","n":3,"first_choice":126})").param, "first_choice");
  EXPECT_EQ(CompletionError(R"({"prompt":"x","first_choice":-1})").param, "first_choice");
}

TEST(ChatRequestTest, ControlTokensComeFromTheTemplateUnlessAskedOtherwise) {
  const auto parsed = [](const std::string& more) {
    const auto r = ParseChatRequest(R"({"messages":[{"role":"user","content":"x"}])" + more + "}");
    EXPECT_TRUE(r.ok()) << r.status();
    return r->calls[0];
  };
  EXPECT_FALSE(parsed("").parse_special());
  EXPECT_TRUE(parsed(R"(,"parse_special":true)").parse_special());
  EXPECT_FALSE(parsed("").chat().continue_final_message());
  EXPECT_TRUE(parsed(R"(,"continue_final_message":true,"add_generation_prompt":false)")
                  .chat()
                  .continue_final_message());
  EXPECT_EQ(ChatError(R"({"messages":[{"role":"user","content":"x"}],
                          "continue_final_message":true,"add_generation_prompt":true})")
                .param,
            "continue_final_message");
  const auto tokenize = ParseTokenizeRequest(R"({"messages":[{"role":"user","content":"x"}]})");
  ASSERT_TRUE(tokenize.ok());
  EXPECT_FALSE(tokenize->request.parse_special());
}

TEST(ChatRequestTest, AnAssistantsLastMessageIsEchoed) {
  const auto r = ParseChatRequest(R"({"messages":[{"role":"user","content":"x"},
      {"role":"assistant","content":"The capital"}],"echo":true})");
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->chat_echo, "The capital");
}

TEST(ApiErrorTest, RouterFieldsGetTheirHttpNames) {
  const struct {
    const char* message;
    const char* param;
  } cases[] = {
      {"sampling.top_p: 2, must be in (0, 1]", "top_p"},
      {"sampling.top_p is 0; it must be in (0, 1]", "top_p"},
      {"sampling.stop_ids: 70 ids, at most 64", "stop_token_ids"},
      {"token_ids[3]: 99999, the vocabulary has ids 0 to 49151", "prompt[3]"},
      {"prompt: 9000 tokens, the model's context is 8192", "prompt"},
      {"stop[2]: 300 bytes", "stop[2]"},
      {"template:3: 'x' is undefined", "messages"},
      {"router: tokenizer[a-1]: chat: the template's text is not UTF-8", "messages"},
      {"ids[0]: token id 70000, the vocabulary has 49152", "tokens[0]"},
      {"router: tokenizer[a-1]: messages[2].role: \"assitant\"", "messages[2].role"},
      {"messages_json[0].x: has more than 4096 keys", "messages[0].x"},
      {"variables_json.a: has more than 4096 keys", "chat_template_kwargs.a"},
      {"sampling.logit_bias names token id 99999999; ids are in [0, 49152)", "logit_bias"},
      {"tools: the model's chat template has no place for tools", "tools"},
      {"something else", ""},
  };
  for (const auto& c : cases) {
    const ApiError e = ErrorFromStatus(absl::InvalidArgumentError(c.message));
    EXPECT_EQ(e.param, c.param) << c.message;
    EXPECT_EQ(e.http_status, 400);
  }
}

TEST(ApiErrorTest, CodesBecomeHttpStatuses) {
  EXPECT_EQ(ErrorFromStatus(absl::NotFoundError("")).http_status, 404);
  EXPECT_EQ(ErrorFromStatus(absl::AlreadyExistsError("")).http_status, 409);
  EXPECT_EQ(ErrorFromStatus(absl::ResourceExhaustedError("")).http_status, 429);
  EXPECT_EQ(ErrorFromStatus(absl::ResourceExhaustedError("")).retry_after_s, 1);
  EXPECT_EQ(ErrorFromStatus(WithRetryAfterMs(absl::ResourceExhaustedError(""), 2500)).retry_after_s,
            3);
  EXPECT_EQ(ErrorFromStatus(absl::UnavailableError("")).http_status, 503);
  EXPECT_EQ(ErrorFromStatus(absl::DeadlineExceededError("")).http_status, 504);
  EXPECT_EQ(ErrorFromStatus(absl::CancelledError("")).http_status, 499);
  EXPECT_EQ(ErrorFromStatus(absl::InternalError("")).http_status, 500);
  EXPECT_EQ(ErrorFromStatus(WithReason(absl::InvalidArgumentError("no"), "TEMPLATE_REFUSED")).param,
            "messages");
  EXPECT_EQ(
      ErrorJson(ErrorFromStatus(BadParam("n", "too many"))),
      R"({"error":{"message":"n: too many","type":"invalid_request_error","param":"n","code":"invalid_value"}})");
}

TEST(TokenizeRequestTest, TextOrMessagesAndNothingElse) {
  const auto text = ParseTokenizeRequest(R"({"prompt":"x"})");
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text->request.text(), "x");
  EXPECT_TRUE(text->request.add_special());
  const auto chat = ParseTokenizeRequest(
      R"({"messages":[{"role":"user","content":"x"}],"return_token_strs":true})");
  ASSERT_TRUE(chat.ok());
  EXPECT_TRUE(chat->request.has_chat());
  EXPECT_FALSE(ParseTokenizeRequest(R"({})").ok());
  EXPECT_FALSE(
      ParseTokenizeRequest(R"({"prompt":"x","messages":[{"role":"user","content":"x"}]})").ok());
  const auto ids = ParseDetokenizeRequest(R"({"tokens":[1,2]})");
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(ids->ids(), ElementsAre(1, 2));
  EXPECT_FALSE(ParseDetokenizeRequest(R"({"tokens":["a"]})").ok());
  EXPECT_FALSE(ParseDetokenizeRequest(R"({})").ok());
}

TEST(RequestIdTest, OnlyShortPrintableAsciiIsTaken) {
  EXPECT_TRUE(IsRequestId("abc-123"));
  EXPECT_FALSE(IsRequestId(""));
  EXPECT_FALSE(IsRequestId("a b"));
  EXPECT_FALSE(IsRequestId("a\n"));
  EXPECT_FALSE(IsRequestId(std::string(97, 'a')));
}

}  // namespace
}  // namespace tutti::gateway
