#include "shared/weights/packed_manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tutti::weights {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;
using Pointer = ordered_json::json_pointer;

// Two experts of a layer and a norm, in two files.
PackedManifest Example() {
  PackedManifest m;
  m.name = "tiny";
  m.source_name = "tiny.gguf";
  m.content_hash = 0x0123456789abcdef;
  m.fingerprints = {{"F16", 7}, {"F32", 8}, {"Q8_0", 9}};
  m.source_files = {{"tiny.gguf", 100, 1}};
  m.data_files = {{"a.bin", 8192, 0}, {"b.bin", 4096, 0}};
  const auto rows = [](const char* name, int64_t row, uint64_t offset) {
    return PackedTensor{.name = name,
                        .dtype = DType::kF16,
                        .row = row,
                        .shape = {16, 32},
                        .offset = offset,
                        .bytes = 1024,
                        .xxh3 = 5};
  };
  m.ranges.push_back(
      {"layers.3.experts.6", 0, 0, 4096, 2, {rows("up", 96, 0), rows("gate", 96, 1024)}});
  m.ranges.push_back({"layers.3.experts.7", 0, 4096, 4096, 3, {rows("up", 112, 64)}});
  m.ranges.push_back({"head",
                      1,
                      0,
                      4096,
                      4,
                      {{.name = "norm",
                        .kind = PackedTensor::Kind::kVector,
                        .dtype = DType::kF32,
                        .shape = {32},
                        .offset = 128,
                        .bytes = 128,
                        .xxh3 = 6}}});
  return m;
}

// The text of a manifest that was changed by someone who can compute checksums.
std::string Seal(ordered_json root) {
  root.erase("xxh3");
  const std::string rest = root.dump(1).substr(2);
  return SealLine(rest) + rest;
}
ordered_json ExampleJson() { return ordered_json::parse(WritePackedManifest(Example())); }

TEST(PackedManifestTest, WhatIsWrittenIsRead) {
  const std::string text = WritePackedManifest(Example());
  const auto m = ParsePackedManifest(text, "m");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_EQ(WritePackedManifest(*m), text);
  ASSERT_EQ(m->ranges.size(), 3u);
  EXPECT_EQ(m->ranges[1].name, "layers.3.experts.7");
  EXPECT_EQ(m->ranges[1].tensors[0].row, 112);
  EXPECT_EQ(m->ranges[2].file, 1u);
  EXPECT_EQ(m->ranges[2].tensors[0].kind, PackedTensor::Kind::kVector);
  EXPECT_EQ(m->content_hash, 0x0123456789abcdefu);
}

TEST(PackedManifestTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::string text = WritePackedManifest(Example());
  for (size_t n = 0; n < text.size(); ++n)
    ASSERT_FALSE(ParsePackedManifest(text.substr(0, n), "m").ok()) << n;
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string bad = text;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    ASSERT_FALSE(ParsePackedManifest(bad, "m").ok()) << "bit " << bit;
  }
  EXPECT_FALSE(ParsePackedManifest(text + " ", "m").ok());
}

TEST(PackedManifestTest, AnotherVersionOrLayoutIsNotGuessedAt) {
  for (const auto& [field, value] :
       {std::pair<const char*, ordered_json>{"/version", 2}, {"/layout", "CA-2"}}) {
    ordered_json j = ExampleJson();
    j[Pointer(field)] = value;
    const auto m = ParsePackedManifest(Seal(j), "m");
    EXPECT_TRUE(absl::IsUnimplemented(m.status())) << field << m.status();
  }
}

struct Hostile {
  const char* place;  // JSON pointer
  ordered_json value;
  const char* message;
};

