#include "shared/weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "shared/testing/model_writer.h"
#include "shared/weights/json_text.h"

namespace tutti::weights {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tutti::testing::SafetensorsWriter;

absl::StatusOr<SafetensorsContents> Parse(const std::string& image) {
  return ParseSafetensors(std::as_bytes(std::span(image.data(), image.size())), "x.safetensors");
}
void ExpectError(const std::string& image, const std::string& text,
                 absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const auto r = Parse(image);
  ASSERT_FALSE(r.ok()) << "wanted: " << text;
  EXPECT_EQ(r.status().code(), code) << r.status();
  EXPECT_THAT(std::string(r.status().message()), HasSubstr(text));
  EXPECT_THAT(std::string(r.status().message()), HasSubstr("x.safetensors"));
}
void ExpectHeaderError(const std::string& header, const std::string& data,
                       const std::string& text) {
  ExpectError(SafetensorsWriter::ImageOf(header, data), text);
}
std::string Entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

SafetensorsWriter SmallFile() {
  SafetensorsWriter w;
  w.Tensor("b", {2, 2}, std::vector<float>{1, 2, 3, 4})
      .Tensor("a", {3}, std::vector<float>{5, 6, 7}, DType::kBF16);
  w.RawTensor("ids", {1}, "I64", "12345678").Tensor("h", {}, std::vector<float>{8}, DType::kF16);
  return w;
}

TEST(SafetensorsTest, ReadsTheWeightsAndSetsIntegersAside) {
  const std::string image = SmallFile().Image();
  const auto r = Parse(image);
  ASSERT_TRUE(r.ok()) << r.status();
  ASSERT_EQ(r->tensors.size(), 3u);
  EXPECT_EQ(r->tensors[0].name, "b");  // in the order of the bytes
  EXPECT_THAT(r->tensors[0].shape, ElementsAre(2, 2));
  EXPECT_EQ(r->tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(r->tensors[2].dtype, DType::kF16);
  EXPECT_EQ(r->tensors[2].data.size(), 2u);
  EXPECT_THAT(r->ignored, ElementsAre("ids"));
}

TEST(SafetensorsTest, EveryTruncationIsAnError) {
  const std::string image = SmallFile().Image();
  for (size_t n = 0; n < image.size(); ++n) {
    const std::string cut = image.substr(0, n);
    const auto r = Parse(cut);
    ASSERT_FALSE(r.ok()) << n;
    EXPECT_EQ(r.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(SafetensorsTest, NoFlippedBitOfTheHeaderBreaksTheReader) {
  const std::string image = SmallFile().Image();
  const size_t header = image.size() - 16 - 6 - 8 - 2;
  for (size_t bit = 0; bit < header * 8; ++bit) {
    std::string bad = image;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const auto r = Parse(bad);
    if (!r.ok()) continue;
    for (const auto& t : r->tensors) {
      EXPECT_EQ(t.data.size(), StorageBytes(t.dtype, static_cast<uint64_t>(t.NumElements())));
      EXPECT_LE(t.file_offset + t.data.size(), bad.size());
    }
  }
}

TEST(SafetensorsTest, RefusesWrongHeaders) {
  ExpectError("abc", "3 bytes");
  ExpectError(std::string(8, '\xFF') + "{}", "byte 0: a header of 18446744073709551615 bytes");
  ExpectError(std::string("\x10\0\0\0\0\0\0\0{}", 10), "byte 0: a header of 16 bytes");
  ExpectHeaderError("[]", "", "must start with '{'");
  ExpectHeaderError("{\"a\":}", "", "not valid JSON");
  ExpectHeaderError("{\"a\":1}", "", "tensor \"a\": must be an object");
  ExpectHeaderError("{\"a\xFF\":1}", "", "not valid JSON");
  ExpectHeaderError(R"({"__metadata__":3})", "", "__metadata__");
  ExpectHeaderError(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}})", "abcd",
                    "\"w\" stands twice");
  ExpectHeaderError("{\"a\":" + std::string(100000, '['), "", "deeper than 4 levels");
}

TEST(SafetensorsTest, RefusesWrongEntries) {
  ExpectHeaderError(Entry("F99", "[1]", "[0,4]"), "abcd", ".dtype: unknown type \"F99\"");
  ExpectError(SafetensorsWriter::ImageOf(Entry("F64", "[1]", "[0,8]"), "abcdefgh"),
              "\"w\" is of type F64", absl::StatusCode::kUnimplemented);
  ExpectHeaderError(Entry("F32", "[0]", "[0,0]"), "", ".shape[0]: 0 is not a size");
  ExpectHeaderError(Entry("F32", "[-1]", "[0,4]"), "abcd", ".shape[0]: -1");
  ExpectHeaderError(Entry("F32", "[1.0]", "[0,4]"), "abcd", ".shape[0]: 1.0");
  ExpectHeaderError(Entry("F32", "[4294967296,4294967296]", "[0,0]"), "", ".shape[1]");
  ExpectHeaderError(Entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "abcd", "at most 8");
  ExpectHeaderError(Entry("F32", "[1]", "[0]"), "abcd", "data_offsets");
  ExpectHeaderError(Entry("F32", "[1]", "[0,-4]"), "abcd", "data_offsets");
  ExpectHeaderError(Entry("F32", "[1]", "[4,0]"), "abcd", "data_offsets");
  ExpectHeaderError(Entry("F32", "[1]", "[0,8]"), "abcdefgh", "does not span the 4 bytes");
  ExpectHeaderError(Entry("F32", "[2]", "[0,8]"), "abcd",
                    "ends at byte 8 of the data, which has 4");
  ExpectHeaderError(Entry("F32", "[1]", "[4,8]"), "abcdefgh", "there is a hole");
  ExpectHeaderError(Entry("F32", "[1]", "[0,4]"), "abcdefgh", "4 bytes after the last tensor");
  ExpectHeaderError(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", "abcd",
                    "unknown field \"x\"");
  ExpectHeaderError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                        "b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
                    "abcdef", "overlaps");
}

TEST(ShardIndexTest, NamesOnlyFilesOfTheSameFolder) {
  const auto ok =
      ParseShardIndex(R"({"metadata":{},"weight_map":{"a":"m-1.safetensors"}})", "i.json");
  ASSERT_TRUE(ok.ok()) << ok.status();
  EXPECT_EQ(ok->at("a"), "m-1.safetensors");
  for (const char* bad :
       {R"("../x")", R"("/etc/passwd")", R"("a/b")", R"("..")", R"("")", "7", R"("a\u0000")"}) {
    const auto r = ParseShardIndex(R"({"weight_map":{"a":)" + std::string(bad) + "}}", "i.json");
    ASSERT_FALSE(r.ok()) << bad;
    EXPECT_THAT(std::string(r.status().message()), HasSubstr("weight_map[\"a\"]"));
  }
  EXPECT_FALSE(ParseShardIndex("{}", "i.json").ok());
  EXPECT_FALSE(ParseShardIndex("[]", "i.json").ok());
  EXPECT_FALSE(ParseShardIndex(R"({"weight_map":{}})", "i.json").ok());
}

TEST(JsonTextTest, ErrorsNameLineAndColumn) {
  const auto r = ParseJson("{\n  \"a\": 1,\n  \"b\": x\n}", "c.json");
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(std::string(r.status().message()), HasSubstr("c.json:3:8: not valid JSON"));
}

TEST(JsonTextTest, RefusesDepthDuplicatesGarbageAndSize) {
  EXPECT_FALSE(ParseJson(std::string(1000000, '['), "c").ok());
  EXPECT_FALSE(ParseJson(R"({"a":1,"a":2})", "c").ok());
  EXPECT_FALSE(ParseJson("{} x", "c").ok());
  EXPECT_FALSE(ParseJson("\"\xFF\"", "c").ok());
  EXPECT_FALSE(ParseJson("", "c").ok());
  EXPECT_FALSE(ParseJson("[1,2,3]", "c", {.bytes_max = 3}).ok());
  EXPECT_FALSE(ParseJson("1e999", "c").ok());
  const auto ok = ParseJson(R"({"b":[1,{"c":null}],"a":-2.5e3})", "c");
  ASSERT_TRUE(ok.ok()) << ok.status();
  EXPECT_EQ(ok->dump(), R"({"a":-2500.0,"b":[1,{"c":null}]})");
}

}  // namespace
}  // namespace tutti::weights
