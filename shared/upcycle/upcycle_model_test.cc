// A dense file in, a mixture out: what the new file holds, and that it computes the same.
#include "shared/upcycle/upcycle_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "shared/model/single_sequence.h"
#include "shared/model/testing_llama.h"
#include "shared/quantize/quantize_model.h"
#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"
#include "shared/weights/gguf.h"

namespace tutti::upcycle {
namespace {

using model::TinyLlama;
using ::testing::HasSubstr;
using tutti::testing::TempDir;

std::string Read(const std::string& path) {
  std::stringstream s;
  s << std::ifstream(path, std::ios::binary).rdbuf();
  return s.str();
}
std::shared_ptr<const weights::ModelFiles> Open(const std::string& path) {
  auto files = weights::ModelFiles::Open(path);
  EXPECT_TRUE(files.ok()) << files.status();
  return files.ok() ? *files : nullptr;
}

// Two kinds: low ids and high ones.
std::vector<Text> Kinds() {
  std::vector<Text> texts = {{"low", {}}, {"high", {}}};
  for (int i = 0; i < 90; ++i) {
    texts[0].ids.push_back(3 + i * 7 % 20);
    texts[1].ids.push_back(28 + i * 5 % 20);
  }
  return texts;
}

class UpcycleModelTest : public ::testing::Test {
 protected:
  void SetUp() override { source_ = dir_.Write("dense.gguf", TinyLlama().Image()); }

  // The dense model in a block type.
  void Requantize(DType dtype) {
    quantize::QuantizeOptions o;
    o.types.dtype = dtype;
    const std::string out = dir_.path() + "/quantized.gguf";
    ASSERT_TRUE(quantize::QuantizeModel(*Open(source_), out, o).ok());
    source_ = out;
  }
  absl::StatusOr<UpcycleResult> Upcycle(UpcycleOptions o = {}) {
    std::filesystem::remove(out_);
    o.texts = texts_;
    return UpcycleModel(*Open(source_), out_, o);
  }
  std::string Error(UpcycleOptions o = {}) {
    const auto r = Upcycle(o);
    EXPECT_FALSE(r.ok());
    EXPECT_FALSE(std::filesystem::exists(out_));
    return std::string(r.status().message());
  }
  std::vector<float> Logits(const std::string& path, DType kv = DType::kF32) {
    const auto m = model::LoadDecoder(path, {.kv_dtype = kv});
    EXPECT_TRUE(m.ok()) << m.status();
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back((i * 11 + i * i) % 48);
    const auto logits = model::PromptLogits(m->get(), ids);
    EXPECT_TRUE(logits.ok()) << logits.status();
    return *logits;
  }
  std::vector<LayerLoad> Load(const std::vector<Text>& texts) {
    const auto m = model::LoadTransformer(out_, {});
    EXPECT_TRUE(m.ok()) << m.status();
    const auto loads = MeasureLoad(m->get(), texts, nullptr);
    EXPECT_TRUE(loads.ok()) << loads.status();
    return *loads;
  }

  TempDir dir_;
  std::string source_, out_ = dir_.path() + "/moe.gguf";
  std::vector<Text> texts_ = Kinds();
};

TEST_F(UpcycleModelTest, ExpertsAreCopiesAndTheRestIsTheSources) {
  Requantize(DType::kQ4_1);
  const auto r = Upcycle({.num_experts = 3, .top_k = 2});
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->num_layers, 2);
  // 180 tokens in windows of the context, 64, whose first ones do not count: 2 * (90 - 2).
  EXPECT_EQ(r->rows, 176);
  EXPECT_EQ(r->relative_change, 0);
  EXPECT_EQ(r->file_bytes, std::filesystem::file_size(out_));
  const auto dense = Open(source_), moe = Open(out_);
  EXPECT_EQ(moe->tensors().size(), dense->tensors().size() + 2);
  for (const weights::TensorInfo& t : dense->tensors()) {
    const std::string stem = t.name.substr(0, t.name.size() - 7);
    const bool ffn = stem.ends_with("_gate") || stem.ends_with("_up") || stem.ends_with("_down");
    const auto* made = moe->Find(ffn ? stem + "_exps.weight" : t.name);
    ASSERT_NE(made, nullptr) << t.name;
    EXPECT_EQ(made->dtype, t.dtype);
    std::string expected(reinterpret_cast<const char*>(t.data.data()), t.data.size());
    auto shape = t.shape;
    if (ffn) {
      EXPECT_EQ(moe->Find(t.name), nullptr);
      expected += expected + expected;
      shape.insert(shape.begin(), 3);
    }
    EXPECT_EQ(made->shape, shape);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(made->data.data()), made->data.size()),
              expected)
        << t.name;
  }
  EXPECT_EQ(moe->Find("blk.1.ffn_gate_inp.weight")->shape, (std::vector<int64_t>{3, 32}));
  auto config = moe->config();
  EXPECT_EQ(config["llama.expert_count"], 3);
  EXPECT_EQ(config["llama.expert_used_count"], 2);
  EXPECT_EQ(config["general.name"], "tiny x 3 experts");
  config.erase("llama.expert_count");
  config.erase("llama.expert_used_count");
  config["general.name"] = "tiny";
  EXPECT_EQ(config, dense->config());
}

