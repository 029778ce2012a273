// A file in, a file out: what becomes of tensors and metadata.
#include "shared/quantize/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"
#include "shared/weights/gguf.h"

namespace tutti::quantize {
namespace {

using ::testing::HasSubstr;
using tutti::testing::GgufWriter;
using tutti::testing::TempDir;

std::vector<float> Values(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(static_cast<int>(rng() % 20001) - 10000) * 1e-5f;
  return x;
}

GgufWriter Source(DType dtype = DType::kF32) {
  GgufWriter w(3, 64);
  w.String("general.architecture", "llama").U32("general.file_type", 1).F32("eps", 1e-5f);
  w.Strings("tokenizer.ggml.tokens", {"a", "\xFF", "c"}).I64("far", int64_t{1} << 40);
  w.Tensor("token_embd.weight", {6, 256}, Values(6 * 256, 1), dtype);
  w.Tensor("blk.0.attn_norm.weight", {64}, Values(64, 2));
  w.Tensor("blk.0.attn_q.weight", {64, 64}, Values(64 * 64, 3), dtype);
  w.Tensor("blk.0.attn_q.bias", {64}, Values(64, 4), DType::kF16);
  w.Tensor("blk.0.ffn_gate_inp.weight", {2, 256}, Values(512, 5), dtype);
  w.Tensor("blk.0.ffn_down_exps.weight", {2, 3, 256}, Values(1536, 6), dtype);
  w.Tensor("blk.0.odd.weight", {3, 20}, Values(60, 7), DType::kF32);
  return w;
}

std::string Read(const std::string& path) {
  std::stringstream s;
  s << std::ifstream(path, std::ios::binary).rdbuf();
  return s.str();
}

// Quantises an image; the file's bytes, and what was said about them.
struct Made {
  absl::StatusOr<QuantizeResult> result = absl::UnknownError("");
  std::string image;
  std::shared_ptr<const weights::ModelFiles> files;
  std::unique_ptr<TempDir> dir;
};
Made Quantized(const std::string& image, const QuantizeOptions& options) {
  Made made;
  made.dir = std::make_unique<TempDir>();
  const auto source = weights::ModelFiles::Open(made.dir->Write("source.gguf", image));
  EXPECT_TRUE(source.ok()) << source.status();
  const std::string out = made.dir->path() + "/out.gguf";
  made.result = QuantizeModel(**source, out, options);
  if (!made.result.ok()) {
    EXPECT_FALSE(std::filesystem::exists(out));
    return made;
  }
  made.image = Read(out);
  const auto files = weights::ModelFiles::Open(out);
  EXPECT_TRUE(files.ok()) << files.status();
  if (files.ok()) made.files = *files;
  return made;
}
QuantizeOptions To(DType dtype) {
  QuantizeOptions o;
  o.types.dtype = dtype;
  return o;
}

TEST(QuantizeModelTest, EachTensorGetsTheTypeOfItsRole) {
  const Made made = Quantized(Source().Image(), To(DType::kQ4_K));
  ASSERT_TRUE(made.files != nullptr) << made.result.status();
  std::map<std::string, DType> types;
  for (const auto& t : made.files->tensors()) types[t.name] = t.dtype;
  EXPECT_EQ(types, (std::map<std::string, DType>{
                       {"token_embd.weight", DType::kQ8_0},
                       {"blk.0.attn_norm.weight", DType::kF32},
                       {"blk.0.attn_q.weight", DType::kQ5_0},  // rows of 64
                       {"blk.0.attn_q.bias", DType::kF32},
                       {"blk.0.ffn_gate_inp.weight", DType::kF32},
                       {"blk.0.ffn_down_exps.weight", DType::kQ4_K},
                       {"blk.0.odd.weight", DType::kF16},  // rows of 20
                   }));
  EXPECT_EQ(made.files->Find("blk.0.ffn_down_exps.weight")->shape,
            (std::vector<int64_t>{2, 3, 256}));
  EXPECT_EQ(made.result->file_bytes, made.image.size());
}

TEST(QuantizeModelTest, MetadataIsTheSourcesToTheByteButForTheTwoThatNameTheType) {
  const std::string image = Source().Image();
  const Made made = Quantized(image, To(DType::kQ6_K));
  ASSERT_TRUE(made.result.ok()) << made.result.status();
  const auto bytes = [](const std::string& s) { return std::as_bytes(std::span(s)); };
  const auto before = weights::ParseGguf(bytes(image), "source");
  const auto after = weights::ParseGguf(bytes(made.image), "out");
  ASSERT_TRUE(before.ok() && after.ok());
  ASSERT_EQ(after->values.size(), before->values.size() + 1);
  for (size_t i = 0; i < before->values.size(); ++i) {
    const auto &a = before->values[i], &b = after->values[i];
    EXPECT_EQ(a.key, b.key);
    EXPECT_EQ(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()),
              a.key != "general.file_type")
        << a.key;
  }
  EXPECT_EQ(after->metadata["general.file_type"], 18);
  EXPECT_EQ(after->metadata["general.quantization_version"], 2);
  EXPECT_EQ(after->alignment, 64u);
}

TEST(QuantizeModelTest, BytesDoNotDependOnThreads) {
  // Rows enough for several pieces and batches' ends.
  GgufWriter w;
  w.String("general.architecture", "llama");
  w.Tensor("a.weight", {1024, 256}, Values(1024 * 256, 9));
  w.Tensor("b.weight", {70, 96}, Values(70 * 96, 10));
  const std::string image = w.Image();
  for (const DType dtype : {DType::kQ4_0, DType::kQ5_1, DType::kQ4_K}) {
    const Made alone = Quantized(image, To(dtype));
    for (const int threads : {2, 3, 8}) {
      ThreadPool pool({.num_threads = threads});
      QuantizeOptions o = To(dtype);
      o.pool = &pool;
      const Made many = Quantized(image, o);
      EXPECT_EQ(alone.image, many.image) << threads;
      for (size_t i = 0; i < 2; ++i)
        EXPECT_EQ(alone.result->tensors[i].squared_error, many.result->tensors[i].squared_error);
    }
  }
}

TEST(QuantizeModelTest, TheReportedErrorIsTheFilesOwn) {
  const auto x = Values(6 * 256, 1);
  for (int t = 0; t < kNumDTypes; ++t) {
    QuantizeOptions o = To(static_cast<DType>(t));
    o.types.embedding = static_cast<DType>(t);
    const Made made = Quantized(Source().Image(), o);
    ASSERT_TRUE(made.files != nullptr) << made.result.status();
    const auto* tensor = made.files->Find("token_embd.weight");
    ASSERT_EQ(tensor->dtype, static_cast<DType>(t));
    const auto y = tutti::testing::Dequantize(tensor->dtype, tensor->data);
    double error = 0, squares = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
      squares += static_cast<double>(x[i]) * x[i];
    }
    EXPECT_NEAR(made.result->tensors[0].RelativeError(), std::sqrt(error / squares), 1e-9)
        << Traits(tensor->dtype).name;
  }
}

