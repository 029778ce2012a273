// `tutti upcycle` from the command line to a mixture that answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "shared/testing/model_writer.h"
#include "tools/cli/testing_tutti.h"

namespace tutti::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// A tiny Llama that reads bytes.
std::string TinyImage(bool with_tokenizer = true) { return ByteLlama({}, with_tokenizer); }

class UpcycleCommandTest : public ::testing::Test {
 protected:
  Result Upcycle(std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"upcycle", "--model",   source_, "--out",
                                     out_,      "--threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return RunTutti(args);
  }
  // A folder with these files; its path.
  std::string Folder(const std::vector<std::pair<std::string, std::string>>& files) {
    std::filesystem::create_directory(dir_.path() + "/texts");
    for (const auto& [name, text] : files) dir_.Write("texts/" + name, text);
    return dir_.path() + "/texts";
  }

  testing::TempDir dir_;
  std::string source_ = dir_.Write("tiny.gguf", TinyImage());
  std::string out_ = dir_.path() + "/out.gguf";
};

TEST_F(UpcycleCommandTest, TheReportHasTheLoadOfEveryExpertAndTheDistanceFromTheSource) {
  const Result r = Upcycle({"--experts", "4", "--top-k", "2", "--tokens", "100", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json j = r.Json();
  EXPECT_EQ(j["file_bytes"], std::filesystem::file_size(out_));
  EXPECT_EQ(j["layers"], 2);
  EXPECT_EQ(j["relative_change"], 0);
  ASSERT_EQ(j["load"].size(), 2u);
  for (const json& layer : j["load"]) {
    ASSERT_EQ(layer["share"].size(), 4u);
    for (const json& share : layer["share"]) EXPECT_GT(share, 0);
    EXPECT_EQ(layer["share_by_text"].size(), 8u);
    EXPECT_TRUE(layer["share_by_text"].contains("python"));
  }
  EXPECT_GE(j["comparison"]["tokens"], 700);
  // F32 weights; the cache is f16, and a value that rounds the other way there moves by 2^-11.
  EXPECT_LT(j["comparison"]["logit_change_max"], 0.01);
  EXPECT_LT(j["comparison"]["kl_mean"], 1e-6);
  const json noisy = Upcycle({"--experts", "4", "--noise", "0.3", "--json"}).Json();
  EXPECT_NEAR(noisy["relative_change"].get<double>(), 0.3, 0.02);
  EXPECT_GT(noisy["comparison"]["kl_mean"], 1e-4);
  EXPECT_NE(noisy["fingerprint"], j["fingerprint"]);
}

TEST_F(UpcycleCommandTest, TheTextReportIsForPeople) {
  const std::string texts = Folder({{"b.txt", std::string(80, 'x') + "yz"},
                                    {"a.txt", "the cat and the dog and the bird and the fish"},
                                    {".hidden", "\xFF"}});
  const Result r = Upcycle({"--experts", "2", "--texts", texts, "--tokens", "40"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("2 experts in each of 2 layers, 2 of them for a token"));
  EXPECT_THAT(r.out, HasSubstr("from 78 rows of 2 texts"));
  EXPECT_THAT(r.out, HasSubstr("experts: copies"));
  EXPECT_THAT(r.out, HasSubstr("share of the load in %, by layer"));
  EXPECT_THAT(r.out, HasSubstr("over 80 tokens of the texts"));
  EXPECT_EQ(Upcycle({"--no-report"}).out.find("share of the load"), std::string::npos);
}

TEST_F(UpcycleCommandTest, TheMixtureAnswersAsTheSourceWhereOneExpertSpeaks) {
  ASSERT_EQ(Upcycle({"--experts", "3", "--top-k", "1", "--no-report"}).code, 0);
  const auto answer = [](const std::string& model) {
    return RunTutti({"generate", "--model", model, "--prompt", "once", "--seed", "5",
                     "--max-tokens", "20", "--ignore-eos", "--threads", "1", "--json"})
        .Json();
  };
  const json a = answer(source_), b = answer(out_);
  ASSERT_EQ(a["token_ids"].size(), 20u);
  EXPECT_EQ(a["token_ids"], b["token_ids"]);
  EXPECT_EQ(a["digest"], b["digest"]);
  EXPECT_NE(a["fingerprint"], b["fingerprint"]);
}

TEST_F(UpcycleCommandTest, WrongWordsAreExplainedAndLeaveNothing) {
  EXPECT_THAT(Upcycle({"--experts", "2", "--top-k", "3"}).err,
              HasSubstr("--top-k: 3 experts of a token, and --experts makes 2"));
  EXPECT_EQ(Upcycle({"--noise", "2"}).code, 2);
  EXPECT_EQ(Upcycle({"--experts", "300"}).code, 2);
  EXPECT_THAT(Upcycle({"--texts", dir_.path() + "/no"}).err, HasSubstr("give a folder"));
  const std::string texts = Folder({});
  EXPECT_THAT(Upcycle({"--texts", texts}).err, HasSubstr("has 0 files"));
  Folder({{"bad.txt", "abc\xFF"}});
  EXPECT_THAT(Upcycle({"--texts", texts}).err, HasSubstr("bad.txt: not UTF-8 at byte 3"));
  Folder({{"bad.txt", "a"}});
  EXPECT_THAT(Upcycle({"--texts", texts}).err, HasSubstr("--texts: bad.txt: has not 2 tokens"));
  Folder({{"bad.txt", "aaaaaaaa"}});
  EXPECT_THAT(Upcycle({"--texts", texts, "--experts", "256"}).err,
              HasSubstr("fewer than 256 directions"));
  source_ = dir_.Write("mute.gguf", TinyImage(false));
  EXPECT_THAT(Upcycle().err, HasSubstr("--model: its tokenizer is needed"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(UpcycleCommandTest, AMixtureIsNotMadeTwice) {
  ASSERT_EQ(Upcycle({"--no-report"}).code, 0);
  source_ = out_;
  out_ = dir_.path() + "/twice.gguf";
  const Result r = Upcycle();
  EXPECT_EQ(r.code, 1);
  EXPECT_THAT(r.err, HasSubstr("--model: "));
  EXPECT_THAT(r.err, HasSubstr("is a mixture of experts already"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

// The real model in Q4_1: what the mixture's rounding does is no more than what the rounding of
// activations does to the model itself (docs/decisions/0110).
TEST(UpcycleRealModelTest, CopiesAreTheSameModelToTheEye) {
  const char* env = std::getenv("TUTTI_MODEL");
  const std::string model =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "no model at " << model;
  const testing::TempDir dir;
  const Result r = RunTutti({"upcycle", "--model", model, "--experts", "4", "--out",
                             dir.path() + "/moe.gguf", "--tokens", "64", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json j = r.Json();
  EXPECT_LT(j["comparison"]["kl_mean"], 0.01);
  EXPECT_NEAR(j["comparison"]["perplexity"].get<double>(),
              j["comparison"]["source_perplexity"].get<double>(),
              0.01 * j["comparison"]["source_perplexity"].get<double>());
  ASSERT_EQ(j["load"].size(), 30u);
  for (const json& layer : j["load"]) {
    for (const json& share : layer["share"]) EXPECT_GT(share, 0.01) << layer["layer"];
  }
}

}  // namespace
}  // namespace tutti::cli
