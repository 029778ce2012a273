#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "services/tokenizer/tokenizer_worker.h"
#include "shared/rpc/clients/await.h"
#include "shared/rpc/clients/tokenizer_client.h"
#include "shared/rpc/server.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::tokenizer_service {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr int64_t kDeadlineUs = 20000000;

// A byte-level tokenizer of a few tokens, as a Hugging Face folder without weights.
class TokenizerServiceTest : public ::testing::Test {
 protected:
  TokenizerServiceTest() {
    std::string pattern = (fs::temp_directory_path() / "tutti-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    Write("tokenizer.json", TokenizerJson());
    Write("tokenizer_config.json",
          R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template":
             "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"})");
    options_.model = folder_;
    options_.worker.service.listen = {"unix:" + folder_ + "/s"};
  }
  ~TokenizerServiceTest() override {
    client_.reset();
    worker_.reset();
    fs::remove_all(folder_);
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  static std::string TokenizerJson() {
    nlohmann::json vocab = nlohmann::json::object();
    int id = 0;
    for (const char* special : {"<s>", "</s>"}) vocab[special] = id++;
    for (const char* token :
         {"a", "b", "c", ":", ">", "u", "s", "e", "r", "Ġ", "ab", "abc", "Ã", "©", "<", "/"}) {
      vocab[token] = id++;
    }
    const auto added = [](int id, const char* text) {
      return nlohmann::json{
          {"id", id},        {"content", text}, {"special", true},     {"normalized", false},
          {"lstrip", false}, {"rstrip", false}, {"single_word", false}};
    };
    return nlohmann::json{
        {"version", "1.0"},
        {"added_tokens", {added(0, "<s>"), added(1, "</s>")}},
        {"pre_tokenizer",
         {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c"}}}}}
        .dump();
  }
  void StartWorker() {
    auto worker = TokenizerWorker::Start(options_);
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    const absl::Status ready = worker_->worker().WaitReady();
    ASSERT_TRUE(ready.ok()) << ready;
    client_ =
        *rpc::TokenizerClient::Create(worker_->worker().server().addresses()[0], "tokenizer[0]");
  }
  absl::StatusOr<wire::EncodeResult> Encode(const wire::EncodeInput& input) {
    return rpc::Await<wire::EncodeResult>(
        [&](auto done) { client_->Encode(input, kDeadlineUs, done); });
  }
  absl::StatusOr<std::string> Decode(const std::vector<int32_t>& ids, bool skip_special) {
    return rpc::Await<std::string>(
        [&](auto done) { client_->Decode(ids, skip_special, kDeadlineUs, done); });
  }
  absl::StatusOr<wire::Vocabulary> GetVocabulary() {
    return rpc::Await<wire::Vocabulary>(
        [&](auto done) { client_->GetVocabulary(kDeadlineUs, done); });
  }

  std::string folder_;
  TokenizerOptions options_;
  std::unique_ptr<TokenizerWorker> worker_;
  std::unique_ptr<rpc::TokenizerClient> client_;
};

TEST_F(TokenizerServiceTest, TextBecomesIdsWithOffsetsWhenAsked) {
  StartWorker();
  const auto plain = Encode({.text = "abcab"});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT(plain->encoding.ids, ElementsAre(13, 12));
  EXPECT_THAT(plain->encoding.offsets, IsEmpty());
  const auto with = Encode({.text = "abcab", .with_offsets = true});
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_THAT(with->encoding.offsets, ElementsAre(std::pair(0u, 3u), std::pair(3u, 5u)));
  const auto empty = Encode({.text = ""});
  ASSERT_TRUE(empty.ok());
  EXPECT_THAT(empty->encoding.ids, IsEmpty());
}

TEST_F(TokenizerServiceTest, SpecialTextIsPlainTextUnlessAskedFor) {
  StartWorker();
  EXPECT_THAT(Encode({.text = "<s>", .parse_special = true})->encoding.ids, ElementsAre(0));
  EXPECT_THAT(Encode({.text = "<s>"})->encoding.ids, ElementsAre(16, 8, 6));
}

TEST_F(TokenizerServiceTest, AChatIsRenderedWithTheModelsTemplateAndSpecialTokens) {
  StartWorker();
  wire::EncodeInput input;
  input.chat = wire::ChatText{.messages_json = R"([{"role": "user", "content": "abc"}])"};
  const auto chat = Encode(input);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->rendered, "<s>user:abc</s>>");
  EXPECT_THAT(chat->encoding.ids, ElementsAre(0, 7, 8, 9, 10, 5, 13, 1, 6));
  input.chat->add_generation_prompt = false;
  EXPECT_EQ(Encode(input)->rendered, "<s>user:abc</s>");
  input.chat->variables_json = R"({"bos_token": "b"})";
  EXPECT_EQ(Encode(input)->rendered, "buser:abc</s>");
}

TEST_F(TokenizerServiceTest, BadInputIsNamedWithItsPlaceAndTheServiceGoesOn) {
  StartWorker();
  const auto refusal = [&](const wire::EncodeInput& input) {
    const auto result = Encode(input);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
    return std::string(result.status().message());
  };
  EXPECT_THAT(refusal({.text = "ab\xC3"}), HasSubstr("tokenizer[0]: text: not UTF-8 at byte 2"));
  EXPECT_THAT(refusal({.text = std::string(wire::kMaxTextBytes + 1, 'a')}), HasSubstr("at most"));
  wire::EncodeInput chat;
  chat.chat = wire::ChatText{.messages_json = "[{]"};
  EXPECT_THAT(refusal(chat), HasSubstr("messages_json: not JSON: parse error at line 1, column 3"));
  EXPECT_EQ(Decode({0, 18}, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Decode({0, -1}, false).status().ToString(), HasSubstr("ids[1]: token id -1"));
  EXPECT_TRUE(Encode({.text = "a"}).ok());
}

TEST_F(TokenizerServiceTest, WhatATemplateRaisesReachesTheClientWithItsReason) {
  Write("chat_template.jinja", "{{ raise_exception('no system messages, please') }}");
  StartWorker();
  wire::EncodeInput input;
  input.chat = wire::ChatText{.messages_json = R"([{"role": "user", "content": "abc"}])"};
  const auto result = Encode(input);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no system messages, please"));
  EXPECT_EQ(ReasonOf(result.status()), "TEMPLATE_REFUSED");
}

TEST_F(TokenizerServiceTest, WithoutAUsableTemplateChatsAreRefusedAndTextIsServed) {
  for (const char* broken : {"", "{% if %}"}) {
    Write("tokenizer_config.json", "{}");
    if (*broken != 0) Write("chat_template.jinja", broken);
    StartWorker();
    wire::EncodeInput input;
    input.chat = wire::ChatText{.messages_json = R"([{"role": "user", "content": "abc"}])"};
    const auto result = Encode(input);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("template"));
    EXPECT_TRUE(Encode({.text = "abc"}).ok());
    EXPECT_FALSE(GetVocabulary()->has_chat_template);
    client_.reset();
    worker_.reset();
  }
}

TEST_F(TokenizerServiceTest, IdsBecomeText) {
  StartWorker();
  EXPECT_EQ(Decode({0, 13, 14, 15, 1}, false).value(), "<s>abc\xC3\xA9</s>");
  EXPECT_EQ(Decode({0, 13, 14, 15, 1}, true).value(), "abc\xC3\xA9");
  EXPECT_EQ(Decode({14}, true).value(), "\xEF\xBF\xBD") << "half a character";
}

TEST_F(TokenizerServiceTest, TheVocabularyThatARouterFetchesDecodesAsTheServiceDoes) {
  StartWorker();
  const auto vocabulary = GetVocabulary();
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_TRUE(vocabulary->has_chat_template);
  EXPECT_EQ(vocabulary->table.bytes.size(), 18u);
  EXPECT_TRUE(vocabulary->table.special[1]);
  const auto decoder = tokenizer::MakeByteDecoder(vocabulary->table);
  for (const std::vector<int32_t>& ids :
       {std::vector<int32_t>{0, 13, 14, 15, 1}, std::vector<int32_t>{14, 2, 15}}) {
    for (const bool skip : {false, true}) {
      EXPECT_EQ(decoder->Decode(ids, skip), Decode(ids, skip).value());
    }
  }
}

TEST_F(TokenizerServiceTest, AMissingModelIsSaidByName) {
  options_.model = "/no/such/model.gguf";
  auto worker = TokenizerWorker::Start(options_);
  ASSERT_TRUE(worker.ok());
  EXPECT_THAT((*worker)->worker().WaitReady().ToString(), HasSubstr("/no/such/model.gguf"));
  client_ = *rpc::TokenizerClient::Create((*worker)->worker().server().addresses()[0], "t");
  EXPECT_EQ(ReasonOf(Encode({.text = "a"}).status()), "STARTING");
  EXPECT_EQ(ReasonOf(GetVocabulary().status()), "STARTING");
  worker->reset();
}

TEST_F(TokenizerServiceTest, TheRealModelsVocabularyArrivesInPiecesAndWhole) {
  const char* given = std::getenv("TUTTI_MODEL");
  options_.model =
      given != nullptr ? given : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(options_.model)) GTEST_SKIP() << "no model at " << options_.model;
  StartWorker();
  const auto vocabulary = GetVocabulary();
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  const auto local = tokenizer::LoadTokenizer(options_.model);
  ASSERT_TRUE(local.ok());
  EXPECT_EQ(vocabulary->fingerprint, (*local)->fingerprint());
  EXPECT_EQ(static_cast<int>(vocabulary->table.bytes.size()), (*local)->vocab_size());
  const std::string text = "Where is the Zürich station? 東京 \xF0\x9F\x9A\x89\n";
  const auto encoded = Encode({.text = text});
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded->encoding.ids, (*local)->Encode(text, {}));
  EXPECT_EQ(tokenizer::MakeByteDecoder(vocabulary->table)->Decode(encoded->encoding.ids, true),
            text);
  wire::EncodeInput chat;
  chat.chat = wire::ChatText{.messages_json = R"([{"role": "user", "content": "Hi"}])"};
  EXPECT_THAT(Encode(chat)->rendered, HasSubstr("<|im_start|>user\nHi<|im_end|>\n"));
}

}  // namespace
}  // namespace tutti::tokenizer_service
