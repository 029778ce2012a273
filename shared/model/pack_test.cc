// A packed directory is its source, or it is refused with the place that is wrong.
#include "shared/model/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "shared/base/hash.h"
#include "shared/model/single_sequence.h"
#include "shared/model/testing_llama.h"
#include "shared/weights/packed_manifest.h"

namespace tutti::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using ::testing::AnyOf;
using ::testing::HasSubstr;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
void Write(const std::string& path, std::string_view content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(content.data(), content.size());
}
std::string Message(const absl::Status& status) { return std::string(status.message()); }

class PackTest : public ::testing::Test {
 protected:
  PackTest() {
    source_ = dir_.Write("tiny.gguf", TinyLlama().Image());
    out_ = dir_.path() + "/packed";
  }
  absl::Status Pack(bool replace = false) {
    return PackModel({.source = source_, .out = out_, .replace = replace}).status();
  }
  absl::Status Load() const { return LoadDecoder(out_, {}).status(); }
  std::vector<std::string> Files() const {
    return {out_ + "/packed.json", out_ + "/source/tiny.gguf", out_ + "/weights.bin"};
  }
  // Changes the manifest as someone would who can compute its checksum.
  absl::Status LoadForged(const std::function<void(ordered_json&)>& change) {
    const std::string clean = Read(out_ + "/packed.json");
    ordered_json j = ordered_json::parse(clean);
    change(j);
    j.erase("xxh3");
    const std::string rest = j.dump(1).substr(2);
    Write(out_ + "/packed.json", weights::SealLine(rest) + rest);
    const absl::Status status = Load();
    Write(out_ + "/packed.json", clean);
    return status;
  }
  static ordered_json& Tensor(ordered_json& j, const std::string& name) {
    for (auto& range : j["ranges"]) {
      for (auto& t : range["tensors"]) {
        if (t["name"] == name) return t;
      }
    }
    ADD_FAILURE() << name;
    return j;
  }

  tutti::testing::TempDir dir_;
  std::string source_, out_;
};

TEST_F(PackTest, GivesTheSourcesBitsAndFingerprintWithoutTheSource) {
  const std::vector<int32_t> ids = {1, 5, 9, 47, 3};
  std::vector<std::vector<float>> logits;
  std::vector<ModelInfo> infos;
  for (const DType kv : {DType::kF16, DType::kF32}) {
    const auto model = LoadDecoder(source_, {.kv_dtype = kv});
    ASSERT_TRUE(model.ok());
    infos.push_back((*model)->info());
    logits.push_back(*PromptLogits(model->get(), ids));
  }
  ASSERT_TRUE(Pack().ok());
  fs::remove(source_);
  for (size_t i = 0; i < 2; ++i) {
    const auto model = LoadDecoder(out_, {.kv_dtype = i == 0 ? DType::kF16 : DType::kF32});
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->info().fingerprint, infos[i].fingerprint);
    EXPECT_EQ((*model)->info().name, infos[i].name);
    EXPECT_EQ((*model)->info().eos_ids, infos[i].eos_ids);
    EXPECT_EQ((*model)->info().weight_bytes, infos[i].weight_bytes);
    const auto got = PromptLogits(model->get(), ids);
    ASSERT_TRUE(got.ok() && got->size() == logits[i].size());
    EXPECT_EQ(std::memcmp(got->data(), logits[i].data(), got->size() * sizeof(float)), 0);
  }
}

TEST_F(PackTest, AModelIsNamedAfterItsSourceNotAfterTheDirectory) {
  const std::string source = dir_.path() + "/llama_gqa";
  fs::copy(TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa", source);
  ASSERT_TRUE(PackModel({.source = source, .out = out_}).ok());
  const auto model = LoadDecoder(out_, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().name, "llama_gqa");
}

TEST_F(PackTest, PartsOfLayersAreRangesOfTheirOwn) {
  ASSERT_TRUE(Pack().ok());
  const auto m = weights::ParsePackedManifest(Read(out_ + "/packed.json"), "m");
  ASSERT_TRUE(m.ok()) << m.status();
  std::vector<std::string> names;
  const std::string data = Read(out_ + "/weights.bin");
  for (const auto& r : m->ranges) {
    names.push_back(r.name);
    EXPECT_EQ(Hash64(data.data() + r.offset, r.bytes), r.xxh3) << r.name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"embedding", "layers.0.attention", "layers.0.ffn",
                                             "layers.1.attention", "layers.1.ffn", "head"}));
}

