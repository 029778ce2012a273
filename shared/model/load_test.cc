// Damaged and hostile models: an error that names the culprit, never a crash.
#include "shared/model/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "shared/model/single_sequence.h"
#include "shared/model/strict.h"
#include "shared/model/testing_llama.h"
#include "shared/model/transformer.h"

namespace tutti::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using tutti::testing::TempDir;

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

#define EXPECT_OK(expression)            \
  do {                                   \
    const absl::Status s = (expression); \
    EXPECT_TRUE(s.ok()) << s;            \
  } while (false)

std::vector<int32_t> Ends(const TinyLlama& llama) {
  const TempDir dir;
  auto model = LoadDecoder(dir.Write("model.gguf", llama.Image()), {});
  if (!model.ok()) ADD_FAILURE() << model.status();
  return model.ok() ? (*model)->info().eos_ids : std::vector<int32_t>();
}

TEST(LoadTest, ControlTokensKnownByNameEndAGeneration) {
  std::vector<std::string> names;
  std::vector<int32_t> types;
  const auto llama = [&](std::vector<std::pair<std::string, int32_t>> tokens) {
    names.assign(48, "");
    types.assign(48, 1);
    for (int i = 0; i < 48; ++i) names[static_cast<size_t>(i)] = "t" + std::to_string(i);
    for (size_t i = 0; i < tokens.size(); ++i) {
      names[10 + i] = tokens[i].first;
      types[10 + i] = tokens[i].second;
    }
    TinyLlama l;
    l.more_metadata = [&](tutti::testing::GgufWriter& w) {
      w.Strings("tokenizer.ggml.tokens", names).I32s("tokenizer.ggml.token_type", types);
    };
    return l;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(Ends(llama({})), Ids({2}));
  EXPECT_EQ(Ends(llama({{"<|eot_id|>", 3}, {"<|im_start|>", 3}, {"<|eom_id|>", 3}})),
            Ids({2, 10, 12}));
  EXPECT_EQ(Ends(llama({{"<|im_end|>", 1}, {"<end_of_turn>", 4}, {"<|endoftext|>", 1}})),
            Ids({2, 10, 11, 12}));
  // What a text may hold counts as a control token alone.
  EXPECT_EQ(Ends(llama({{"</s>", 1}, {"<EOT>", 1}, {"[EOS]", 4}, {"<eos>", 3}})), Ids({2, 13}));
  // Messages of gpt-oss end with <|end|>, generations do not.
  EXPECT_EQ(Ends(llama({{"<|end|>", 3}, {"<|return|>", 3}, {"<|call|>", 3}})), Ids({2, 11, 12}));
  EXPECT_EQ(Ends(llama({{"<|end|>", 3}})), Ids({2, 10}));

  // They are no part of the fingerprint, which the content makes.
  const TempDir dir;
  auto with = llama({{"<|im_end|>", 3}});
  auto model = LoadTransformer(dir.Write("a.gguf", with.Image()), {});
  ASSERT_TRUE(model.ok());
  ModelConfig config = (*model)->config();
  const std::string text = config.CanonicalText();
  config.eos_ids.resize(1);
  EXPECT_EQ(config.CanonicalText(), text);
}

TEST(LoadTest, AnEndOutsideOfTheVocabularyIsLeftOut) {
  TinyLlama eos;
  eos.eos = 48;
  EXPECT_TRUE(Ends(eos).empty());
}

TEST(LoadTest, WhatMayChangeTheArithmeticIsRefusedByName) {
  const auto with = [](std::function<void(tutti::testing::GgufWriter&)> more) {
    TinyLlama l;
    l.more_metadata = std::move(more);
    return LoadStatus(l);
  };
  using W = tutti::testing::GgufWriter;
  EXPECT_THAT(Message(with([](W& w) { w.Bool("llama.attention.causal", false); })),
              HasSubstr("llama.attention.causal is false"));
  EXPECT_OK(with([](W& w) { w.Bool("llama.attention.causal", true); }));
  EXPECT_THAT(Message(with([](W& w) { w.F32("llama.logit_scale", 0.5f); })),
              HasSubstr("llama.logit_scale is 0.5"));
  EXPECT_THAT(Message(with([](W& w) { w.F32("llama.some.new.key", 2); })),
              HasSubstr("llama.some.new.key"));
  // Off, one, and what is not the architecture's.
  EXPECT_OK(with([](W& w) {
    w.F32("llama.logit_scale", 1).Bool("llama.use_parallel_residual", false);
    w.U32("llama.vocab_size", 48).String("general.author", "nobody").U32("other.key", 7);
  }));
  // Of tensors.
  const auto extra = [](const std::string& name, std::vector<int64_t> shape) {
    TinyLlama l;
    l.more_metadata = [=](W& w) {
      int64_t n = 1;
      for (int64_t d : shape) n *= d;
      w.Tensor(name, shape, std::vector<float>(static_cast<size_t>(n), 1.0f));
    };
    return LoadStatus(l);
  };
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.1.attn_sinks.weight",
                           "blk.0.post_attention_norm.weight", "blk.0.attn_q.scale", "extra"}) {
    EXPECT_THAT(Message(extra(name, {8})), HasSubstr(name));
  }
  EXPECT_THAT(Message(extra("blk.1.attn_q.bias", {32})), HasSubstr("layer 0 has no such bias"));
  EXPECT_THAT(Message(extra("blk.0.attn_output.bias", {32})),
              HasSubstr("blk.1.attn_output.bias is missing"));
  EXPECT_OK(extra("blk.0.attn_rot_embd.weight", {8}));
}

