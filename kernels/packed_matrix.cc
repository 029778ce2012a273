#include "kernels/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <string>

#include "kernels/packed_layout.h"

namespace tutti::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlab = size_t{8} << 20;

// Weight memory comes from slabs, so that the many small matrices of a model share huge pages (one
// TLB entry per 2 MB instead of 512). A slab lives as long as a matrix in it.
struct Slab {
  explicit Slab(size_t bytes) {
    // One huge page more than asked for, so that the start can be aligned; the slack is given back.
    const size_t reserve = bytes + kHugePage;
    void* p = mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    const auto address = reinterpret_cast<uintptr_t>(p);
    const uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
    if (aligned > address) munmap(p, aligned - address);
    const size_t tail = address + reserve - (aligned + bytes);
    if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
    data = reinterpret_cast<std::byte*>(aligned);
    size = bytes;
    madvise(data, size, MADV_HUGEPAGE);
  }
  ~Slab() {
    if (data != nullptr) munmap(data, size);
  }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::byte* data = nullptr;
  size_t size = 0, used = 0;
};

struct Memory {
  std::byte* data = nullptr;
  std::shared_ptr<void> owner;
};

// Zeroed, 64-byte aligned. data is null when there is no memory.
Memory Allocate(size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Slab> current;
  const size_t padded = (bytes + 63) / 64 * 64;
  if (padded >= kSlab / 2) {
    const size_t whole = (padded + 4095) / 4096 * 4096;
    auto slab = std::make_shared<Slab>(whole);
    return {slab->data, slab};
  }
  std::lock_guard lock(mutex);
  std::shared_ptr<Slab> slab = current.lock();
  if (slab == nullptr || slab->size - slab->used < padded) {
    slab = std::make_shared<Slab>(kSlab);
    if (slab->data == nullptr) return {};
    current = slab;
  }
  std::byte* data = slab->data + slab->used;
  slab->used += padded;
  return {data, slab};
}

void PutU16(std::byte* p, uint16_t v) { std::memcpy(p, &v, 2); }
uint16_t GetU16(const std::byte* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}

// Bits of the integers that live in the chunks; the rest is in the fifth bits or bit pairs.
bool WholeBytes(DType dtype) { return dtype == DType::kQ8_0; }

}  // namespace

void WritePackedBlock(DType dtype, const RawBlock& raw, int row, std::byte* block) {
  const PackedLayout layout = LayoutOf(dtype);
  PutU16(block + 2 * row, raw.d);
  if (layout.m_offset >= 0) PutU16(block + layout.m_offset + 2 * row, raw.m);
  const int parts = layout.block_k / 32;
  for (int part = 0; part < parts; ++part) {
    auto* base = reinterpret_cast<uint8_t*>(block) + layout.parts_offset + part * layout.part_bytes;
    const uint8_t* u = raw.u + 32 * part;
    uint8_t* quants = base + layout.quants_offset + 4 * row;
    if (WholeBytes(dtype)) {
      for (int c = 0; c < 8; ++c) std::memcpy(quants + 64 * c, u + 4 * c, 4);
      continue;
    }
    for (int c = 0; c < 4; ++c) {
      for (int i = 0; i < 4; ++i) {
        quants[64 * c + i] = static_cast<uint8_t>((u[8 * c + i] & 15) | (u[8 * c + 4 + i] << 4));
      }
    }
    if (dtype == DType::kQ6_K) {
      base[layout.scales_offset + row] = raw.sc[2 * part];
      base[layout.scales_offset + 16 + row] = raw.sc[2 * part + 1];
      uint8_t* pairs = base + layout.high_offset + 4 * row;
      for (int k = 0; k < 32; ++k) {
        pairs[64 * (k / 16) + k % 4] |= static_cast<uint8_t>((u[k] >> 4) << (2 * (k / 4 % 4)));
      }
      continue;
    }
    if (layout.scales_offset >= 0) {
      base[layout.scales_offset + row] = raw.sc[part];
      base[layout.mins_offset + row] = raw.mn[part];
    }
    if (layout.high_offset >= 0) {
      uint8_t* bits = base + layout.high_offset + 4 * row;
      for (int k = 0; k < 32; ++k) bits[k % 4] |= static_cast<uint8_t>((u[k] >> 4) << (k / 4));
    }
  }
}

