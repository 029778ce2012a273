#include "kernels/packed_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/testing.h"

namespace tutti::kernels {
namespace {
using ::testing::HasSubstr;

class PackedMatrixTest : public ::testing::TestWithParam<DType> {};

TEST_P(PackedMatrixTest, UnpacksToTheValuesOfTheFile) {
  const DType dtype = GetParam();
  const int block = Traits(dtype).block_elements;
  for (const auto& [rows, blocks] :
       {std::pair<int64_t, int64_t>{1, 1}, {16, 2}, {17, 3}, {47, 5}}) {
    const int64_t cols = blocks * block;
    const std::vector<std::byte> data = RandomWeights(dtype, rows, cols, 7);
    const auto w = PackedMatrix::Pack(dtype, rows, cols, data);
    ASSERT_TRUE(w.ok()) << w.status();
    const size_t row_bytes = data.size() / static_cast<size_t>(rows);
    std::vector<float> want(static_cast<size_t>(cols)), got(static_cast<size_t>(cols));
    for (int64_t row = 0; row < rows; ++row) {
      DequantizeBlocks(dtype, data.data() + row_bytes * static_cast<size_t>(row), cols,
                       want.data());
      w->DequantizeRow(row, got.data());
      ASSERT_EQ(std::memcmp(want.data(), got.data(), want.size() * 4), 0) << "row " << row;
    }
  }
}

TEST_P(PackedMatrixTest, TakesHardlyMoreMemoryThanTheFile) {
  const DType dtype = GetParam();
  const auto w = PackedMatrix::Pack(dtype, 32, 512, RandomWeights(dtype, 32, 512, 1));
  ASSERT_TRUE(w.ok());
  EXPECT_LE(static_cast<double>(w->bytes()),
            1.03 * static_cast<double>(*StorageBytes(dtype, 32 * 512)));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w->group(0)) % 64, 0u);
}

TEST_P(PackedMatrixTest, BorrowedBytesAreTheMatrixThatWasPacked) {
  const DType dtype = GetParam();
  const auto packed = PackedMatrix::Pack(dtype, 47, 512, RandomWeights(dtype, 47, 512, 3));
  ASSERT_TRUE(packed.ok());
  const auto owner = std::make_shared<int>(0);
  std::vector<float> want(512), got(512);
  {
    const auto w = PackedMatrix::Borrow(dtype, 47, 512, packed->data(), owner);
    ASSERT_TRUE(w.ok()) << w.status();
    EXPECT_EQ(w->group(0), packed->group(0));  // not a copy
    EXPECT_EQ(owner.use_count(), 2);
    for (int64_t row : {0, 15, 16, 46}) {
      packed->DequantizeRow(row, want.data());
      w->DequantizeRow(row, got.data());
      EXPECT_EQ(std::memcmp(want.data(), got.data(), 512 * 4), 0);
    }
  }
  EXPECT_EQ(owner.use_count(), 1);
  const auto refused = [&](int64_t rows, int64_t cols, std::span<const std::byte> bytes) {
    return PackedMatrix::Borrow(dtype, rows, cols, bytes, owner).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(47, 512, packed->data().first(packed->bytes() - 1)));
  EXPECT_TRUE(refused(49, 512, packed->data()));
  EXPECT_TRUE(refused(32, 512, packed->data()));
  EXPECT_TRUE(refused(0, 512, {}));
  EXPECT_TRUE(refused(int64_t{1} << 40, int64_t{1} << 40, packed->data()));
  const auto small = PackedMatrix::Pack(dtype, 1, 256, RandomWeights(dtype, 1, 256, 3));
  EXPECT_TRUE(refused(1, 256, packed->data().subspan(1, small->bytes())));  // not aligned
}

TEST_P(PackedMatrixTest, ACutIsWhatPackingThePartGives) {
  const DType dtype = GetParam();
  constexpr int64_t kRows = 77, kCols = 1024;
  const std::vector<std::byte> data = RandomWeights(dtype, kRows, kCols, 5);
  const size_t row_bytes = data.size() / kRows;
  const auto whole = PackedMatrix::Pack(dtype, kRows, kCols, data);
  ASSERT_TRUE(whole.ok()) << whole.status();
  struct Part {
    int64_t row, rows, col, cols;
  };
  for (const Part& p : {Part{0, kRows, 0, kCols}, Part{32, 16, 0, kCols}, Part{16, 61, 0, kCols},
                        Part{0, kRows, 256, 512}, Part{48, 29, 768, 256}, Part{64, 13, 0, 256}}) {
    std::vector<std::byte> rows;
    for (int64_t r = p.row; r < p.row + p.rows; ++r) {
      const auto* from = data.data() + row_bytes * static_cast<size_t>(r) +
                         row_bytes * static_cast<size_t>(p.col) / kCols;
      rows.insert(rows.end(), from, from + row_bytes * static_cast<size_t>(p.cols) / kCols);
    }
    const auto want = PackedMatrix::Pack(dtype, p.rows, p.cols, rows);
    const auto got = whole->Cut(p.row, p.rows, p.col, p.cols);
    ASSERT_TRUE(want.ok() && got.ok()) << want.status() << got.status();
    ASSERT_EQ(got->bytes(), want->bytes());
    EXPECT_EQ(got->bytes(), PackedMatrix::PackedBytes(dtype, p.rows, p.cols));
    EXPECT_EQ(std::memcmp(got->data().data(), want->data().data(), want->bytes()), 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(got->group(0)) % 64, 0u);
  }
  EXPECT_EQ(whole->Cut(0, 48, 0, kCols)->group(0), whole->group(0));  // not a copy
  for (const Part& p : {Part{8, 16, 0, kCols}, Part{0, 24, 0, kCols}, Part{64, 16, 0, kCols},
                        Part{-16, 16, 0, kCols}, Part{0, 16, 512, 1024}, Part{0, 0, 0, kCols},
                        Part{0, 16, -256, 256}, Part{int64_t{1} << 60, 16, 0, 256}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(whole->Cut(p.row, p.rows, p.col, p.cols).status()));
  }
}

