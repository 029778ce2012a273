#include "shared/weights/gguf_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "shared/testing/model_writer.h"
#include "shared/weights/gguf.h"

namespace tutti::weights {
namespace {

std::string Read(const std::string& path) {
  std::stringstream s;
  s << std::ifstream(path, std::ios::binary).rdbuf();
  return s.str();
}
std::span<const std::byte> Bytes(const std::string& s) { return std::as_bytes(std::span(s)); }

std::string SourceImage(uint32_t alignment) {
  std::vector<float> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  return testing::GgufWriter(3, alignment)
      .String("general.architecture", "llama")
      .U32("general.file_type", 0)
      .Strings("tokens", {"a", "b\xFF"})
      .F32("eps", 0.1f)
      .Tensor("a", {3}, std::vector<float>{1, 2, 3})
      .Tensor("b", {2, 32}, x, DType::kQ8_0)
      .Tensor("c", {1}, std::vector<float>{7})
      .Image();
}

// A copy of `image` through the parser and the stream, tensor data in pieces of `piece` bytes.
std::string Copied(const std::string& image, size_t piece, bool finish = true,
                   std::function<void(GgufMetadata&)> change = nullptr) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/copy.gguf";
  const auto source = ParseGguf(Bytes(image), "source");
  EXPECT_TRUE(source.ok()) << source.status();
  GgufMetadata metadata;
  for (const GgufValue& v : source->values) metadata.Copy(v.key, v.bytes);
  if (change) change(metadata);
  std::vector<GgufTensor> tensors;
  for (const TensorInfo& t : source->tensors) tensors.push_back({t.name, t.shape, t.dtype});
  auto stream = GgufStream::Create(path, metadata, tensors, source->alignment);
  EXPECT_TRUE(stream.ok()) << stream.status();
  for (const TensorInfo& t : source->tensors) {
    for (size_t at = 0; at < t.data.size(); at += piece)
      EXPECT_TRUE((*stream)->Append(t.data.subspan(at, std::min(piece, t.data.size() - at))).ok());
  }
  if (finish) {
    const auto size = (*stream)->Finish();
    EXPECT_TRUE(size.ok() && *size == std::filesystem::file_size(path));
  }
  stream->reset();
  EXPECT_EQ(std::filesystem::is_empty(dir.path()), !finish);
  return finish ? Read(path) : "";
}

TEST(GgufStreamTest, ACopyIsTheSameFileToTheByte) {
  for (const uint32_t alignment : {32u, 64u, 8u}) {
    std::string image = SourceImage(alignment);
    image.resize((image.size() + alignment - 1) / alignment * alignment);  // the last one's padding
    EXPECT_EQ(Copied(image, 1 << 20), image) << alignment;
    EXPECT_EQ(Copied(image, 5), image) << alignment;
  }
}

TEST(GgufStreamTest, NothingIsLeftOfAFileThatWasNotFinished) {
  EXPECT_EQ(Copied(SourceImage(32), 64, false), "");
}

TEST(GgufStreamTest, ASetValueTakesThePlaceOfTheOldOneOrComesLast) {
  const std::string changed = Copied(SourceImage(32), 64, true, [](GgufMetadata& m) {
    m.SetU32("general.file_type", 7);
    m.SetU32("general.quantization_version", 2);
  });
  const auto parsed = ParseGguf(Bytes(changed), "changed");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  std::vector<std::string> keys;
  for (const GgufValue& v : parsed->values) keys.emplace_back(v.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"general.architecture", "general.file_type", "tokens",
                                            "eps", "general.quantization_version"}));
  EXPECT_EQ(parsed->metadata["general.file_type"], 7);
  EXPECT_EQ(parsed->metadata["general.quantization_version"], 2);
}

}  // namespace
}  // namespace tutti::weights