void ReadPackedBlock(DType dtype, const std::byte* block, int row, RawBlock* out) {
  const PackedLayout layout = LayoutOf(dtype);
  out->d = GetU16(block + 2 * row);
  out->m = layout.m_offset >= 0 ? GetU16(block + layout.m_offset + 2 * row) : 0;
  const int parts = layout.block_k / 32;
  for (int part = 0; part < parts; ++part) {
    const auto* base =
        reinterpret_cast<const uint8_t*>(block) + layout.parts_offset + part * layout.part_bytes;
    uint8_t* u = out->u + 32 * part;
    const uint8_t* quants = base + layout.quants_offset + 4 * row;
    if (WholeBytes(dtype)) {
      for (int c = 0; c < 8; ++c) std::memcpy(u + 4 * c, quants + 64 * c, 4);
      continue;
    }
    for (int c = 0; c < 4; ++c) {
      for (int i = 0; i < 4; ++i) {
        u[8 * c + i] = quants[64 * c + i] & 15;
        u[8 * c + 4 + i] = quants[64 * c + i] >> 4;
      }
    }
    if (dtype == DType::kQ6_K) {
      out->sc[2 * part] = base[layout.scales_offset + row];
      out->sc[2 * part + 1] = base[layout.scales_offset + 16 + row];
      const uint8_t* pairs = base + layout.high_offset + 4 * row;
      for (int k = 0; k < 32; ++k) {
        u[k] |=
            static_cast<uint8_t>(((pairs[64 * (k / 16) + k % 4] >> (2 * (k / 4 % 4))) & 3) << 4);
      }
      continue;
    }
    if (layout.scales_offset >= 0) {
      out->sc[part] = base[layout.scales_offset + row];
      out->mn[part] = base[layout.mins_offset + row];
    }
    if (layout.high_offset >= 0) {
      const uint8_t* bits = base + layout.high_offset + 4 * row;
      for (int k = 0; k < 32; ++k)
        u[k] |= static_cast<uint8_t>(((bits[k % 4] >> (k / 4)) & 1) << 4);
    }
  }
}

namespace {

// So that no product of rows, columns and bytes overflows, with rows rounded up to a group.
absl::Status CheckShape(DType dtype, int64_t rows, int64_t cols) {
  const DTypeTraits& traits = Traits(dtype);
  if (rows < 1 || cols < 1 || rows > std::numeric_limits<int64_t>::max() / cols / 1024) {
    return absl::InvalidArgumentError("matrix of " + std::to_string(rows) + " x " +
                                      std::to_string(cols) +
                                      ": both must be at least 1 and the product small enough");
  }
  if (cols % traits.block_elements != 0) {
    return absl::InvalidArgumentError(
        "a row of " + std::to_string(cols) + " elements is not whole blocks of " +
        std::to_string(traits.block_elements) + " (" + std::string(traits.name) + ")");
  }
  return absl::OkStatus();
}

size_t GroupBytes(DType dtype, int64_t cols) {
  const PackedLayout layout = LayoutOf(dtype);
  return static_cast<size_t>(cols / layout.block_k) * static_cast<size_t>(layout.block_bytes);
}

}  // namespace

size_t PackedMatrix::PackedBytes(DType dtype, int64_t rows, int64_t cols) {
  return GroupBytes(dtype, cols) * static_cast<size_t>((rows + kLanes - 1) / kLanes);
}

absl::StatusOr<PackedMatrix> PackedMatrix::Borrow(DType dtype, int64_t rows, int64_t cols,
                                                  std::span<const std::byte> packed,
                                                  std::shared_ptr<const void> owner) {
  TUTTI_RETURN_IF_ERROR(CheckShape(dtype, rows, cols));
  PackedMatrix out;
  out.dtype_ = dtype;
  out.rows_ = rows;
  out.cols_ = cols;
  out.group_bytes_ = GroupBytes(dtype, cols);
  if (packed.size() != out.bytes()) {
    return absl::InvalidArgumentError("packed matrix of " + std::to_string(rows) + " x " +
                                      std::to_string(cols) + " " + std::string(Traits(dtype).name) +
                                      " has " + std::to_string(packed.size()) +
                                      " bytes, should be " + std::to_string(out.bytes()));
  }
  if (reinterpret_cast<uintptr_t>(packed.data()) % 64 != 0)
    return absl::InvalidArgumentError("packed matrix: its bytes are not 64-byte aligned");
  out.data_ = packed.data();
  out.owner_ = std::move(owner);
  return out;
}

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(DType dtype, int64_t rows, int64_t cols,
                                                std::span<const std::byte> src) {
  const DTypeTraits& traits = Traits(dtype);
  TUTTI_RETURN_IF_ERROR(CheckShape(dtype, rows, cols));
  const std::optional<size_t> row_bytes = StorageBytes(dtype, static_cast<uint64_t>(cols));
  if (!row_bytes.has_value() || src.size() / static_cast<size_t>(rows) != *row_bytes ||
      src.size() % static_cast<size_t>(rows) != 0) {
    return absl::InvalidArgumentError(
        "matrix of " + std::to_string(rows) + " x " + std::to_string(cols) + " " +
        std::string(traits.name) + " has " + std::to_string(src.size()) +
        " bytes of data, should be rows x " + std::to_string(row_bytes.value_or(0)));
  }
  const PackedLayout layout = LayoutOf(dtype);
  PackedMatrix out;
  out.dtype_ = dtype;
  out.rows_ = rows;
  out.cols_ = cols;
  out.group_bytes_ = GroupBytes(dtype, cols);
  Memory memory = Allocate(out.bytes());
  if (memory.data == nullptr) {
    return absl::ResourceExhaustedError("no memory for a packed matrix of " +
                                        std::to_string(out.bytes()) + " bytes");
  }
  out.data_ = memory.data;
  out.owner_ = std::move(memory.owner);

  const auto element_bytes = static_cast<size_t>(traits.block_bytes);
  RawBlock raw;
  for (int64_t row = 0; row < rows; ++row) {
    std::byte* group = memory.data + static_cast<size_t>(row / kLanes) * out.group_bytes_;
    const int lane = static_cast<int>(row % kLanes);
    const std::byte* from = src.data() + static_cast<size_t>(row) * *row_bytes;
    if (!traits.quantized) {
      for (int64_t k = 0; k < cols; ++k) {
        std::memcpy(group + k * layout.block_bytes + static_cast<size_t>(lane) * element_bytes,
                    from + static_cast<size_t>(k) * element_bytes, element_bytes);
      }
      continue;
    }
    for (int64_t block = 0; block < cols / layout.block_k; ++block) {
      DecodeFileBlock(dtype, from + static_cast<size_t>(block) * element_bytes, &raw);
      WritePackedBlock(dtype, raw, lane, group + block * layout.block_bytes);
    }
  }
  return out;
}

