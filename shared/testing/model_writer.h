// Writes GGUF and safetensors files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/tensor/dtype.h"

namespace tutti::testing {

// A GGUF image in memory. Values stand in the order of the calls.
class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3, uint32_t alignment = 32)
      : version_(version), alignment_(alignment) {
    if (alignment != 32) U32("general.alignment", alignment);
  }

  GgufWriter& Bool(std::string_view key, bool value);
  GgufWriter& U32(std::string_view key, uint32_t value);
  GgufWriter& I64(std::string_view key, int64_t value);
  GgufWriter& F32(std::string_view key, float value);
  GgufWriter& String(std::string_view key, std::string_view value);
  GgufWriter& Strings(std::string_view key, const std::vector<std::string>& values);
  GgufWriter& I32s(std::string_view key, const std::vector<int32_t>& values);
  GgufWriter& F32s(std::string_view key, const std::vector<float>& values);
  // Any value: GGUF's type number and the bytes as they stand in the file.
  GgufWriter& Raw(std::string_view key, uint32_t type, std::string_view bytes);

  // `shape` outermost first. Float values are stored as `dtype` (quantised where that is needed).
  GgufWriter& Tensor(std::string_view name, std::vector<int64_t> shape,
                     std::span<const float> values, DType dtype = DType::kF32);
  // A tensor as its bytes, with any ggml type number.
  GgufWriter& RawTensor(std::string_view name, std::vector<int64_t> shape, uint32_t ggml_type,
                        std::string_view bytes);
  // Gives the last tensor another offset than its own (overlaps, holes, ends out of range).
  GgufWriter& MoveLastTensor(uint64_t offset);

  std::string Image() const;

 private:
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    uint32_t type;
    uint64_t offset;
  };
  uint32_t version_, alignment_;
  uint64_t num_values_ = 0;
  std::string values_;
  std::vector<Entry> tensors_;
  std::string data_;
};

// A safetensors image in memory.
class SafetensorsWriter {
 public:
  // F32, F16 or BF16.
  SafetensorsWriter& Tensor(std::string_view name, std::vector<int64_t> shape,
                            std::span<const float> values, DType dtype = DType::kF32);
  SafetensorsWriter& RawTensor(std::string_view name, std::vector<int64_t> shape,
                               std::string_view dtype, std::string_view bytes);
  std::string Image() const;
  // An image with any header.
  static std::string ImageOf(std::string_view header, std::string_view data);

 private:
  std::string header_, data_;
};

// A new empty folder, removed with its content when the object goes.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  // Writes a file in the folder and returns its path.
  std::string Write(std::string_view name, std::string_view content) const;

 private:
  std::string path_;
};

}  // namespace tutti::testing