TEST_F(UpcycleModelTest, WithOneExpertForATokenTheLogitsAreTheSourcesToTheBit) {
  for (const bool quantized : {false, true}) {
    if (quantized) Requantize(DType::kQ4_0);
    ASSERT_TRUE(Upcycle({.num_experts = 5, .top_k = 1}).ok());
    EXPECT_EQ(Logits(source_), Logits(out_));
    EXPECT_EQ(Logits(source_, DType::kQ8_0), Logits(out_, DType::kQ8_0));
  }
}

TEST_F(UpcycleModelTest, WithSeveralTheLogitsDifferByTheRoundingOfTheirWeights) {
  for (const int top_k : {2, 3, 5}) {
    ASSERT_TRUE(Upcycle({.num_experts = 5, .top_k = top_k}).ok());
    const auto a = Logits(source_), b = Logits(out_);
    // k products, k - 1 sums and the weights' own division round: 2k epsilon of a layer's output,
    // in 2 layers. The tiny model's logits are below 10, and its layers amplify an error by less
    // than 10.
    const double tolerance = 10.0 * 10.0 * 2 * 2 * top_k * 0x1p-24;
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      most = std::max(most, std::fabs(static_cast<double>(a[i]) - b[i]));
      ASSERT_LT(std::fabs(a[i]), 10);
    }
    EXPECT_LT(most, tolerance);
    EXPECT_GT(most, 0) << "the mixture was not run";
  }
}

TEST_F(UpcycleModelTest, BytesAreAFunctionOfSourceTextsAndSeed) {
  Requantize(DType::kQ5_1);
  UpcycleOptions o{.num_experts = 4, .top_k = 2, .noise = 0.1, .seed = 9};
  ASSERT_TRUE(Upcycle(o).ok());
  const std::string alone = Read(out_);
  for (const int threads : {2, 5}) {
    ThreadPool pool({.num_threads = threads});
    o.pool = &pool;
    ASSERT_TRUE(Upcycle(o).ok());
    EXPECT_EQ(Read(out_), alone) << threads;
  }
  o.pool = nullptr;
  o.seed = 10;
  ASSERT_TRUE(Upcycle(o).ok());
  EXPECT_NE(Read(out_), alone);
}

TEST_F(UpcycleModelTest, EveryExpertWorksAndKindsOfTextAreToldApart) {
  ASSERT_TRUE(Upcycle({.num_experts = 6, .top_k = 2}).ok());
  const auto loads = Load(texts_);
  ASSERT_EQ(loads.size(), 2u);
  for (const LayerLoad& l : loads) {
    double sum = 0;
    for (size_t e = 0; e < 6; ++e) {
      EXPECT_GT(l.share[e], 0) << l.layer;
      sum += l.share[e];
      // Both texts have the same number of rows.
      EXPECT_NEAR(l.share[e], (l.text_share[0][e] + l.text_share[1][e]) / 2, 1e-9);
    }
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_GT(l.balancing_loss, 1.5);
    // Tokens of the two kinds are different ones, and a layer's input knows its token.
    EXPECT_GT(l.told, 0.3) << l.layer;
    EXPECT_LE(l.told, 1.0);
  }
  // Of one kind there is nothing to tell.
  EXPECT_EQ(Load({texts_[0]})[0].told, 0);
}

TEST_F(UpcycleModelTest, ALoneExpertHasAllOfTheLoad) {
  ASSERT_TRUE(Upcycle({.num_experts = 1, .top_k = 1}).ok());
  const LayerLoad l = Load(texts_)[1];
  EXPECT_EQ(l.layer, 1);
  EXPECT_EQ(l.share, std::vector<double>{1});
  EXPECT_NEAR(l.balancing_loss, 1, 1e-9);
  EXPECT_EQ(l.told, 0);
}

TEST_F(UpcycleModelTest, NoiseIsOfTheSizeThatWasAskedForAndDiffersByExpert) {
  const auto r = Upcycle({.num_experts = 3, .top_k = 2, .noise = 0.25});
  ASSERT_TRUE(r.ok()) << r.status();
  const auto dense = Open(source_), moe = Open(out_);
  double squares = 0, change = 0, both = 0, sum = 0, n = 0;
  for (const char* role : {"gate", "up", "down"}) {
    const std::string stem = std::string("blk.1.ffn_") + role;
    const auto x = tutti::testing::Dequantize(DType::kF32, dense->Find(stem + ".weight")->data);
    const auto y = tutti::testing::Dequantize(DType::kF32, moe->Find(stem + "_exps.weight")->data);
    ASSERT_EQ(y.size(), 3 * x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double a = static_cast<double>(y[i]) - x[i];
      const double b = static_cast<double>(y[x.size() + i]) - x[i];
      squares += static_cast<double>(x[i]) * x[i];
      change += a * a;
      both += a * b;
      sum += a;
      ++n;
    }
  }
  // 6144 numbers: a standard deviation is known to 1/sqrt(2 * 6144) = 0.9 %, a mean and a
  // correlation to 1.3 % of it; five times that.
  EXPECT_NEAR(std::sqrt(change / squares), 0.25, 0.25 * 0.045);
  EXPECT_NEAR(r->relative_change, 0.25, 0.25 * 0.045);
  EXPECT_LT(std::fabs(both), 0.065 * change);
  EXPECT_LT(std::fabs(sum / n), 0.065 * std::sqrt(change / n));
  EXPECT_NE(Logits(source_), Logits(out_));
}