absl::StatusOr<PackedMatrix> PackedMatrix::Cut(int64_t row_begin, int64_t rows, int64_t col_begin,
                                               int64_t cols) const {
  TUTTI_RETURN_IF_ERROR(CheckShape(dtype_, rows, cols));
  const PackedLayout layout = LayoutOf(dtype_);
  const bool inside =
      row_begin >= 0 && row_begin <= rows_ - rows && col_begin >= 0 && col_begin <= cols_ - cols;
  if (!inside || row_begin % kLanes != 0 || (rows % kLanes != 0 && row_begin + rows != rows_) ||
      col_begin % layout.block_k != 0) {
    return absl::InvalidArgumentError("rows from " + std::to_string(row_begin) +
                                      " and columns from " + std::to_string(col_begin) + ", " +
                                      std::to_string(rows) + " x " + std::to_string(cols) +
                                      ", cannot be cut out of a packed matrix of " +
                                      std::to_string(rows_) + " x " + std::to_string(cols_));
  }
  PackedMatrix out;
  out.dtype_ = dtype_;
  out.rows_ = rows;
  out.cols_ = cols;
  out.group_bytes_ = GroupBytes(dtype_, cols);
  const std::byte* const from = group(row_begin / kLanes);
  if (cols == cols_ && reinterpret_cast<uintptr_t>(from) % 64 == 0) {
    out.data_ = from;
    out.owner_ = owner_;
    return out;
  }
  Memory memory = Allocate(out.bytes());
  if (memory.data == nullptr) {
    return absl::ResourceExhaustedError("no memory for a packed matrix of " +
                                        std::to_string(out.bytes()) + " bytes");
  }
  const size_t skip = GroupBytes(dtype_, col_begin);
  for (int64_t g = 0; g < out.num_groups(); ++g) {
    std::memcpy(memory.data + static_cast<size_t>(g) * out.group_bytes_,
                from + static_cast<size_t>(g) * group_bytes_ + skip, out.group_bytes_);
  }
  out.data_ = memory.data;
  out.owner_ = std::move(memory.owner);
  return out;
}

void PackedMatrix::DequantizeRow(int64_t row, float* out) const {
  const PackedLayout layout = LayoutOf(dtype_);
  const std::byte* base = group(row / kLanes);
  const int lane = static_cast<int>(row % kLanes);
  if (!quantized()) {
    const auto element_bytes = static_cast<size_t>(Traits(dtype_).block_bytes);
    for (int64_t k = 0; k < cols_; ++k) {
      const std::byte* from =
          base + k * layout.block_bytes + static_cast<size_t>(lane) * element_bytes;
      if (dtype_ == DType::kF32) {
        std::memcpy(out + k, from, 4);
      } else {
        out[k] = dtype_ == DType::kF16 ? HalfToFloat(GetU16(from)) : BFloat16ToFloat(GetU16(from));
      }
    }
    return;
  }
  RawBlock raw;
  Block32 block;
  for (int64_t b = 0; b < cols_ / layout.block_k; ++b) {
    ReadPackedBlock(dtype_, base + b * layout.block_bytes, lane, &raw);
    for (int part = 0; part < layout.block_k / 32; ++part, out += 32) {
      NormalizeBlock(dtype_, raw, part, &block);
      Dequantize(block, out);
    }
  }
}

}  // namespace tutti::kernels
