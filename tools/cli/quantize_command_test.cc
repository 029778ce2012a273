// `tutti quantize` from the command line to a file that answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "shared/quantize/quantize_model.h"
#include "shared/testing/model_writer.h"
#include "tools/cli/compare_models.h"
#include "tools/cli/local_model.h"
#include "tools/cli/perplexity.h"
#include "tools/cli/testing_tutti.h"

namespace tutti::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// A tiny Llama that reads bytes: FFN rows take K types, the others do not.
std::string TinyImage(bool with_tokenizer = true) {
  model::TinyLlama tiny;
  tiny.hidden = 64;
  tiny.ffn = 256;
  return ByteLlama(std::move(tiny), with_tokenizer);
}

class QuantizeCommandTest : public ::testing::Test {
 protected:
  Result Quantize(const std::string& type, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"quantize", "--model", source_,     "--type", type,
                                     "--out",    out_,      "--threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return RunTutti(args);
  }

  testing::TempDir dir_;
  std::string source_ = dir_.Write("tiny.gguf", TinyImage());
  std::string out_ = dir_.path() + "/out.gguf";
};

TEST_F(QuantizeCommandTest, TheFileAnswersAndTheReportSaysHowNearItIs) {
  double last_kl = 0;
  for (const char* type : {"F32", "Q8_0", "q6_k", "Q4_K"}) {
    const Result r = Quantize(type, {"--json"});
    ASSERT_EQ(r.code, 0) << r.err;
    const json j = r.Json();
    EXPECT_EQ(j["file_bytes"], std::filesystem::file_size(out_));
    const json& c = j["comparison"];
    ASSERT_TRUE(c.is_object()) << j;
    EXPECT_GT(c["tokens"], 1000);
    // Every step down costs something, and F32 nothing.
    const double kl = c["kl_mean"];
    if (std::string(type) == "F32") {
      EXPECT_EQ(kl, 0);
      EXPECT_EQ(c["same_top"], 1.0);
      EXPECT_EQ(c["perplexity"], c["source_perplexity"]);
    } else {
      EXPECT_GT(kl, last_kl) << type;
      EXPECT_GE(c["kl_max"], c["kl_p99"]);
      EXPECT_GE(c["kl_p99"], kl);
    }
    last_kl = kl;
  }
  const json j = Quantize("Q4_K", {"--json", "--no-report"}).Json();
  EXPECT_FALSE(j.contains("comparison"));
  // 6 of the 7 matrices of both layers have rows of 64; ffn_down has rows of 256.
  EXPECT_EQ(j["fallbacks"], json::parse(R"([{"wanted":"Q4_K","to":"Q5_0","tensors":12}])"));
}

