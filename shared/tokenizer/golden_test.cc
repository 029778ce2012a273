// Every recorded vector: Hugging Face tokenizers' own output on small byte-level tokenizers of five
// families, and on SmolLM2's vocabulary read from the model file and from a tokenizer.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <nlohmann/json.hpp>

#include "shared/base/mapped_file.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::tokenizer {
namespace {

using nlohmann::json;
using ::testing::ElementsAreArray;

const std::string kData = std::string(TUTTI_SOURCE_DIR) + "/tests/data/tokenizers/";

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream s;
  s << in.rdbuf();
  return s.str();
}

std::string ModelPath() {
  if (const char* path = std::getenv("TUTTI_MODEL")) return path;
  return std::string(TUTTI_SOURCE_DIR) + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// A tokenizer.json with the vocabulary of the model file, and the pre-tokenizer that SmolLM2's has.
std::string JsonOfModel(const weights::ModelFiles& files) {
  json vocab = json::object(), added = json::array(), merges = json::array();
  const auto tokens = files.FindArray("tokenizer.ggml.tokens")->Strings();
  const auto types = files.FindArray("tokenizer.ggml.token_type")->Ints();
  for (size_t i = 0; i < tokens.size(); ++i) {
    vocab[std::string(tokens[i])] = i;
    if (types[i] == 3) {
      added.push_back(
          {{"id", i}, {"content", tokens[i]}, {"special", true}, {"normalized", false}});
    }
  }
  for (const auto merge : files.FindArray("tokenizer.ggml.merges")->Strings())
    merges.push_back(merge);
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  return json{
      {"added_tokens", added},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level}}}},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}}
      .dump();
}

// What DecodeStream gives, as the vectors write it: null where nothing came out.
json Streamed(const Tokenizer& t, const std::vector<int32_t>& ids, std::string* joined) {
  StreamDecoder stream(t.decoder(), /*skip_special=*/false);
  json out = json::array();
  for (const int32_t id : ids) {
    const std::string piece = stream.Push(id);
    *joined += piece;
    out.push_back(piece.empty() ? json(nullptr) : json(piece));
  }
  *joined += stream.Flush();
  return out;
}

void CheckVectors(const Tokenizer& t, const json& golden) {
  ASSERT_EQ(t.vocab_size(), golden.at("vocab_size"));
  ASSERT_GT(golden.at("vectors").size(), 50u);
  for (const json& v : golden.at("vectors")) {
    const auto text = v.at("text").get<std::string>();
    SCOPED_TRACE(text.substr(0, 200));
    const auto ids = v.at("ids").get<std::vector<int32_t>>();
    EXPECT_THAT(t.Encode(text, {.parse_special = true}), ElementsAreArray(ids));
    const Encoding e = t.EncodeWithOffsets(text, {.parse_special = true});
    EXPECT_THAT(e.ids, ElementsAreArray(ids));
    EXPECT_EQ(json(e.offsets), v.at("offsets"));
    EXPECT_THAT(t.Encode(text, {.parse_special = true, .add_special = true}),
                ElementsAreArray(v.at("ids_with_special").get<std::vector<int32_t>>()));
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(t.TokenText(ids[i]), v.at("tokens")[i].get<std::string>());
      EXPECT_EQ(t.TokenId(t.TokenText(ids[i])), ids[i]);
    }
    EXPECT_EQ(t.decoder()->Decode(ids, false), v.at("decoded").get<std::string>());
    EXPECT_EQ(t.decoder()->Decode(ids, true), v.at("decoded_skip_special").get<std::string>());
    std::string joined;
    EXPECT_EQ(Streamed(t, ids, &joined), v.at("stream"));
    EXPECT_EQ(joined, v.at("decoded").get<std::string>());
  }
  for (const json& v : golden.at("random_decodes")) {
    const auto ids = v.at("ids").get<std::vector<int32_t>>();
    SCOPED_TRACE(v.at("ids").dump());
    EXPECT_EQ(t.decoder()->Decode(ids, false), v.at("decoded").get<std::string>());
    EXPECT_EQ(t.decoder()->Decode(ids, true), v.at("decoded_skip_special").get<std::string>());
    std::string joined;
    Streamed(t, ids, &joined);
    EXPECT_EQ(joined, v.at("decoded").get<std::string>());
  }
}

class SmallTokenizerTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SmallTokenizerTest, EqualsEveryRecordedVector) {
  const auto t = LoadTokenizer(kData + GetParam() + "/tokenizer.json");
  ASSERT_TRUE(t.ok()) << t.status();
  CheckVectors(**t, json::parse(ReadFile(kData + GetParam() + "/vectors.json")));
}

INSTANTIATE_TEST_SUITE_P(Families, SmallTokenizerTest,
                         ::testing::Values("bytelevel_deepseek", "bytelevel_gpt2",
                                           "bytelevel_llama3", "bytelevel_qwen2",
                                           "bytelevel_smollm"));

class SmolLm2Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(ModelPath())) GTEST_SKIP() << "no model at " << ModelPath();
    auto files = weights::ModelFiles::Open(ModelPath());
    ASSERT_TRUE(files.ok()) << files.status();
    files_ = *files;
    golden_ = json::parse(ReadFile(kData + "smollm2/vectors.json"));
  }
  std::shared_ptr<const weights::ModelFiles> files_;
  json golden_;
};

TEST_F(SmolLm2Test, FromTheModelFileEqualsEveryRecordedVector) {
  const auto t = TokenizerFromModel(*files_);
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ((*t)->bos_id(), 1);
  EXPECT_EQ((*t)->eos_id(), 2);
  CheckVectors(**t, golden_);
}

TEST_F(SmolLm2Test, FromATokenizerJsonEqualsEveryRecordedVectorAndTheFingerprintIsTheSame) {
  const char* given =
      std::getenv("TUTTI_SMOLLM2_TOKENIZER_JSON");  // the hub's own file, to check by hand
  const auto t = given != nullptr ? LoadTokenizer(given) : TokenizerFromJson(JsonOfModel(*files_));
  ASSERT_TRUE(t.ok()) << t.status();
  CheckVectors(**t, golden_);
  const auto from_model = TokenizerFromModel(*files_);
  ASSERT_TRUE(from_model.ok()) << from_model.status();
  EXPECT_EQ((*t)->fingerprint(), (*from_model)->fingerprint());
}

TEST_F(SmolLm2Test, WithoutParseSpecialTheTextIsWhatLlamaCppGives) {
  const auto t = TokenizerFromModel(*files_);
  ASSERT_TRUE(t.ok()) << t.status();
  const json items = json::parse(ReadFile(kData + "smollm2/plain.json"));
  ASSERT_GT(items.size(), 10u);
  for (const json& item : items) {
    const auto text = item.at("text").get<std::string>();
    SCOPED_TRACE(text.substr(0, 200));
    EXPECT_THAT((*t)->Encode(text, {}),
                ElementsAreArray(item.at("smollm2_plain").get<std::vector<int32_t>>()));
    EXPECT_THAT((*t)->Encode(text, {.parse_special = true}),
                ElementsAreArray(item.at("smollm2_special").get<std::vector<int32_t>>()));
  }
}

}  // namespace
}  // namespace tutti::tokenizer