TEST_P(PackedMatrixTest, RefusesDataOfTheWrongSize) {
  const DType dtype = GetParam();
  std::vector<std::byte> data = RandomWeights(dtype, 3, 256, 1);
  data.push_back(std::byte{0});
  EXPECT_EQ(PackedMatrix::Pack(dtype, 3, 256, data).status().code(),
            absl::StatusCode::kInvalidArgument);
  data.resize(data.size() - 2);
  EXPECT_EQ(PackedMatrix::Pack(dtype, 3, 256, data).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PackedMatrix::Pack(dtype, 0, 256, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PackedMatrix::Pack(dtype, int64_t{1} << 40, int64_t{1} << 40, data).status().code(),
            absl::StatusCode::kInvalidArgument);
  if (Traits(dtype).quantized) {
    EXPECT_THAT(std::string(PackedMatrix::Pack(dtype, 3, 250, data).status().message()),
                HasSubstr("whole blocks"));
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, PackedMatrixTest, ::testing::ValuesIn(kAllDTypes),
                         [](const auto& info) { return std::string(Traits(info.param).name); });

// Blocks written out by hand from the definition of the format, so that a mistake made twice (in
// packing and in unpacking) cannot hide.
TEST(BlockFormatTest, Q4_1IsNibbleTimesScalePlusMinimum) {
  std::vector<std::byte> block(20);
  const uint16_t d = FloatToHalf(0.5f), m = FloatToHalf(-1.25f);
  std::memcpy(block.data(), &d, 2);
  std::memcpy(block.data() + 2, &m, 2);
  block[4] = std::byte{0xA3};  // element 0 is 3, element 16 is 10
  float out[32];
  DequantizeBlocks(DType::kQ4_1, block.data(), 32, out);
  EXPECT_EQ(out[0], 0.25f);
  EXPECT_EQ(out[16], 3.75f);
  EXPECT_EQ(out[1], -1.25f);
}

TEST(BlockFormatTest, Q5_0HasItsFifthBitsInOneWord) {
  std::vector<std::byte> block(22);
  const uint16_t d = FloatToHalf(1.0f);
  std::memcpy(block.data(), &d, 2);
  block[2] = std::byte{0x02};  // element 1
  block[5] = std::byte{0x80};  // element 31
  block[6 + 15] = std::byte{0xF0};
  float out[32];
  DequantizeBlocks(DType::kQ5_0, block.data(), 32, out);
  EXPECT_EQ(out[0], -16.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[31], 15.0f);
}

TEST(BlockFormatTest, Q4_KHasSixBitScalesInTwoPlaces) {
  std::vector<std::byte> block(144);
  const uint16_t one = FloatToHalf(1.0f);
  std::memcpy(block.data(), &one, 2);
  std::memcpy(block.data() + 2, &one, 2);
  block[4 + 0] = std::byte{0xC0 | 5};  // scale 0 = 5; upper bits of scale 4 = 3
  block[4 + 4] = std::byte{0x40 | 7};  // minimum 0 = 7; upper bits of minimum 4 = 1
  block[4 + 8] = std::byte{0x29};      // scale 4 = 3 << 4 | 9 = 57; minimum 4 = 1 << 4 | 2 = 18
  block[16] = std::byte{0xB4};         // sub-block 0 element 0 is 4; sub-block 1 element 0 is 11
  block[16 + 64] = std::byte{0x0F};    // sub-block 4 element 0 is 15
  float out[256];
  DequantizeBlocks(DType::kQ4_K, block.data(), 256, out);
  EXPECT_EQ(out[0], 4.0f * 5 - 7);
  EXPECT_EQ(out[1], -7.0f);
  EXPECT_EQ(out[32], 0.0f);  // scale and minimum 1 are 0
  EXPECT_EQ(out[128], 15.0f * 57 - 18);
}

TEST(BlockFormatTest, Q6_KHasFourRunsSharingTheirBitPairs) {
  std::vector<std::byte> block(210);
  const uint16_t two = FloatToHalf(2.0f);
  std::memcpy(block.data() + 208, &two, 2);
  for (int i = 0; i < 16; ++i) block[static_cast<size_t>(192 + i)] = std::byte{1};
  block[192 + 6] = static_cast<std::byte>(-3);  // run 3 of the first half
  block[0] = std::byte{0x21};                   // runs 0 and 2: 1 and 2
  block[32] = std::byte{0x43};                  // runs 1 and 3: 3 and 4
  block[128] = std::byte{0xE4};                 // upper bits 0, 1, 2, 3
  float out[256];
  DequantizeBlocks(DType::kQ6_K, block.data(), 256, out);
  EXPECT_EQ(out[0], 2.0f * (1 - 32));
  EXPECT_EQ(out[32], 2.0f * (3 + 16 - 32));
  EXPECT_EQ(out[64], 2.0f * (2 + 32 - 32));
  EXPECT_EQ(out[96], 2.0f * -3 * (4 + 48 - 32));
}

}  // namespace
}  // namespace tutti::kernels
