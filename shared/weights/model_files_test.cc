#include "shared/weights/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"

namespace tutti::weights {
namespace {

using ::testing::HasSubstr;
using tutti::testing::GgufWriter;
using tutti::testing::SafetensorsWriter;
using tutti::testing::TempDir;

std::string Message(const absl::Status& s) { return std::string(s.message()); }

std::string Weights(std::vector<std::string> names) {
  SafetensorsWriter w;
  for (const auto& n : names) w.Tensor(n, {2}, std::vector<float>{1, 2});
  return w.Image();
}

TEST(ModelFilesTest, OpensAFolderWithShardsAndItsSideFiles) {
  const TempDir dir;
  dir.Write("config.json", R"({"model_type":"llama"})");
  dir.Write("generation_config.json", R"({"eos_token_id":2})");
  dir.Write("m-1.safetensors", Weights({"a", "b"}));
  dir.Write("m-2.safetensors", Weights({"c"}));
  dir.Write(
      "model.safetensors.index.json",
      R"({"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}})");
  const auto m = ModelFiles::Open(dir.path());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ((*m)->format(), Format::kSafetensors);
  EXPECT_EQ((*m)->config()["model_type"], "llama");
  EXPECT_EQ((*m)->generation_config()["eos_token_id"], 2);
  EXPECT_TRUE((*m)->tokenizer_config().is_null());
  EXPECT_EQ((*m)->tensors().size(), 3u);
  ASSERT_NE((*m)->Find("c"), nullptr);
  EXPECT_EQ((*m)->Find("c")->file_index, 1);
  EXPECT_EQ((*m)->Find("d"), nullptr);
}

// Part `number` of `count`, from 1, with one tensor.
std::string SplitPart(int number, int count, const std::string& tensor, int total, bool first) {
  GgufWriter w;
  if (first) w.String("general.architecture", "llama").U32("llama.block_count", 2);
  if (count > 0) {
    w.U32("split.no", static_cast<uint32_t>(number - 1));
    w.U32("split.count", static_cast<uint32_t>(count));
    w.U32("split.tensors.count", static_cast<uint32_t>(total));
  }
  if (!tensor.empty()) w.Tensor(tensor, {2}, std::vector<float>{static_cast<float>(number), 2});
  return w.Image();
}

TEST(ModelFilesTest, ASplitGgufIsOneModelWhicheverPartIsNamed) {
  const TempDir dir;
  // The first part may hold metadata alone.
  const std::string first = dir.Write("m-00001-of-00003.gguf", SplitPart(1, 3, "", 2, true));
  const std::string second = dir.Write("m-00002-of-00003.gguf", SplitPart(2, 3, "a", 2, false));
  dir.Write("m-00003-of-00003.gguf", SplitPart(3, 3, "b", 2, false));
  for (const std::string& path : {first, second, dir.path()}) {
    const auto m = ModelFiles::Open(path);
    ASSERT_TRUE(m.ok()) << m.status();
    EXPECT_EQ((*m)->files().size(), 3u);
    EXPECT_EQ((*m)->Name(), "m");
    EXPECT_EQ((*m)->config()["llama.block_count"], 2);
    EXPECT_FALSE((*m)->config().contains("split.count"));
    ASSERT_NE((*m)->Find("b"), nullptr);
    EXPECT_EQ((*m)->Find("b")->file_index, 2);
    EXPECT_EQ(reinterpret_cast<const float*>((*m)->Find("b")->data.data())[0], 3.0f);
  }
  // It is the model that was cut.
  const TempDir whole;
  GgufWriter w;
  w.String("general.architecture", "llama").U32("llama.block_count", 2);
  w.Tensor("a", {2}, std::vector<float>{2, 2}).Tensor("b", {2}, std::vector<float>{3, 2});
  EXPECT_EQ((*ModelFiles::Open(first))->ContentHash(),
            (*ModelFiles::Open(whole.Write("w.gguf", w.Image())))->ContentHash());
}

