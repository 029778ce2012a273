#include "shared/weights/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/testing/model_writer.h"

namespace tutti::weights {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using tutti::testing::GgufWriter;
using tutti::testing::SafetensorsWriter;
using tutti::testing::TempDir;

std::vector<float> Zeros(size_t n) { return std::vector<float>(n); }

TEST(InspectTest, ShowsWhatAGgufHolds) {
  const TempDir dir;
  GgufWriter w;
  w.String("general.architecture", "llama")
      .String("general.name", "Tiny")
      .U32("llama.block_count", 2);
  w.U32("llama.embedding_length", 64)
      .U32("llama.attention.head_count", 4)
      .U32("llama.attention.head_count_kv", 2);
  w.U32("llama.context_length", 128)
      .String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", "smollm");
  w.Strings("tokenizer.ggml.tokens", {"a", "b", "c"})
      .String("tokenizer.chat_template", "{% for m in messages %}\nx\n{% endfor %}");
  w.Tensor("token_embd.weight", {3, 64}, Zeros(192), DType::kQ8_0)
      .Tensor("blk.0.attn_q.weight", {64, 64}, Zeros(4096), DType::kQ4_1);
  w.Tensor("blk.0.ffn_up.weight", {32, 64}, Zeros(2048), DType::kQ4_1)
      .Tensor("blk.0.attn_norm.weight", {64}, Zeros(64));
  const auto m = ModelFiles::Open(dir.Write("m.gguf", w.Image()));
  ASSERT_TRUE(m.ok()) << m.status();
  const auto j = ToJson(Inspect(**m));
  EXPECT_EQ(j["architecture"], "llama");
  EXPECT_EQ(j["parameters"], 192 + 4096 + 2048 + 64);
  EXPECT_EQ(j["dimensions"]["head_dim"], 16);
  EXPECT_EQ(j["dimensions"]["vocabulary"], 3);
  EXPECT_EQ(j["dimensions"]["context_tokens"], 128);
  EXPECT_EQ(j["kv_bytes_per_token"], 2 * 2 * 2 * 2 * 16);
  EXPECT_EQ(j["types"][0],
            (nlohmann::json{
                {"name", "Q4_1"}, {"tensors", 2}, {"elements", 6144}, {"bytes", 6144 / 32 * 20}}));
  EXPECT_EQ(j["parts"].size(), 4u);
  EXPECT_EQ(j["parts"][0]["name"], "embeddings");
  EXPECT_EQ(j["tied_output"], true);
  EXPECT_EQ(j["tokenizer"]["kind"], "gpt2 (smollm)");
  EXPECT_EQ(j["tokenizer"]["size"], 3);
  const std::string text = ToText(Inspect(**m));
  for (const char* part : {"Tiny", "llama", "Q4_1", "attention", "gpt2 (smollm), 3 tokens",
                           "{% for m in messages %}"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(InspectTest, HostileNamesAndSizesStayPrintable) {
  const TempDir dir;
  GgufWriter w;
  w.String("general.architecture", "a\x1b[2Jb").String("a\x1b[2Jb.block_count", "many");
  w.I64("a\x1b[2Jb.embedding_length", -5).I64("a\x1b[2Jb.attention.head_count", INT64_MAX);
  w.I32s("tokenizer.ggml.model", {1}).String("tokenizer.chat_template", "\x1b]0;x\x07");
  const auto m = ModelFiles::Open(dir.Write("m.gguf", w.Image()));
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_THAT(ToText(Inspect(**m)), Not(HasSubstr("\x1b")));
}

TEST(InspectTest, ShowsAHuggingFaceFolder) {
  const TempDir dir;
  dir.Write("config.json",
            R"({"model_type":"qwen3","num_hidden_layers":3,"hidden_size":64,"num_attention_heads":4,
    "num_key_value_heads":2,"head_dim":32,"intermediate_size":96,"vocab_size":512,"max_position_embeddings":512})");
  dir.Write("tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":0,"b":1}}})");
  dir.Write("tokenizer_config.json", R"({"chat_template":"hello"})");
  dir.Write("model.safetensors",
            SafetensorsWriter()
                .Tensor("model.embed_tokens.weight", {2, 2}, Zeros(4))
                .Tensor("lm_head.weight", {2, 2}, Zeros(4))
                .Tensor("model.layers.0.mlp.experts.0.w1.weight", {2}, Zeros(2))
                .Image());
  const auto m = ModelFiles::Open(dir.path());
  ASSERT_TRUE(m.ok()) << m.status();
  const auto in = Inspect(**m);
  EXPECT_EQ(in.architecture, "qwen3");
  EXPECT_EQ(in.tokenizer, "BPE");
  EXPECT_EQ(in.tokenizer_size, 2);
  EXPECT_EQ(in.chat_template, "hello");
  EXPECT_FALSE(in.tied_output);
  EXPECT_EQ(in.kv_bytes_per_token, 2u * 2 * 3 * 2 * 32);
  EXPECT_EQ(ToJson(in)["parts"][1]["name"], "experts");
}

TEST(InspectTest, HumanBytesRoundsAtTheUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(999949), "999.9 kB");
  EXPECT_EQ(HumanBytes(999999), "1.0 MB");
  EXPECT_EQ(HumanBytes(98362432), "98.4 MB");
}

}  // namespace
}  // namespace tutti::weights