TEST(LoadTest, KeysOfConfigJsonPassByListByValueOrByTheirWords) {
  using nlohmann::json;
  for (const char* key :
       {"rms_norm_eps", "_attn_implementation_autoset", "unsloth_fixed", "transformers.js_config",
        "image_token_id", "attention_dropout", "license", "auto_map", "router_aux_loss_coef"}) {
    EXPECT_TRUE(IsHarmlessKey(key, "something")) << key;
  }
  for (const char* key : {"attention_multiplier", "use_qk_norm", "logits_scaling", "no_rope_layers",
                          "attention_sink_size", "residual_multiplier", "moe_layers"}) {
    EXPECT_FALSE(IsHarmlessKey(key, 0.5)) << key;
    EXPECT_TRUE(IsHarmlessKey(key, nullptr)) << key;
    EXPECT_TRUE(IsHarmlessKey(key, false)) << key;
    EXPECT_TRUE(IsHarmlessKey(key, json::array())) << key;
  }
  EXPECT_TRUE(IsHarmlessKey("residual_multiplier", 1.0));
  EXPECT_FALSE(IsHarmlessKey("num_sink_layers", 1));
}

TEST(LoadTest, AStretchedContextWithoutATypeIsLinearAndAnUnusedWindowIsLeftOut) {
  const auto canonical = [](std::function<void(tutti::testing::GgufWriter&)> more) {
    TinyLlama l;
    l.architecture = "qwen2";
    l.more_metadata = std::move(more);
    const TempDir dir;
    auto model = LoadTransformer(dir.Write("m.gguf", l.Image()), {});
    if (!model.ok()) ADD_FAILURE() << model.status();
    return model.ok() ? (*model)->config().CanonicalText() : std::string();
  };
  using W = tutti::testing::GgufWriter;
  const std::string linear = canonical([](W& w) {
    w.String("qwen2.rope.scaling.type", "linear").F32("qwen2.rope.scaling.factor", 4);
  });
  EXPECT_EQ(canonical([](W& w) { w.F32("qwen2.rope.scaling.factor", 4); }), linear);
  EXPECT_NE(canonical(nullptr), linear);
  EXPECT_EQ(canonical([](W& w) { w.U32("qwen2.attention.sliding_window", 8); }),
            canonical(nullptr));
}

TEST(LoadTest, FoldersQuantisedByAMethodAreRefusedByItsName) {
  const TempDir dir;
  dir.Write("model.safetensors",
            tutti::testing::SafetensorsWriter().Tensor("x", {2}, std::vector<float>{1, 2}).Image());
  const auto with = [&](const char* config) {
    dir.Write("config.json", std::string(R"({"model_type": "llama", )") + config + "}");
    return LoadDecoder(dir.path(), {}).status();
  };
  for (const char* method : {"gptq", "awq", "fp8", "mxfp4", "compressed-tensors"}) {
    const std::string config =
        std::string(R"("quantization_config": {"quant_method": ")") + method + "\"}";
    EXPECT_EQ(with(config.c_str()).code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(Message(with(config.c_str())), HasSubstr(std::string("quantised by ") + method));
  }
  EXPECT_THAT(Message(with(R"("quantization_config": {"load_in_4bit": true})")),
              HasSubstr("bitsandbytes"));
  EXPECT_THAT(Message(with(R"("quantization": {"bits": 4, "group_size": 64})")), HasSubstr("MLX"));
  EXPECT_THAT(Message(with(R"("use_bidirectional_attention": true)")),
              HasSubstr("use_bidirectional_attention is true"));
  EXPECT_THAT(Message(with(R"("is_causal": false)")), HasSubstr("is_causal"));
  EXPECT_THAT(Message(with(R"("quantization_config": null)")), HasSubstr("num_hidden_layers"));
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
