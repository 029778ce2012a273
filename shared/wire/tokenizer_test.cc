#include "shared/wire/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tutti::wire {
namespace {

using ::testing::HasSubstr;

TEST(TokenizerTest, TextMustBeUtf8AndTheErrorSaysWhereItIsNot) {
  tokenizer::v1::EncodeRequest request;
  EXPECT_THAT(CheckEncodeRequest(request).ToString(), HasSubstr("one of text and chat"));
  request.set_text("ok \xC3\xA9");
  EXPECT_TRUE(CheckEncodeRequest(request).ok());
  request.set_text("12345\xFFzz");
  EXPECT_THAT(CheckEncodeRequest(request).ToString(), HasSubstr("text: not UTF-8 at byte 5"));
  request.set_text(std::string(kMaxTextBytes + 1, 'x'));
  EXPECT_THAT(CheckEncodeRequest(request).ToString(), HasSubstr("at most"));
}

std::string Refusal(const std::string& messages, const std::string& tools = "",
                    const std::string& variables = "") {
  tokenizer::v1::ChatInput chat;
  chat.set_messages_json(messages);
  chat.set_tools_json(tools);
  chat.set_variables_json(variables);
  const auto result = TemplateInputFromProto(chat);
  if (result.ok()) return "";
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(result.status().message());
}

TEST(TokenizerTest, AChatIsCheckedBeforeTheTemplateSeesIt) {
  const std::string good = R"([{"role": "user", "content": "hi"}])";
  EXPECT_EQ(Refusal(good), "");
  EXPECT_EQ(Refusal(good, "[]", "{}"), "");
  EXPECT_THAT(Refusal("[{\"role\": \"user\",}]"),
              HasSubstr("messages_json: not JSON: parse error at line 1, column 18"));
  EXPECT_THAT(Refusal(""), HasSubstr("messages_json: not JSON"));
  EXPECT_THAT(Refusal("{}"), HasSubstr("messages_json: must be an array, is object"));
  EXPECT_THAT(Refusal("[]"), HasSubstr("at least one message"));
  EXPECT_THAT(Refusal("[1]"), HasSubstr("messages_json[0]: must be an object, is number"));
  EXPECT_THAT(Refusal(R"([{"role": 1}])"), HasSubstr("messages_json[0].role"));
  EXPECT_THAT(Refusal("[\"\xFF\"]"), HasSubstr("messages_json: not UTF-8 at byte 2"));
  EXPECT_THAT(Refusal(good, "{}"), HasSubstr("tools_json: must be an array"));
  EXPECT_THAT(Refusal(good, "", "[]"), HasSubstr("variables_json: must be an object"));
}

TEST(TokenizerTest, DeepNestingIsRefusedBeforeItIsParsed) {
  EXPECT_THAT(Refusal(std::string(1000000, '[')), HasSubstr("nests deeper than 64"));
  // Brackets inside strings are text.
  EXPECT_EQ(Refusal(R"([{"role": "user", "content": ")" + std::string(1000, '[') + R"(\"["}])"),
            "");
}

TEST(TokenizerTest, ManyKeysAreRefusedAtTheLimitAndAKeyTwiceByItsPath) {
  std::string keys;
  for (int i = 0; i < 100000; ++i) keys += ",\"k" + std::to_string(i) + "\":1";
  keys[0] = ' ';
  const std::string good = R"([{"role": "user", "content": "hi"}])";
  EXPECT_THAT(Refusal(R"([{"role":"user","x":{)" + keys + "}}]"),
              HasSubstr("messages_json[0].x: has more than 4096 keys"));
  EXPECT_THAT(Refusal(good, R"([{"a":{)" + keys + "}}]"), HasSubstr("tools_json[0].a: has more"));
  EXPECT_THAT(Refusal(good, "", "{" + keys + "}"), HasSubstr("variables_json: has more"));
  EXPECT_THAT(Refusal(R"([{"role":"user","role":"tool"}])"),
              HasSubstr("messages_json[0].role: stands twice"));
}

tokenizer::v1::GetVocabularyResponse Piece(int first, int count, int size) {
  tokenizer::v1::GetVocabularyResponse piece;
  piece.set_fingerprint(7);
  piece.set_vocab_size(size);
  piece.set_first_id(first);
  piece.set_bos_id(-1);
  for (int i = 0; i < count; ++i) {
    piece.add_token_bytes(std::string(1, static_cast<char>('a' + first + i)));
    piece.add_special(first + i == 0);
  }
  return piece;
}

TEST(TokenizerTest, AVocabularyComesTogetherFromItsPieces) {
  VocabularyReader reader;
  ASSERT_TRUE(reader.Add(Piece(0, 2, 5)).ok());
  ASSERT_TRUE(reader.Add(Piece(2, 3, 5)).ok());
  const auto vocabulary = std::move(reader).Finish();
  ASSERT_TRUE(vocabulary.ok());
  EXPECT_EQ(vocabulary->fingerprint, 7u);
  EXPECT_EQ(vocabulary->table.bytes.size(), 5u);
  EXPECT_EQ(vocabulary->table.bytes[4], "e");
  EXPECT_TRUE(vocabulary->table.special[0]);
  EXPECT_EQ(vocabulary->bos_id, -1);
}

TEST(TokenizerTest, MissingDoubledOrForeignPiecesAreDataLoss) {
  VocabularyReader missing;
  ASSERT_TRUE(missing.Add(Piece(0, 2, 5)).ok());
  EXPECT_EQ(missing.Add(Piece(0, 2, 5)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(missing.Add(Piece(3, 2, 5)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(missing.Add(Piece(2, 4, 5)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(missing.Add(Piece(2, 3, 6)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::move(missing).Finish().status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(VocabularyReader().Add(Piece(0, 0, -1)).ok());
  EXPECT_FALSE(VocabularyReader().Finish().ok());
}

}  // namespace
}  // namespace tutti::wire
