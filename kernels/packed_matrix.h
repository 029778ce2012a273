// A weight matrix in the layout that the matmul kernels read: 16 output rows interleaved per 4 k,
// so that lane = output row on every instruction set (docs/determinism.md, G3 and "Layout").
//
// The layout is the same for every instruction set; packing changes no value. Per dtype it is
// described in packed_matrix.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "shared/base/status.h"
#include "shared/tensor/dtype.h"

namespace tutti::kernels {

inline constexpr int kLanes = 16;  // output rows of one group

// Owns its memory (64-byte aligned, huge pages where they help), or borrows it from a mapped file.
// Movable, immutable once packed, safe to share between threads.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Packs a row-major matrix [rows, cols] of `dtype` blocks, as in the file. Rows past the last one
  // of a group are zero weights.
  // Errors: INVALID_ARGUMENT  src has the wrong size, or cols is not a multiple of the block
  static absl::StatusOr<PackedMatrix> Pack(DType dtype, int64_t rows, int64_t cols,
                                           std::span<const std::byte> src);

  // A matrix whose packed bytes are there already: what data() gave when it was packed. `owner`
  // keeps them alive (a mapped file); they must not change.
  // Errors: INVALID_ARGUMENT  the size is not that of the shape, or the bytes are not 64-byte
  // aligned
  static absl::StatusOr<PackedMatrix> Borrow(DType dtype, int64_t rows, int64_t cols,
                                             std::span<const std::byte> packed,
                                             std::shared_ptr<const void> owner);

  // Rows [row_begin, row_begin + rows) of columns [col_begin, col_begin + cols), with the bytes
  // that Pack would make of them. Whole rows are borrowed from this matrix's memory where they are
  // aligned in it, all else is copied.
  // Errors: INVALID_ARGUMENT  outside, or not whole groups (but for the last one's end) of whole
  // blocks; RESOURCE_EXHAUSTED
  absl::StatusOr<PackedMatrix> Cut(int64_t row_begin, int64_t rows, int64_t col_begin,
                                   int64_t cols) const;

  // Of a matrix when packed. REQUIRES: Pack takes such a shape.
  static size_t PackedBytes(DType dtype, int64_t rows, int64_t cols);

  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t num_groups() const { return (rows_ + kLanes - 1) / kLanes; }
  size_t group_bytes() const { return group_bytes_; }
  size_t bytes() const { return group_bytes_ * static_cast<size_t>(num_groups()); }
  std::span<const std::byte> data() const { return {data_, bytes()}; }
  const std::byte* group(int64_t g) const { return data_ + g * group_bytes_; }
  bool quantized() const { return Traits(dtype_).quantized; }

  // Row `row` as f32 [cols], exactly the values that the format defines (embedding lookup).
  void DequantizeRow(int64_t row, float* out) const;

 private:
  DType dtype_ = DType::kF32;
  int64_t rows_ = 0, cols_ = 0;
  size_t group_bytes_ = 0;
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

// One row of file blocks to f32, `elements` a multiple of the block. Exact.
void DequantizeBlocks(DType dtype, const std::byte* src, int64_t elements, float* out);

}  // namespace tutti::kernels
