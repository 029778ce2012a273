#include "shared/weights/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "shared/testing/model_writer.h"
#include "shared/testing/quantize.h"

namespace tutti::weights {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tutti::testing::GgufWriter;

std::span<const std::byte> Bytes(const std::string& s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}
absl::StatusOr<GgufContents> Parse(const std::string& image) {
  return ParseGguf(Bytes(image), "x.gguf");
}

template <typename T>
std::string Raw(T v) {
  return std::string(reinterpret_cast<const char*>(&v), sizeof(v));
}

std::vector<float> Ramp(size_t n) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = static_cast<float>(i) - static_cast<float>(n) / 2;
  return v;
}

// One value of every kind and two tensors.
GgufWriter SmallFile() {
  GgufWriter w;
  w.String("general.architecture", "llama").U32("llama.block_count", 2).F32("llama.eps", 0.5f);
  w.Bool("flag", true).I64("negative", -7);
  w.Strings("tokens", {"a", "bc", "\xC4\xA0"})
      .I32s("types", {1, -2, 3})
      .F32s("scores", {0.5f, -1.0f});
  w.Raw("nested", 9,
        Raw<uint32_t>(9) + Raw<uint64_t>(2) + Raw<uint32_t>(0) + Raw<uint64_t>(1) + "\x05" +
            Raw<uint32_t>(8) + Raw<uint64_t>(1) + Raw<uint64_t>(1) + "z");
  w.Tensor("a.weight", {2, 32}, Ramp(64), DType::kQ4_1).Tensor("b.weight", {3}, Ramp(3));
  return w;
}

void ExpectError(const std::string& image, const std::string& text,
                 absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const auto r = Parse(image);
  ASSERT_FALSE(r.ok()) << "wanted: " << text;
  EXPECT_EQ(r.status().code(), code) << r.status();
  EXPECT_THAT(std::string(r.status().message()), HasSubstr(text));
  EXPECT_THAT(std::string(r.status().message()), HasSubstr("x.gguf"));
}

TEST(GgufTest, ReadsEveryKindOfValueAndTheTensorsBytes) {
  const std::string image = SmallFile().Image();
  const auto r = Parse(image);
  ASSERT_TRUE(r.ok()) << r.status();
  const auto& m = r->metadata;
  EXPECT_EQ(m["general.architecture"], "llama");
  EXPECT_EQ(m["llama.block_count"], 2);
  EXPECT_EQ(m["llama.eps"], 0.5);
  EXPECT_EQ(m["flag"], true);
  EXPECT_EQ(m["negative"], -7);
  EXPECT_EQ(m["tokens"].dump(), "[\"a\",\"bc\",\"\xC4\xA0\"]");
  EXPECT_EQ(m["types"].dump(), "[1,-2,3]");
  EXPECT_EQ(m["nested"].dump(), "[[5],[\"z\"]]");
  EXPECT_THAT(r->arrays.at("tokens").Strings(), ElementsAre("a", "bc", "\xC4\xA0"));
  EXPECT_THAT(r->arrays.at("types").Ints(), ElementsAre(1, -2, 3));
  EXPECT_THAT(r->arrays.at("scores").Floats(), ElementsAre(0.5f, -1.0f));
  ASSERT_EQ(r->tensors.size(), 2u);
  EXPECT_EQ(r->tensors[0].name, "a.weight");
  EXPECT_EQ(r->tensors[0].dtype, DType::kQ4_1);
  EXPECT_THAT(r->tensors[0].shape, ElementsAre(2, 32));
  const auto stored = tutti::testing::Quantize(DType::kQ4_1, Ramp(64));
  EXPECT_TRUE(std::equal(stored.begin(), stored.end(), r->tensors[0].data.begin(),
                         r->tensors[0].data.end()));
  EXPECT_EQ(std::memcmp(r->tensors[1].data.data(), Ramp(3).data(), 12), 0);
}

TEST(GgufTest, ReadsEveryTensorTypeAndBothVersions) {
  for (uint32_t version : {2u, 3u}) {
    for (int t = 0; t < kNumDTypes; ++t) {
      const auto dtype = static_cast<DType>(t);
      const std::string image = GgufWriter(version).Tensor("w", {2, 256}, Ramp(512), dtype).Image();
      const auto r = Parse(image);
      ASSERT_TRUE(r.ok()) << r.status();
      EXPECT_EQ(r->tensors[0].dtype, dtype);
      EXPECT_EQ(r->tensors[0].data.size(), StorageBytes(dtype, 512));
    }
  }
}

