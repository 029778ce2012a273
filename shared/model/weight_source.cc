#include "shared/model/weight_source.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

class PackingSource final : public WeightSource {
 public:
  explicit PackingSource(const weights::ModelFiles& files) : files_(files) {}

  absl::StatusOr<kernels::PackedMatrix> Get(const MatrixPart& part) const override {
    const weights::TensorInfo& t = *part.tensor;
    std::span<const std::byte> src;
    std::vector<std::byte> turned;
    if (part.transposed) {
      turned = Turn(part);
      src = turned;
    } else if (part.stored_cols > part.cols) {
      turned = Cut(part);
      src = turned;
    } else {
      // Of all but the innermost dimension: experts may be stacked, and a row may be a vector.
      const int64_t rows = t.NumElements() / part.cols;
      const size_t row_bytes = t.data.size() / static_cast<size_t>(rows);
      src = t.data.subspan(row_bytes * static_cast<size_t>(part.row_begin),
                           row_bytes * static_cast<size_t>(part.rows));
    }
    auto packed = kernels::PackedMatrix::Pack(part.dtype(), part.rows, part.cols, src);
    if (!packed.ok()) return Annotate(packed.status(), "tensor " + Printable(t.name));
    files_.DropPages(t);
    return packed;
  }

 private:
  static std::vector<std::byte> Turn(const MatrixPart& part) {
    const weights::TensorInfo& t = *part.tensor;
    const auto element = static_cast<size_t>(Traits(part.dtype()).block_bytes);
    const int64_t stored_cols = t.shape[1];
    std::span<const std::byte> stored = t.data.subspan(
        t.data.size() / static_cast<size_t>(t.shape[0]) * static_cast<size_t>(part.col_begin));
    std::vector<float> widened;
    if (part.dtype() != t.dtype) {
      widened.resize(static_cast<size_t>(part.cols * stored_cols));
      kernels::DequantizeBlocks(t.dtype, stored.data(), part.cols * stored_cols, widened.data());
      stored = std::as_bytes(std::span(widened));
    }
    std::vector<std::byte> turned(element * static_cast<size_t>(part.rows * part.cols));
    for (int64_t r = 0; r < part.rows; ++r) {
      for (int64_t k = 0; k < part.cols; ++k) {
        std::memcpy(
            turned.data() + element * static_cast<size_t>(r * part.cols + k),
            stored.data() + element * static_cast<size_t>(k * stored_cols + part.row_begin + r),
            element);
      }
    }
    return turned;
  }

  // Columns of a slice start and end at whole blocks (multiples of 256, or the row's end).
  static std::vector<std::byte> Cut(const MatrixPart& part) {
    const weights::TensorInfo& t = *part.tensor;
    const DTypeTraits& traits = Traits(t.dtype);
    const auto bytes_of = [&](int64_t cols) {
      return static_cast<size_t>(cols / traits.block_elements) *
             static_cast<size_t>(traits.block_bytes);
    };
    const size_t row = bytes_of(part.stored_cols), begin = bytes_of(part.col_begin),
                 width = bytes_of(part.cols);
    std::vector<std::byte> cut(width * static_cast<size_t>(part.rows));
    for (int64_t r = 0; r < part.rows; ++r) {
      std::memcpy(cut.data() + width * static_cast<size_t>(r),
                  t.data.data() + row * static_cast<size_t>(part.row_begin + r) + begin, width);
    }
    return cut;
  }

  const weights::ModelFiles& files_;
};

class MappedSource final : public WeightSource {
 public:
  explicit MappedSource(std::shared_ptr<const weights::PackedFiles> packed)
      : packed_(std::move(packed)) {}

  absl::StatusOr<kernels::PackedMatrix> Get(const MatrixPart& part) const override {
    const weights::TensorInfo& t = *part.tensor;
    const int64_t row = part.first_stored_row();
    const auto piece = part.slice ? packed_->FindWithRow(t.name, row) : packed_->Find(t.name, row);
    const std::string what = absl::StrCat(weights::kPackedManifest, ": tensor ", Printable(t.name),
                                          row > 0 ? absl::StrCat(" from row ", row) : "");
    if (piece.tensor == nullptr || piece.tensor->kind != weights::PackedTensor::Kind::kMatrix)
      return absl::InvalidArgumentError(what + " is missing as a matrix");
    const std::vector<int64_t>& shape = piece.tensor->shape;
    const bool fits = part.slice ? shape.size() == 2 : shape == std::vector{part.rows, part.cols};
    if (piece.tensor->dtype != part.dtype() || !fits) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": ", ToAbsl(Traits(piece.tensor->dtype).name), " [",
                       absl::StrJoin(piece.tensor->shape, ", "), "] must be ",
                       ToAbsl(Traits(part.dtype()).name), " [", part.rows, ", ", part.cols, "]"));
    }
    auto matrix =
        kernels::PackedMatrix::Borrow(part.dtype(), shape[0], shape[1], piece.data, packed_);
    if (part.slice && matrix.ok())
      matrix = matrix->Cut(row - piece.tensor->row, part.rows, part.col_begin, part.cols);
    if (!matrix.ok()) return Annotate(matrix.status(), what);
    return matrix;
  }

 private:
  std::shared_ptr<const weights::PackedFiles> packed_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeWeightSource(const weights::ModelFiles& files) {
  if (files.packed() != nullptr) return std::make_unique<MappedSource>(files.packed());
  return std::make_unique<PackingSource>(files);
}

}  // namespace tutti::model