TEST(ModelFilesTest, SaysWhatIsWrongWithThePartsOfASplitGguf) {
  const TempDir dir;
  const std::string first = dir.Write("m-00001-of-00002.gguf", SplitPart(1, 2, "a", 2, true));
  const auto status = [&] { return ModelFiles::Open(first).status(); };
  EXPECT_EQ(status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status()), HasSubstr("m-00002-of-00002.gguf: part 2 of 2"));
  const auto other = [&](const std::string& image) {
    dir.Write("m-00002-of-00002.gguf", image);
    return Message(status());
  };
  EXPECT_THAT(other(SplitPart(1, 2, "b", 2, false)), HasSubstr("it is part 1 of 2, not part 2"));
  EXPECT_THAT(other(SplitPart(2, 3, "b", 2, false)), HasSubstr("part 2 of 3"));
  EXPECT_THAT(other(SplitPart(2, 0, "b", 2, false)), HasSubstr("it is no part"));
  EXPECT_THAT(other(SplitPart(2, 2, "a", 2, false)), HasSubstr("stands twice"));
  EXPECT_THAT(other(SplitPart(2, 2, "b", 3, false)), HasSubstr("split.tensors.count is 3"));
  EXPECT_THAT(other(GgufWriter()
                        .U32("split.no", 1)
                        .U32("split.count", 2)
                        .U32("llama.block_count", 3)
                        .Tensor("b", {2}, std::vector<float>{1, 2})
                        .Image()),
              HasSubstr("\"llama.block_count\" differs"));
  EXPECT_EQ(other(SplitPart(2, 2, "b", 2, false)), "");
  // The others are found by name.
  EXPECT_THAT(
      Message(ModelFiles::Open(dir.Write("x.gguf", SplitPart(1, 2, "a", 2, true))).status()),
      HasSubstr("-00001-of-00002.gguf"));
  EXPECT_THAT(
      Message(ModelFiles::Open(dir.Write("y.gguf", SplitPart(2, 2, "a", 2, true))).status()),
      HasSubstr("-00002-of-00002.gguf"));
  EXPECT_THAT(
      Message(ModelFiles::Open(dir.Write("z.gguf", GgufWriter().U32("split.count", 99999).Image()))
                  .status()),
      HasSubstr("\"split.count\" is 99999"));
  // A whole file may be called like a part.
  EXPECT_TRUE(
      ModelFiles::Open(dir.Write("w-00001-of-00009.gguf", SplitPart(1, 0, "a", 1, true))).ok());
}

TEST(ModelFilesTest, RefusesAnIndexThatDoesNotMatchItsShards) {
  const TempDir dir;
  dir.Write("config.json", "{}");
  dir.Write("m-1.safetensors", Weights({"a"}));
  dir.Write("m-2.safetensors", Weights({"a"}));
  const auto with = [&](const char* map) {
    dir.Write("model.safetensors.index.json", map);
    return ModelFiles::Open(dir.path()).status();
  };
  EXPECT_THAT(Message(with(R"({"weight_map":{"a":"m-1.safetensors","x":"m-1.safetensors"}})")),
              HasSubstr("weight_map[\"x\"]"));
  EXPECT_THAT(Message(with(R"({"weight_map":{"a":"m-1.safetensors","x":"m-2.safetensors"}})")),
              HasSubstr("\"a\" stands twice"));
  EXPECT_EQ(with(R"({"weight_map":{"a":"m-3.safetensors"}})").code(), absl::StatusCode::kNotFound);
}