TEST(GgufTest, LongArraysStayInTheFileAndAreReadableThere) {
  const size_t n = ModelFiles::kInlineArrayMax + 1;
  std::vector<std::string> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(std::to_string(i));
  const std::string image =
      GgufWriter().Strings("tokens", tokens).Strings("bytes", {"\xFF"}).Image();
  const auto r = Parse(image);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_FALSE(r->metadata.contains("tokens"));
  const auto strings = r->arrays.at("tokens").Strings();
  ASSERT_EQ(strings.size(), n);
  EXPECT_EQ(strings.back(), std::to_string(n - 1));
  // Strings that are not UTF-8 cannot stand in JSON.
  EXPECT_FALSE(r->metadata.contains("bytes"));
  EXPECT_THAT(r->arrays.at("bytes").Strings(), ElementsAre("\xFF"));
}

TEST(GgufTest, HonoursTheAlignment) {
  const std::string image =
      GgufWriter(3, 64).Tensor("a", {1}, Ramp(1)).Tensor("b", {1}, std::vector<float>{42}).Image();
  const auto r = Parse(image);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->tensors[1].file_offset % 64, 0u);
  float b;
  std::memcpy(&b, r->tensors[1].data.data(), 4);
  EXPECT_EQ(b, 42);
  for (uint32_t bad : {0u, 4u, 24u, 1u << 21}) {
    ExpectError(GgufWriter().U32("general.alignment", bad).Image(), "general.alignment");
  }
}

TEST(GgufTest, EveryTruncationIsAnErrorThatNamesTheFile) {
  const std::string image = SmallFile().Image();
  for (size_t n = 0; n < image.size(); ++n) {
    const std::string cut =
        image.substr(0, n);  // exactly sized, so that a sanitizer sees any overrun
    const auto r = Parse(cut);
    ASSERT_FALSE(r.ok()) << "cut to " << n << " of " << image.size();
    EXPECT_EQ(r.status().code(), absl::StatusCode::kInvalidArgument) << r.status();
    EXPECT_THAT(std::string(r.status().message()), HasSubstr("x.gguf: ")) << n;
  }
}

// Touches everything that a caller can reach.
void UseAll(const GgufContents& c) {
  size_t sum = c.metadata.dump().size();
  for (const auto& [key, a] : c.arrays) {
    for (auto s : a.Strings()) sum += s.size();
    sum += a.Ints().size() + a.Floats().size();
  }
  for (const auto& t : c.tensors) {
    EXPECT_EQ(t.data.size(), StorageBytes(t.dtype, static_cast<uint64_t>(t.NumElements())));
    for (std::byte b : t.data) sum += static_cast<size_t>(b);
  }
  volatile size_t sink = sum;
  (void)sink;
}

TEST(GgufTest, NoFlippedBitOfTheHeaderBreaksTheReader) {
  const std::string image = SmallFile().Image();
  const size_t header = image.size() - 64 - 12;  // the data: 40 bytes padded to 64, and 12
  int refused = 0;
  for (size_t bit = 0; bit < header * 8; ++bit) {
    std::string bad = image;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const auto r = Parse(bad);
    if (r.ok()) {
      UseAll(*r);
    } else {
      ++refused;
      EXPECT_THAT(r.status().code(), ::testing::AnyOf(absl::StatusCode::kInvalidArgument,
                                                      absl::StatusCode::kUnimplemented));
    }
  }
  EXPECT_GT(refused, static_cast<int>(header) * 2);  // most of the header is structure
}

TEST(GgufTest, RandomDamageNeverBreaksTheReader) {
  const std::string image = SmallFile().Image();
  std::mt19937 rng(7);
  for (int round = 0; round < 20000; ++round) {
    std::string bad = image;
    for (int k = 0; k < 4; ++k) bad[rng() % bad.size()] = static_cast<char>(rng());
    const auto r = Parse(bad);
    if (r.ok()) UseAll(*r);
  }
}

TEST(GgufTest, RefusesWhatIsNoGguf) {
  ExpectError("GGML then something", "starts with \"GGML\"");
  ExpectError(GgufWriter(1).Image(), "version 1", absl::StatusCode::kUnimplemented);
  ExpectError(GgufWriter(0x03000000).Image(), "big-endian", absl::StatusCode::kUnimplemented);
}