TEST_F(PackTest, ItsBytesDependOnTheSourceAlone) {
  ThreadPool pool({.num_threads = 3});
  ASSERT_TRUE(Pack().ok());
  ASSERT_TRUE(PackModel({.source = source_, .out = out_ + "2", .pool = &pool}).ok());
  for (const char* name : {"/packed.json", "/weights.bin", "/source/tiny.gguf"})
    EXPECT_EQ(Read(out_ + name), Read(out_ + "2" + name)) << name;
}

TEST_F(PackTest, EveryFlippedBitIsRefusedWithTheFilesName) {
  ASSERT_TRUE(Pack().ok());
  for (const std::string& path : Files()) {
    const std::string clean = Read(path);
    const std::string name = fs::path(path).filename();
    // One bit of every few bytes: headers, tensors and padding. (Every bit of a manifest:
    // weights_packed_manifest_test.)
    const size_t stride = name == "weights.bin" ? 61 : 7;
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto put = [&](size_t i, char c) { file.seekp(static_cast<int64_t>(i)).put(c).flush(); };
    for (size_t i = 0; i < clean.size(); i += stride) {
      put(i, static_cast<char>(clean[i] ^ (1 << (i % 8))));
      const absl::Status status = Load();
      put(i, clean[i]);
      ASSERT_FALSE(status.ok()) << path << " byte " << i;
      ASSERT_THAT(Message(status), HasSubstr(name));
      ASSERT_TRUE(absl::IsDataLoss(status) || absl::IsInvalidArgument(status)) << status;
    }
  }
  EXPECT_TRUE(Load().ok());
}

TEST_F(PackTest, ADamagedTensorIsNamed) {
  ASSERT_TRUE(Pack().ok());
  const auto m = weights::ParsePackedManifest(Read(out_ + "/packed.json"), "m");
  const auto& range = m->ranges[2];
  std::string bad = Read(out_ + "/weights.bin");
  bad[range.offset + range.tensors[1].offset + 5] ^= 1;
  Write(out_ + "/weights.bin", bad);
  EXPECT_THAT(Message(Load()), HasSubstr("range layers.0.ffn"));
  EXPECT_THAT(Message(Load()), HasSubstr("tensor " + range.tensors[1].name));
  const auto verified = VerifyPackedModel(out_, {});
  EXPECT_TRUE(absl::IsDataLoss(verified.status())) << verified.status();
}

TEST_F(PackTest, EveryTruncationIsRefusedWithTheFilesName) {
  ASSERT_TRUE(Pack().ok());
  for (const std::string& path : Files()) {
    const std::string clean = Read(path);
    const std::string name = fs::path(path).filename();
    for (size_t n = 0; n < clean.size(); n += name == "weights.bin" ? 499 : 13) {
      Write(path, clean.substr(0, n));
      ASSERT_THAT(Message(Load()), HasSubstr(name)) << n;
    }
    Write(path, clean + "x");
    ASSERT_THAT(Message(Load()), HasSubstr(name));
    fs::remove(path);
    EXPECT_FALSE(Load().ok());
    Write(path, clean);
  }
}

TEST_F(PackTest, AFileThatTheManifestDoesNotKnowIsRefused) {
  ASSERT_TRUE(Pack().ok());
  Write(out_ + "/source/generation_config.json", "{}");
  EXPECT_THAT(Message(Load()), HasSubstr("does not know"));
}