TEST(QuantizeModelTest, ATensorOfThatTypeAlreadyIsCopied) {
  // Q4_0 blocks with d = 1 and codes 7, 8 and 9 alone: no encoder of ours would write them so.
  std::string blocks;
  for (int i = 0; i < 6; ++i)
    blocks += std::string("\0\x3C", 2) + std::string(16, i % 2 ? 0x79 : 0x87);
  const std::string image = GgufWriter()
                                .String("general.architecture", "llama")
                                .RawTensor("a.weight", {2, 96}, 2, blocks)
                                .Image();
  const Made made = Quantized(image, To(DType::kQ4_0));
  ASSERT_TRUE(made.files != nullptr) << made.result.status();
  const auto data = made.files->Find("a.weight")->data;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(data.data()), data.size()), blocks);
  EXPECT_TRUE(made.result->tensors[0].copied());
  EXPECT_EQ(made.result->tensors[0].RelativeError(), 0);
  EXPECT_FALSE(Quantized(image, To(DType::kQ4_1)).result->tensors[0].copied());
}

TEST(QuantizeModelTest, BadWeightsAreNamedAndLeaveNoFile) {
  const auto spoiled = [](float value) {
    auto x = Values(64 * 64, 3);
    x[77] = value;
    return GgufWriter().String("general.architecture", "llama").Tensor("a.weight", {64, 64}, x);
  };
  const auto message = [&](float value, DType dtype) {
    const Made made = Quantized(spoiled(value).Image(), To(dtype));
    EXPECT_TRUE(absl::IsInvalidArgument(made.result.status())) << made.result.status();
    return std::string(made.result.status().message());
  };
  EXPECT_THAT(message(NAN, DType::kQ8_0), HasSubstr("tensor \"a.weight\": element 77"));
  EXPECT_THAT(message(INFINITY, DType::kBF16), HasSubstr("finite"));
  EXPECT_THAT(message(1e6f, DType::kF16), HasSubstr("past what F16 can hold"));
  EXPECT_TRUE(Quantized(spoiled(1e6f).Image(), To(DType::kBF16)).result.ok());
}

TEST(QuantizeModelTest, TheSourceIsSafeAndAnEndedRunLeavesNothing) {
  const TempDir dir;
  const std::string path = dir.Write("m.gguf", Source().Image());
  const auto files = weights::ModelFiles::Open(path);
  ASSERT_TRUE(files.ok());
  std::filesystem::create_hard_link(path, dir.path() + "/link.gguf");
  for (const char* name : {"/m.gguf", "/./m.gguf", "/link.gguf"}) {
    const auto r = QuantizeModel(**files, dir.path() + name, To(DType::kQ8_0));
    EXPECT_TRUE(absl::IsInvalidArgument(r.status()));
    EXPECT_THAT(std::string(r.status().message()), HasSubstr("the source itself"));
  }
  EXPECT_EQ(Read(path), Source().Image());
  QuantizeOptions o = To(DType::kQ8_0);
  o.on_progress = [](uint64_t done, uint64_t total) { return done < total / 2; };
  EXPECT_TRUE(absl::IsCancelled(QuantizeModel(**files, dir.path() + "/x.gguf", o).status()));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
  EXPECT_TRUE(absl::IsNotFound(
      QuantizeModel(**files, dir.path() + "/none/x.gguf", To(DType::kQ8_0)).status()));
}

}  // namespace
}  // namespace tutti::quantize
