// A model with layers left out.
#include "shared/model/skip_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "shared/model/load.h"
#include "shared/model/pack.h"
#include "shared/model/testing_llama.h"
#include "shared/model/testing_run.h"

namespace tutti::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<ModelRun> RunWith(const std::string& path, const std::string& skip) {
  LoadOptions options;
  options.skip_layers = skip;
  return RunModel(path, options);
}

TinyLlama FiveLayers() {
  TinyLlama tiny;
  tiny.layers = 5;
  return tiny;
}

TEST(SkipLayersTest, ASkippedLayerAddsNothing) {
  const tutti::testing::TempDir dir;
  const std::string whole = dir.Write("whole.gguf", FiveLayers().Image());
  // The same model, but what layers 1 and 3 add is zero.
  TinyLlama idle = FiveLayers();
  idle.spoil = [](const std::string& name, std::vector<int64_t>&, std::vector<float>& values) {
    const bool layer = name.starts_with("blk.1.") || name.starts_with("blk.3.");
    const bool last = name.find("attn_output") != name.npos || name.find("ffn_down") != name.npos;
    if (layer && last) std::fill(values.begin(), values.end(), 0.0f);
  };
  const auto skipped = RunWith(whole, "1,3");
  const auto zeroed = RunWith(dir.Write("idle.gguf", idle.Image()), "");
  const auto plain = RunWith(whole, "");
  ASSERT_TRUE(skipped.ok() && zeroed.ok() && plain.ok()) << skipped.status();
  EXPECT_TRUE(SameBits(*skipped, *zeroed));
  EXPECT_FALSE(SameBits(*skipped, *plain));
}

TEST(SkipLayersTest, EverySetOfLayersIsAModelOfItsOwn) {
  const tutti::testing::TempDir dir;
  const std::string path = dir.Write("whole.gguf", FiveLayers().Image());
  std::vector<uint64_t> fingerprints;
  for (const char* skip : {"", "1", "3", "1,3", "0-3"}) {
    const auto result = RunWith(path, skip);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(std::count(fingerprints.begin(), fingerprints.end(), result->fingerprint), 0) << skip;
    fingerprints.push_back(result->fingerprint);
  }
  EXPECT_EQ(RunWith(path, "1-3")->fingerprint, RunWith(path, "3,1,2")->fingerprint);
}

TEST(SkipLayersTest, APackedDirectoryGivesTheSame) {
  const tutti::testing::TempDir dir;
  const std::string path = dir.Write("whole.gguf", FiveLayers().Image());
  const std::string packed = dir.path() + "/packed";
  ASSERT_TRUE(PackModel({.source = path, .out = packed}).ok());
  const auto a = RunWith(path, "2,4"), b = RunWith(packed, "2,4");
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_TRUE(SameBits(*a, *b));
  EXPECT_EQ(a->fingerprint, b->fingerprint);
}

TEST(SkipLayersTest, ListsAreReadOrRefused) {
  EXPECT_THAT(*ParseLayers("7,2-4", 10), ElementsAre(2, 3, 4, 7));
  EXPECT_THAT(*ParseLayers("auto", 1), IsEmpty());
  for (const char* bad : {"", ",", "1,", "x", "1-", "-1", "4-2", "10", "2-10", "1 2", "0-9"}) {
    const auto status = ParseLayers(bad, 10).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("skip_layers: ")) << bad;
  }
}

TEST(SkipLayersTest, TheDefaultLeavesMostAndTheEnds) {
  for (int n = 1; n <= 100; ++n) {
    const std::vector<int> skipped = DefaultSkippedLayers(n);
    EXPECT_LE(static_cast<int>(skipped.size()), n / 2) << n;
    for (int layer : skipped) {
      EXPECT_GE(layer, 1);
      EXPECT_LT(layer, n - 1);
    }
  }
  EXPECT_FALSE(DefaultSkippedLayers(12).empty());
}

}  // namespace
}  // namespace tutti::model
