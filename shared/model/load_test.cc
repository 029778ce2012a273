// Damaged and hostile models: an error that names the culprit, never a crash.
#include "shared/model/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "shared/model/single_sequence.h"
#include "shared/model/testing_llama.h"

namespace tutti::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<DecoderModel>> LoadImage(const std::string& image) {
  const tutti::testing::TempDir dir;
  return LoadDecoder(dir.Write("model.gguf", image), {});
}
absl::Status LoadStatus(const TinyLlama& tiny) { return LoadImage(tiny.Image()).status(); }
std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(LoadTest, ATinyLlamaLoads) {
  const auto model = LoadImage(TinyLlama().Image());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().name, "tiny");
  EXPECT_EQ((*model)->info().vocab_size, 48);
  EXPECT_EQ((*model)->info().context_tokens, 64);
  EXPECT_EQ((*model)->info().eos_ids, std::vector<int32_t>{2});
  EXPECT_GT((*model)->info().weight_bytes, 0u);
}

TEST(LoadTest, OneFlippedBitOfAWeightIsAnotherFingerprint) {
  const auto clean = LoadImage(TinyLlama().Image());
  TinyLlama flipped;
  flipped.spoil = [](const std::string& name, auto&, std::vector<float>& values) {
    if (name == "blk.1.ffn_down.weight") {
      values[17] = std::bit_cast<float>(std::bit_cast<uint32_t>(values[17]) ^ 1u);
    }
  };
  const auto other = LoadImage(flipped.Image());
  ASSERT_TRUE(clean.ok() && other.ok());
  EXPECT_NE((*clean)->info().fingerprint, (*other)->info().fingerprint);
}

TEST(LoadTest, AMissingTensorIsNamed) {
  TinyLlama tiny;
  tiny.skip = "blk.1.attn_k.weight";
  const absl::Status status = LoadStatus(tiny);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(Message(status), HasSubstr("blk.1.attn_k.weight is missing"));
}

TEST(LoadTest, AWrongShapeIsNamedWithTheRightOne) {
  TinyLlama tiny;
  tiny.spoil = [](const std::string& name, std::vector<int64_t>& shape, std::vector<float>&) {
    if (name == "blk.0.ffn_up.weight") std::swap(shape[0], shape[1]);
  };
  const absl::Status status = LoadStatus(tiny);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(Message(status), AllOf(HasSubstr("blk.0.ffn_up.weight"), HasSubstr("[32, 64]"),
                                     HasSubstr("must be [64, 32]")));
}

TEST(LoadTest, WildDimensionsAreRefusedByName) {
  TinyLlama heads;
  heads.kv_heads = 3;
  EXPECT_THAT(Message(LoadStatus(heads)), HasSubstr("num_kv_heads"));
  TinyLlama context;
  context.context = 1 << 30;
  EXPECT_THAT(Message(LoadStatus(context)), HasSubstr("llama.context_length"));
  TinyLlama eos;
  eos.eos = 48;
  EXPECT_THAT(Message(LoadStatus(eos)), HasSubstr("tokenizer.ggml.eos_token_id"));
  TinyLlama rope;
  rope.more_metadata = [](tutti::testing::GgufWriter& w) {
    w.U32("llama.rope.dimension_count", 7);
  };
  EXPECT_THAT(Message(LoadStatus(rope)), HasSubstr("rotary_dim"));
  TinyLlama window;
  window.more_metadata = [](tutti::testing::GgufWriter& w) {
    w.String("llama.attention.sliding_window", "wide");
  };
  EXPECT_THAT(Message(LoadStatus(window)), HasSubstr("llama.attention.sliding_window"));
}

TEST(LoadTest, WhatIsNotBuiltSaysSo) {
  TinyLlama arch;
  arch.architecture = "mamba";
  EXPECT_TRUE(absl::IsUnimplemented(LoadStatus(arch)));
  EXPECT_THAT(Message(LoadStatus(arch)), AllOf(HasSubstr("mamba"), HasSubstr("qwen3")));
  TinyLlama experts;
  experts.more_metadata = [](tutti::testing::GgufWriter& w) { w.U32("llama.expert_count", 8); };
  EXPECT_THAT(Message(LoadStatus(experts)), HasSubstr("expert_used_count"));
  TinyLlama rope;
  rope.more_metadata = [](tutti::testing::GgufWriter& w) {
    w.String("llama.rope.scaling.type", "longrope");
  };
  EXPECT_TRUE(absl::IsUnimplemented(LoadStatus(rope)));
  EXPECT_THAT(Message(LoadStatus(rope)), HasSubstr("longrope"));
}