TEST_F(UpcycleModelTest, TheReportedChangeIsWhatTheTypeKeeps) {
  Requantize(DType::kQ4_0);
  const auto r = Upcycle({.num_experts = 2, .top_k = 2, .noise = 0.2, .seed = 4});
  ASSERT_TRUE(r.ok()) << r.status();
  const auto dense = Open(source_), moe = Open(out_);
  double squares = 0, change = 0;
  for (const weights::TensorInfo& t : dense->tensors()) {
    const auto* made = moe->Find(t.name.substr(0, t.name.size() - 7) + "_exps.weight");
    if (made == nullptr) continue;
    EXPECT_EQ(made->dtype, DType::kQ4_0);
    const auto x = tutti::testing::Dequantize(t.dtype, t.data);
    const auto y = tutti::testing::Dequantize(t.dtype, made->data);
    for (size_t i = 0; i < y.size(); ++i) {
      const double moved = static_cast<double>(y[i]) - x[i % x.size()];
      squares += static_cast<double>(x[i % x.size()]) * x[i % x.size()];
      change += moved * moved;
    }
  }
  EXPECT_NEAR(r->relative_change, std::sqrt(change / squares), 1e-9);
}

TEST_F(UpcycleModelTest, WhatIsNoDenseLlamaIsRefused) {
  ASSERT_TRUE(Upcycle().ok());
  const std::string moe = Read(out_);
  source_ = dir_.Write("moe2.gguf", moe);
  EXPECT_THAT(Error(), HasSubstr("is a mixture of experts already (it has llama.expert_count)"));
  TinyLlama other;
  other.architecture = "qwen2";
  source_ = dir_.Write("other.gguf", other.Image());
  EXPECT_THAT(Error(), HasSubstr("general.architecture is \"qwen2\"; of dense models only"));
  TinyLlama lame;
  lame.skip = "blk.1.ffn_up.weight";
  source_ = dir_.Write("lame.gguf", lame.Image());
  EXPECT_THAT(Error(), HasSubstr("no tensor blk.1.ffn_up.weight"));
  TinyLlama number;
  number.architecture = "llama";
  number.spoil = [](const std::string& name, auto&, std::vector<float>& values) {
    if (name == "blk.1.ffn_up.weight") values[5] = NAN;
  };
  source_ = dir_.Write("nan.gguf", number.Image());
  const std::string nan = Error({.noise = 0.1});
  EXPECT_FALSE(nan.empty());
  source_ = TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa";
  EXPECT_THAT(Error(), HasSubstr("not a GGUF file"));
}

TEST_F(UpcycleModelTest, WrongOptionsAndTextsAreNamed) {
  EXPECT_THAT(Error({.num_experts = 257}), HasSubstr("experts is 257; it must be in [1, 256]"));
  EXPECT_THAT(Error({.num_experts = 4, .top_k = 5}), HasSubstr("top_k is 5; it must be in [1, 4]"));
  EXPECT_THAT(Error({.noise = NAN}), HasSubstr("noise"));
  texts_[1].ids = {7};
  EXPECT_THAT(Error(), HasSubstr("text high: 1 tokens; there must be at least 2"));
  texts_[1].ids = {7, 99};
  EXPECT_THAT(Error(), HasSubstr("text high: "));
  texts_.clear();
  EXPECT_THAT(Error(), HasSubstr("no texts"));
}

TEST_F(UpcycleModelTest, TheSourceIsSafeAndAnEndedRunLeavesNothing) {
  const auto onto = UpcycleModel(*Open(source_), source_, {.texts = texts_});
  EXPECT_THAT(std::string(onto.status().message()), HasSubstr("the source itself"));
  EXPECT_EQ(Read(source_), TinyLlama().Image());
  for (const char* stage : {"reading texts", "clustering", "writing"}) {
    UpcycleOptions o;
    bool seen = false;
    o.on_progress = [&](std::string_view at, uint64_t done, uint64_t total) {
      EXPECT_LE(done, total);
      seen |= at == stage;
      return at != stage;
    };
    o.texts = texts_;
    EXPECT_TRUE(absl::IsCancelled(UpcycleModel(*Open(source_), out_, o).status())) << stage;
    EXPECT_TRUE(seen) << stage;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_.path()), {}), 1);
  }
}

}  // namespace
}  // namespace tutti::upcycle