TEST_F(PackTest, AForgedManifestMustStillFitTheModel) {
  ASSERT_TRUE(Pack().ok());
  EXPECT_TRUE(LoadForged([](ordered_json&) {}).ok());
  const auto message = [&](const std::function<void(ordered_json&)>& change) {
    return Message(LoadForged(change));
  };
  const std::string up = "blk.1.ffn_up.weight", norm = "blk.1.ffn_norm.weight";
  EXPECT_THAT(message([&](auto& j) {
                Tensor(j, up)["shape"] = {32, 64};
              }),
              HasSubstr(up + ": F32 [32, 64] must be F32 [64, 32]"));
  EXPECT_THAT(message([&](auto& j) { Tensor(j, up)["dtype"] = "F16"; }), HasSubstr("must be F32"));
  EXPECT_THAT(message([&](auto& j) { Tensor(j, up)["bytes"] = 4096; }),
              HasSubstr("should be 8192"));
  EXPECT_THAT(message([&](auto& j) { Tensor(j, up)["row"] = 16; }), HasSubstr(up + " is missing"));
  EXPECT_THAT(message([&](auto& j) { Tensor(j, norm)["name"] = "blk.9.ffn_norm.weight"; }),
              HasSubstr(norm));
  EXPECT_THAT(message([&](auto& j) {
                Tensor(j, norm)["dtype"] = "F16";
                Tensor(j, norm)["bytes"] = 64;
              }),
              HasSubstr("as a vector of 32 F32"));
  // One that lies about what the model is.
  for (const char* field : {"content_hash"}) {
    const absl::Status status =
        LoadForged([&](auto& j) { j["source"][field] = "0000000000000001"; });
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("fingerprints.F16"));
  }
}

TEST_F(PackTest, ReplacesPackedDirectoriesAloneAndOnlyWhenAsked) {
  ASSERT_TRUE(Pack().ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Pack()));
  Write(out_ + "/weights.bin", "damaged");
  EXPECT_TRUE(Pack(/*replace=*/true).ok());
  EXPECT_TRUE(Load().ok());
  fs::remove_all(out_);
  fs::create_directory(out_);
  Write(out_ + "/thesis.txt", "years of work");
  EXPECT_TRUE(absl::IsFailedPrecondition(Pack(/*replace=*/true)));
  EXPECT_EQ(Read(out_ + "/thesis.txt"), "years of work");
}

TEST_F(PackTest, WhatFailsOrIsCancelledLeavesNothingBehind) {
  const auto entries = [&] {
    return std::distance(fs::directory_iterator(dir_.path()), fs::directory_iterator());
  };
  const auto before = entries();
  int asked = 0;
  const auto cancelled =
      PackModel({.source = source_, .out = out_, .cancelled = [&] { return ++asked == 3; }});
  EXPECT_TRUE(absl::IsCancelled(cancelled.status())) << cancelled.status();
  EXPECT_EQ(entries(), before);
  TinyLlama broken;
  broken.skip = "blk.1.attn_k.weight";
  source_ = dir_.Write("tiny.gguf", broken.Image());
  EXPECT_THAT(Message(Pack()), HasSubstr("blk.1.attn_k.weight is missing"));
  EXPECT_EQ(entries(), before);
}

TEST_F(PackTest, PackingAPackedDirectoryIsRefused) {
  ASSERT_TRUE(Pack().ok());
  source_ = out_;
  out_ += "2";
  EXPECT_THAT(Message(Pack()), HasSubstr("is a packed directory already"));
}

TEST_F(PackTest, VerifyingAGoodOneSaysWhatItIs) {
  ASSERT_TRUE(Pack().ok());
  const auto summary = VerifyPackedModel(out_, {});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->fingerprint, (*LoadDecoder(source_, {}))->info().fingerprint);
  EXPECT_EQ(summary->num_ranges, 6u);
  EXPECT_TRUE(absl::IsInvalidArgument(VerifyPackedModel(source_, {}).status()));
}

}  // namespace
}  // namespace tutti::model