TEST_F(QuantizeCommandTest, TheTextReportIsForPeople) {
  const std::string text = dir_.Write("t.txt", std::string(300, 'a') + "bc");
  const Result r = Quantize("Q4_K", {"--texts", text, "--tokens", "100"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("F32 -> Q4_K"));
  EXPECT_THAT(r.out, HasSubstr("12 tensors have rows that are no multiple of 256"));
  EXPECT_THAT(r.out, HasSubstr("over 100 tokens of " + text));
  EXPECT_THAT(r.out, HasSubstr("KL divergence"));
}

TEST_F(QuantizeCommandTest, TheEmbeddingKeepsTheTypeThatItIsGiven) {
  const auto type_of = [&](std::vector<std::string> more) {
    more.push_back("--no-report");
    const Result r = Quantize("Q4_0", more);
    EXPECT_EQ(r.code, 0) << r.err;
    return (*weights::ModelFiles::Open(out_))->Find("token_embd.weight")->dtype;
  };
  EXPECT_EQ(type_of({}), DType::kQ8_0);
  EXPECT_EQ(type_of({"--keep-embedding", "Q5_1"}), DType::kQ5_1);
  EXPECT_EQ(type_of({"--keep-embedding", "f16"}), DType::kF16);
}

TEST_F(QuantizeCommandTest, WrongWordsAreExplainedAndLeaveNothing) {
  EXPECT_THAT(Quantize("Q3_K").err, HasSubstr("--type: no type \"Q3_K\"; there are F32"));
  EXPECT_THAT(Quantize("Q8_0", {"--keep-embedding", "x"}).err, HasSubstr("--keep-embedding"));
  EXPECT_THAT(Quantize("Q8_0", {"--texts", dir_.path() + "/no"}).err, HasSubstr("--texts: "));
  const std::string out = out_;
  out_ = source_;
  EXPECT_THAT(Quantize("Q8_0").err, HasSubstr("the source itself"));
  out_ = out;
  source_ = dir_.Write("bad.gguf", TinyImage().substr(0, 3000));
  EXPECT_THAT(Quantize("Q8_0").err, HasSubstr("--model: "));
  source_ = TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa";
  EXPECT_THAT(Quantize("Q8_0").err, HasSubstr("not a GGUF"));
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(QuantizeCommandTest, AModelWithoutTokenizerIsMadeButNotCompared) {
  source_ = dir_.Write("mute.gguf", TinyImage(false));
  const Result r = Quantize("Q8_0", {"--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(r.Json()["comparison"].is_null());
  EXPECT_THAT(r.Json()["not_compared"].get<std::string>(), HasSubstr("tokenizer"));
  EXPECT_TRUE(std::filesystem::exists(out_));
}

std::unique_ptr<LocalModel> Load(const std::string& path, int threads = 1) {
  auto m = LoadLocalModel({.model = path, .threads = threads});
  EXPECT_TRUE(m.ok()) << m.status();
  return std::move(*m);
}

TEST_F(QuantizeCommandTest, OneWindowHasThePerplexityOfThePerplexityCommand) {
  const auto a = Load(source_), b = Load(source_);
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9};
  const auto c = CompareModels(*a, *b, ids, 64, nullptr);
  const auto p = ComputePerplexity(*a, ids, 64, 64, nullptr);
  ASSERT_TRUE(c.ok() && p.ok());
  // Its sums of exponentials are f32: a few ulp of a logarithm of about 5.
  EXPECT_NEAR(c->perplexity, p->perplexity, 1e-5 * p->perplexity);
  EXPECT_FALSE(CompareModels(*a, *b, {1}, 64, nullptr).ok());
  EXPECT_TRUE(
      absl::IsCancelled(CompareModels(*a, *b, ids, 64, [](int) { return false; }).status()));
}

TEST_F(QuantizeCommandTest, TheFiguresAreThoseOfTheDefinition) {
  ASSERT_EQ(Quantize("Q4_0", {"--no-report"}).code, 0);
  const auto a = Load(source_), b = Load(out_);
  const std::vector<int32_t> ids = {10, 20, 30};
  const auto c = CompareModels(*a, *b, ids, 64, nullptr);
  ASSERT_TRUE(c.ok()) << c.status();
  std::vector<float> p, q;
  for (auto [m, to] : {std::pair(a.get(), &p), std::pair(b.get(), &q)}) {
    ASSERT_TRUE(ForEachLogits(*m, ids, 0, [out = to](int, int n, const float* rows) {
                  out->assign(rows, rows + n * 256);
                  return absl::OkStatus();
                }).ok());
  }
  double mean = 0, largest = 0;
  for (int row = 0; row < 3; ++row) {
    double zp = 0, zq = 0, kl = 0;
    for (int i = 0; i < 256; ++i) {
      zp += std::exp(p[row * 256 + i]);
      zq += std::exp(q[row * 256 + i]);
    }
    for (int i = 0; i < 256; ++i) {
      const double pi = std::exp(p[row * 256 + i]) / zp, qi = std::exp(q[row * 256 + i]) / zq;
      kl += pi * std::log(pi / qi);
    }
    mean += kl / 3;
    largest = std::max(largest, kl);
  }
  EXPECT_GT(mean, 0);
  EXPECT_NEAR(c->kl_mean, mean, 1e-6);  // exp of an f32 here rounds to f32
  EXPECT_NEAR(c->kl_max, largest, 1e-6);
  EXPECT_EQ(c->kl_p99, c->kl_max);
}

// The real model: Q8_0 out of its Q4_1 changes almost nothing.
TEST(QuantizeRealModelTest, Q8OfQ4IsTheSameModelToTheEye) {
  const char* env = std::getenv("TUTTI_MODEL");
  const std::string model =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << "no model at " << model;
  const testing::TempDir dir;
  const Result r = RunTutti({"quantize", "--model", model, "--type", "Q8_0", "--out",
                             dir.path() + "/q8.gguf", "--tokens", "256", "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json c = r.Json()["comparison"];
  EXPECT_EQ(c["tokens"], 256);
  EXPECT_GT(c["kl_mean"], 0);
  EXPECT_LT(c["kl_mean"], 0.01);
  EXPECT_NEAR(c["perplexity"].get<double>(), c["source_perplexity"].get<double>(),
              0.01 * c["source_perplexity"].get<double>());
}

}  // namespace
}  // namespace tutti::cli