TEST(PackedManifestTest, WildValuesAreRefusedByTheirField) {
  const ordered_json big = uint64_t{1} << 63;
  const std::vector<Hostile> cases = {
      {"/format", "tar", "format: \"tar\""},
      {"/version", "1", "version: \"1\" is not a whole number"},
      {"/name", "", "name: \"\" is not a text"},
      {"/source/format", "onnx", "source.format"},
      {"/source/name", "../x", "source.name"},
      {"/source/name", "other.gguf", "none of source_files"},
      {"/source/content_hash", "0123", "source.content_hash"},
      {"/source/more", 1, "source.more: no such field"},
      {"/fingerprints/F16", 7, "fingerprints.F16"},
      {"/fingerprints", ordered_json::array(), "fingerprints: must be an object"},
      {"/source_files", ordered_json::array(), "source_files: must be a list of 1"},
      {"/source_files/0/name", "/etc/passwd", "source_files[0].name"},
      {"/source_files/0/bytes", 0, "source_files[0].bytes"},
      {"/data_files/1/name", "a.bin", "data_files[1].name: stands twice"},
      {"/data_files/1/name", "packed.json", "data_files[1].name: stands twice"},
      {"/data_files/1/name", ".", "data_files[1].name"},
      {"/data_files/0/bytes", 12288, "data_files[0].bytes: 12288 must be 8192"},
      {"/data_files/0/bytes", 4096, "ranges[1].bytes"},
      {"/data_files/0/bytes", big, "data_files[0].bytes"},
      {"/ranges/0/name", "head", "ranges[2].name: \"head\" stands twice"},
      {"/ranges/0/file", "c.bin", "ranges[0].file"},
      {"/ranges/0/file", "b.bin", "ranges[1].file: ranges stand in the order"},
      {"/ranges/1/offset", 0, "ranges[1].offset: 0 must be 4096"},
      {"/ranges/1/offset", 8192, "ranges[1].offset: 8192 must be 4096"},
      {"/ranges/1/offset", -1, "ranges[1].offset: -1"},
      {"/ranges/1/offset", 4096.0, "ranges[1].offset: 4096.0"},
      {"/ranges/1/bytes", 4095, "ranges[1].bytes: 4095 is not a multiple of 4096"},
      {"/ranges/1/bytes", big, "ranges[1].bytes"},
      {"/ranges/1/xxh3", "0123456789ABCDEF", "ranges[1].xxh3"},
      {"/ranges/1/tensors", ordered_json::array(), "ranges[1].tensors"},
      {"/ranges/1/extra", 0, "ranges[1].extra: no such field"},
      {"/ranges/0/tensors/1/kind", "cube", "ranges[0].tensors[1].kind"},
      {"/ranges/0/tensors/1/dtype", "Q9", "ranges[0].tensors[1].dtype"},
      {"/ranges/0/tensors/1/row", -3, "ranges[0].tensors[1].row"},
      {"/ranges/0/tensors/1/shape", {16}, "ranges[0].tensors[1].shape"},
      {"/ranges/0/tensors/1/shape/0", 0, "ranges[0].tensors[1].shape[0]: 0"},
      {"/ranges/0/tensors/1/shape",
       {uint64_t{1} << 40, uint64_t{1} << 40},
       "ranges[0].tensors[1].shape[1]"},
      {"/ranges/0/tensors/1/offset", 960, "ranges[0].tensors[1].offset: 960 overlaps"},
      {"/ranges/0/tensors/1/offset", 1030, "is not a multiple of 64"},
      {"/ranges/0/tensors/1/offset", big, "ranges[0].tensors[1].offset"},
      {"/ranges/0/tensors/1/offset", 4096, "goes past the range"},
      {"/ranges/0/tensors/1/bytes", 3073, "goes past the range's 4096"},
      {"/ranges/0/tensors/1/bytes", (uint64_t{1} << 56) - 1, "goes past the range"},
      {"/ranges/0/tensors/1/bytes", 0, "ranges[0].tensors[1].bytes"},
      {"/ranges/1/tensors/0/row", 96, "ranges[1].tensors[0].name: \"up\" row 96 stands twice"},
      {"/ranges/2/tensors/0/bytes", 64, "ranges[2].tensors[0].bytes: 64 is not the size of 32"},
      {"/ranges/2/tensors/0/row", 0, "ranges[2].tensors[0].row: no such field"},
      {"/surprise", true, "surprise: no such field"},
  };
  for (const Hostile& h : cases) {
    ordered_json j = ExampleJson();
    j[Pointer(h.place)] = h.value;
    const auto m = ParsePackedManifest(Seal(j), "m.json");
    ASSERT_FALSE(m.ok()) << h.place << " = " << h.value;
    EXPECT_TRUE(absl::IsInvalidArgument(m.status())) << m.status();
    EXPECT_THAT(std::string(m.status().message()), HasSubstr(h.message));
    EXPECT_THAT(std::string(m.status().message()), HasSubstr("m.json: "));
  }
}

TEST(PackedManifestTest, NoFieldMayBeMissing) {
  const ordered_json flat = ExampleJson().flatten();
  for (const auto& [place, unused] : flat.items()) {
    const Pointer pointer(place);
    if (place == "/xxh3") continue;
    ordered_json j = ExampleJson();
    ordered_json& parent = j[pointer.parent_pointer()];
    if (!parent.is_object()) continue;
    parent.erase(pointer.back());
    const auto m = ParsePackedManifest(Seal(j), "m");
    ASSERT_FALSE(m.ok()) << place;
    EXPECT_THAT(std::string(m.status().message()), HasSubstr(pointer.back() + ": is missing"));
  }
}

}  // namespace
}  // namespace tutti::weights