TEST(LoadTest, ProgressEndsWithAllBytes) {
  const tutti::testing::TempDir dir;
  size_t last = 0, all = 0, calls = 0;
  const auto model = LoadDecoder(dir.Write("model.gguf", TinyLlama().Image()),
                                 {.on_progress = [&](size_t done, size_t total) {
                                   EXPECT_GE(done, last);
                                   last = done;
                                   all = total;
                                   ++calls;
                                 }});
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(last, all);
  EXPECT_GT(calls, 1u);
}

// Every value of a golden config.json replaced by every kind of nonsense: refused, or a model that
// runs.
class HostileConfigTest : public ::testing::TestWithParam<std::string> {};

TEST_P(HostileConfigTest, NoValueOfAConfigCanDoHarm) {
  const std::filesystem::path golden =
      std::filesystem::path(TUTTI_SOURCE_DIR "/tests/data/models") / GetParam();
  const tutti::testing::TempDir dir;
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    if (entry.path().string().find("model") != std::string::npos &&
        entry.path().extension() != ".npy") {
      std::filesystem::copy(entry.path(), dir.path() + "/" + entry.path().filename().string());
    }
  }
  std::ifstream file(golden / "config.json");
  const auto config = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(config.is_object());
  const std::vector<nlohmann::json> nonsense = {nullptr,
                                                -1,
                                                0,
                                                1,
                                                3,
                                                7.5,
                                                1e300,
                                                -0.0,
                                                4294967296,
                                                INT64_MIN,
                                                UINT64_MAX,
                                                "x",
                                                std::string(5000, 'y'),
                                                true,
                                                nlohmann::json::array(),
                                                nlohmann::json::array({1, "a", nullptr}),
                                                nlohmann::json::object()};
  int refused = 0, ran = 0;
  const auto attempt = [&](const nlohmann::json& spoiled, const std::string& what) {
    dir.Write("config.json", spoiled.dump());
    auto model = LoadDecoder(dir.path(), {});
    if (!model.ok()) {
      EXPECT_TRUE(absl::IsInvalidArgument(model.status()) || absl::IsUnimplemented(model.status()))
          << what;
      EXPECT_FALSE(model.status().message().empty()) << what;
      ++refused;
      return;
    }
    const std::vector<int32_t> ids = {1, 2, 3};
    const auto n =
        std::min<size_t>(ids.size(), static_cast<size_t>((*model)->info().context_tokens));
    const auto logits = PromptLogits(model->get(), std::span(ids).first(n));
    EXPECT_TRUE(logits.ok() || ReasonOf(logits.status()) == "NUMERIC_FAULT")
        << what << logits.status();
    ++ran;
  };
  for (const auto& [key, value] : config.items()) {
    for (const nlohmann::json& bad : nonsense) {
      nlohmann::json spoiled = config;
      spoiled[key] = bad;
      attempt(spoiled, key + " = " + bad.dump().substr(0, 40));
    }
    nlohmann::json without = config;
    without.erase(key);
    attempt(without, "no " + key);
    for (const char* nested : {"rope_scaling", "rope_parameters"}) {
      if (key != nested || !value.is_object()) continue;
      for (const auto& [inner, unused] : value.items()) {
        for (const nlohmann::json& bad : nonsense) {
          nlohmann::json spoiled = config;
          spoiled[key][inner] = bad;
          attempt(spoiled, key + "." + inner + " = " + bad.dump().substr(0, 40));
        }
      }
    }
  }
  EXPECT_GT(refused, 50);
  EXPECT_GT(ran, 50);
}

INSTANTIATE_TEST_SUITE_P(Sets, HostileConfigTest,
                         ::testing::Values("llama3_rope", "qwen3_qknorm", "gemma3_text",
                                           "gpt2_prenorm", "deepseek_v2_lite", "deepseek_v3"),
                         [](const auto& info) { return info.param; });

TEST(LoadTest, AConfigThatIsNoObjectIsRefused) {
  const tutti::testing::TempDir dir;
  std::filesystem::copy(TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa/model.safetensors",
                        dir.path() + "/model.safetensors");
  for (const char* text : {"[]", "3", "\"config\"", "{", "null"}) {
    dir.Write("config.json", text);
    EXPECT_FALSE(LoadDecoder(dir.path(), {}).ok()) << text;
  }
}

}  // namespace
}  // namespace tutti::model