TEST(ModelFilesTest, SaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_EQ(ModelFiles::Open(dir.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(ModelFiles::Open(dir.path()).status()), HasSubstr("no config.json"));
  dir.Write("config.json", "{}");
  EXPECT_THAT(Message(ModelFiles::Open(dir.path()).status()), HasSubstr("no model.safetensors"));
  dir.Write("config.json", "[1]");
  EXPECT_THAT(Message(ModelFiles::Open(dir.path()).status()),
              HasSubstr("config.json: must be a JSON object"));
  EXPECT_THAT(Message(ModelFiles::Open(dir.Write("x.bin", "neither")).status()),
              HasSubstr("neither a GGUF file"));
  EXPECT_EQ(ModelFiles::Open(dir.Write("empty.gguf", "")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ModelFilesTest, AFolderWithOneGgufIsThatGguf) {
  const TempDir dir;
  dir.Write("m.gguf", GgufWriter().String("general.architecture", "llama").Image());
  const auto m = ModelFiles::Open(dir.path());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ((*m)->format(), Format::kGguf);
}

TEST(ModelFilesTest, TheHashSeesEveryPartAndNothingElse) {
  const std::vector<float> w(256, 0.5f), v(256, 0.25f);
  const auto hash = [](const GgufWriter& file) {
    const TempDir dir;  // another path every time
    const auto m = ModelFiles::Open(dir.Write("m.gguf", file.Image()));
    EXPECT_TRUE(m.ok()) << m.status();
    return (*m)->ContentHash();
  };
  const auto base = [&] {
    return GgufWriter().U32("k", 1).Tensor("a", {256}, w).Tensor("b", {2, 128}, v);
  };
  EXPECT_EQ(hash(base()), hash(base()));
  EXPECT_NE(hash(base()),
            hash(GgufWriter().U32("k", 2).Tensor("a", {256}, w).Tensor("b", {2, 128}, v)));
  EXPECT_NE(hash(base()),
            hash(GgufWriter().U32("k", 1).Tensor("x", {256}, w).Tensor("b", {2, 128}, v)));
  EXPECT_NE(hash(base()),
            hash(GgufWriter().U32("k", 1).Tensor("a", {1, 256}, w).Tensor("b", {2, 128}, v)));
  EXPECT_NE(hash(base()),
            hash(GgufWriter().U32("k", 1).Tensor("a", {256}, v).Tensor("b", {2, 128}, w)));
  // A long array, whose content is in no JSON.
  const auto tokens = [&](int32_t last) {
    std::vector<int32_t> ids(5000, 7);
    ids.back() = last;
    return base().I32s("ids", ids);
  };
  EXPECT_NE(hash(tokens(1)), hash(tokens(2)));
  // One flipped weight bit.
  std::string image = base().Image();
  image.back() = static_cast<char>(image.back() ^ 1);
  const TempDir dir;
  EXPECT_NE((*ModelFiles::Open(dir.Write("m.gguf", image)))->ContentHash(), hash(base()));
}

TEST(ModelFilesTest, TheHashDoesNotDependOnTheCutIntoShards) {
  const TempDir one, two;
  for (const TempDir* d : {&one, &two}) d->Write("config.json", "{}");
  one.Write("model.safetensors", Weights({"a", "b"}));
  two.Write("m-1.safetensors", Weights({"b"}));
  two.Write("m-2.safetensors", Weights({"a"}));
  two.Write("model.safetensors.index.json",
            R"({"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors"}})");
  EXPECT_EQ((*ModelFiles::Open(one.path()))->ContentHash(),
            (*ModelFiles::Open(two.path()))->ContentHash());
}

std::string RealModel() {
  const char* env = std::getenv("TUTTI_MODEL");
  return env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

TEST(ModelFilesTest, OpensTheRealModel) {
  if (!std::filesystem::exists(RealModel())) GTEST_SKIP() << "no model at " << RealModel();
  const auto m = ModelFiles::Open(RealModel());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ((*m)->tensors().size(), 272u);
  EXPECT_EQ((*m)->config()["llama.block_count"], 30);
  const auto* tokens = (*m)->FindArray("tokenizer.ggml.tokens");
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(tokens->size(), 49152u);
  EXPECT_EQ(tokens->Strings()[1], "<|im_start|>");
  EXPECT_EQ((*m)->FindArray("tokenizer.ggml.merges")->size(), 48900u);
  // Q8_0 values as the reference reads them (golden: dequant_samples.json).
  const auto* embedding = (*m)->Find("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  const auto row = tutti::testing::Dequantize(DType::kQ8_0, embedding->data.first(34));
  EXPECT_EQ(row[0], -0.10654449462890625f);
  EXPECT_EQ(row[31], -0.20040512084960938f);
}

}  // namespace
}  // namespace tutti::weights