TEST(GgufTest, HugeCountsAreRefusedBeforeAnythingIsAllocated) {
  for (uint64_t huge : {uint64_t{1} << 32, uint64_t{1} << 60, ~uint64_t{0}}) {
    const std::string head = "GGUF" + Raw<uint32_t>(3);
    ExpectError(head + Raw(huge) + Raw<uint64_t>(0) + std::string(64, '\0'), "byte 8: ");
    ExpectError(head + Raw<uint64_t>(0) + Raw(huge) + std::string(64, '\0'), "byte 16: ");
    ExpectError(head + Raw<uint64_t>(0) + Raw<uint64_t>(1) + Raw(huge) + std::string(64, '\0'),
                "metadata value 0");
    for (uint32_t type : {0u, 6u, 8u, 9u, 12u}) {
      ExpectError(GgufWriter().Raw("k", 9, Raw(type) + Raw(huge)).Image(),
                  "\"k\" has " + std::to_string(huge) + " elements");
    }
    ExpectError(GgufWriter().Raw("k", 8, Raw(huge)).Image(), "metadata \"k\"");
    ExpectError(GgufWriter().RawTensor("t", {static_cast<int64_t>(huge)}, 0, "").Image(), "\"t\"");
  }
}

TEST(GgufTest, RefusesUnknownTypesByName) {
  ExpectError(GgufWriter().Raw("k", 13, "").Image(), "\"k\" has the unknown type 13");
  ExpectError(GgufWriter().Raw("k", 9, Raw<uint32_t>(77) + Raw<uint64_t>(0)).Image(),
              "unknown type 77");
  ExpectError(GgufWriter().RawTensor("blk.0.w", {256}, 16, std::string(66, 'x')).Image(),
              "tensor \"blk.0.w\" is of type IQ2_XXS", absl::StatusCode::kUnimplemented);
  ExpectError(GgufWriter().RawTensor("t", {256}, 999, "").Image(),
              "\"t\" has the unknown type 999");
  ExpectError(GgufWriter().Raw("k", 7, "\x02").Image(), "\"k\" is a bool with the value 2");
}

TEST(GgufTest, RefusesWrongShapes) {
  ExpectError(GgufWriter().RawTensor("t", {4, 0}, 0, "").Image(), "size 0 in dimension 0");
  ExpectError(GgufWriter().RawTensor("t", {}, 0, "").Image(), "has 0 dimensions");
  ExpectError(GgufWriter().RawTensor("t", {1, 1, 1, 1, 1}, 0, "abcd").Image(), "has 5 dimensions");
  ExpectError(GgufWriter().RawTensor("t", {2, 33}, 8, std::string(72, 'x')).Image(),
              "rows of 33 elements");
  // 2^32 * 2^32 elements overflow 64 bits.
  ExpectError(GgufWriter().RawTensor("t", {int64_t{1} << 32, int64_t{1} << 32}, 0, "").Image(),
              "more elements");
  ExpectError(GgufWriter().RawTensor("t", {int64_t{1} << 50, 32}, 8, "").Image(), "cut short");
}

TEST(GgufTest, RefusesOverlappingAndOutlyingTensors) {
  auto two = [] { return GgufWriter().Tensor("a", {16}, Ramp(16)).Tensor("b", {16}, Ramp(16)); };
  ASSERT_TRUE(Parse(two().Image()).ok());
  ExpectError(two().MoveLastTensor(32).Image(), "tensors \"a\" and \"b\" overlap");
  ExpectError(two().MoveLastTensor(0).Image(), "overlap");
  ExpectError(two().MoveLastTensor(33).Image(), "not a multiple of the alignment 32");
  ExpectError(two().MoveLastTensor(96).Image(), "tensor \"b\" wants 64 bytes at offset 96");
  ExpectError(two().MoveLastTensor(~uint64_t{0} - 31).Image(), "tensor \"b\"");
}

TEST(GgufTest, RefusesDuplicatesAndBadKeys) {
  ExpectError(GgufWriter().U32("k", 1).U32("k", 2).Image(), "metadata \"k\" stands twice");
  ExpectError(GgufWriter().U32("", 1).Image(), "has 0 bytes");
  ExpectError(GgufWriter().U32("a\xFFz", 1).Image(), "\"a\\xFFz\" is not UTF-8");
  ExpectError(GgufWriter().String("k", "a\xC0").Image(), "\"k\" is a string that is not UTF-8");
  ExpectError(GgufWriter().RawTensor("\xFE", {1}, 0, "abcd").Image(), "the name of tensor 0");
}

TEST(GgufTest, DeepArraysAreRefused) {
  std::string nest;
  for (int i = 0; i < 100000; ++i) nest += Raw<uint32_t>(9) + Raw<uint64_t>(1);
  ExpectError(GgufWriter().Raw("k", 9, nest).Image(), "deeper than 4 levels");
}

}  // namespace
}  // namespace tutti::weights
