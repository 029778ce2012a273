// The weights of the real model, dequantised by us, are those that the reference read from the
// file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/packed_matrix.h"
#include "shared/weights/model_files.h"

namespace tutti {
namespace {

TEST(DequantizeGoldenTest, EveryTensorOfSmolLm2EqualsTheReference) {
  const char* env = std::getenv("TUTTI_MODEL");
  const std::string path =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no model at " << path;
  const auto files = weights::ModelFiles::Open(path);
  ASSERT_TRUE(files.ok()) << files.status();
  std::ifstream in(TUTTI_SOURCE_DIR "/tests/data/models/smollm2/dequant_samples.json");
  const auto golden = nlohmann::json::parse(in);
  ASSERT_FALSE(golden.empty());

  for (const auto& entry : golden) {
    const auto name = entry["name"].get<std::string>();
    const weights::TensorInfo* tensor = (*files)->Find(name);
    ASSERT_NE(tensor, nullptr) << name;
    ASSERT_EQ(tensor->shape, entry["shape"].get<std::vector<int64_t>>()) << name;
    const int64_t cols = tensor->shape.back(), rows = tensor->NumElements() / cols;
    const auto packed = kernels::PackedMatrix::Pack(tensor->dtype, rows, cols, tensor->data);
    ASSERT_TRUE(packed.ok()) << packed.status();
    std::vector<float> row(static_cast<size_t>(cols));
    double sum = 0, abs_sum = 0;
    float low = INFINITY, high = -INFINITY;
    for (int64_t r = 0; r < rows; ++r) {
      packed->DequantizeRow(r, row.data());
      for (float v : row) {
        sum += v;
        abs_sum += std::fabs(v);
        low = std::min(low, v);
        high = std::max(high, v);
      }
      if (r == 0) {
        EXPECT_EQ(std::vector<float>(row.begin(), row.begin() + 32),
                  entry["first32"].get<std::vector<float>>())
            << name;
      }
      if (r == rows - 1) {
        EXPECT_EQ(std::vector<float>(row.end() - 32, row.end()),
                  entry["last32"].get<std::vector<float>>())
            << name;
      }
    }
    EXPECT_EQ(low, entry["min"].get<float>()) << name;
    EXPECT_EQ(high, entry["max"].get<float>()) << name;
    // Sums of up to 28 million doubles in another order: relative error below n * 2^-53.
    const double slack = static_cast<double>(rows * cols) * 0x1p-53 * abs_sum;
    EXPECT_NEAR(abs_sum, entry["abs_sum"].get<double>(), slack) << name;
    EXPECT_NEAR(sum, entry["sum"].get<double>(), slack) << name;
  }
}

}  // namespace
}  // namespace tutti
