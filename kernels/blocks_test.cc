#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tutti::kernels {
namespace {

TEST(FileBlockTest, EncodingADecodedBlockGivesItsBytesBack) {
  std::mt19937 rng(5);
  for (int t = 0; t < kNumDTypes; ++t) {
    const auto dtype = static_cast<DType>(t);
    if (!Traits(dtype).quantized) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(Traits(dtype).block_bytes));
    for (int round = 0; round < 100; ++round) {
      // Any bytes are a block: every bit of every format means something.
      for (auto& b : bytes) b = static_cast<std::byte>(rng());
      RawBlock raw;
      DecodeFileBlock(dtype, bytes.data(), &raw);
      std::vector<std::byte> again(bytes.size());
      EncodeFileBlock(dtype, raw, again.data());
      ASSERT_EQ(bytes, again) << Traits(dtype).name;
    }
  }
}

}  // namespace
}  // namespace tutti::kernels
