// Writes GGUF files (version 3, little-endian) as a stream: the header with every tensor's place
// first, then the tensors' bytes as they come. Memory stays at what the caller hands over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/output_file.h"
#include "shared/base/status.h"
#include "shared/tensor/dtype.h"

namespace tutti::weights {

// The metadata of a file to be written: values in order, each as its bytes stand in the file.
class GgufMetadata {
 public:
  // A value copied from another file (GgufValue).
  void Copy(std::string_view key, std::span<const std::byte> bytes);
  // Sets a uint32: in the place of a value of that key, or behind all others.
  void SetU32(std::string_view key, uint32_t value);
  // The same with a float32, or a string.
  void SetF32(std::string_view key, float value);
  void SetString(std::string_view key, std::string_view value);

  size_t size() const { return values_.size(); }
  uint64_t Bytes() const;
  void AppendTo(std::string* out) const;

 private:
  struct Value {
    std::string key, bytes;
  };
  void Set(std::string_view key, std::string bytes);
  std::vector<Value> values_;
};

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  DType dtype = DType::kF32;
  // REQUIRES: the last dimension is a multiple of the type's block.
  uint64_t Bytes() const;
};

// Thread safety: none. A writer that goes before Finish leaves nothing behind (OutputFile).
class GgufStream {
 public:
  // Opens `path` and writes the header. `alignment` is the metadata's general.alignment, or 32.
  // Errors: those of OutputFile::Create and Append
  static absl::StatusOr<std::unique_ptr<GgufStream>> Create(const std::string& path,
                                                            const GgufMetadata& metadata,
                                                            std::vector<GgufTensor> tensors,
                                                            uint32_t alignment);

  // The next bytes of the tensors' data, in the order of `tensors`; a tensor may come in many
  // pieces, and a piece belongs to one tensor. REQUIRES: no more than the tensors have.
  // Errors: those of OutputFile::Append
  absl::Status Append(std::span<const std::byte> bytes);

  // REQUIRES: every tensor is complete. Returns the file's size.
  absl::StatusOr<uint64_t> Finish();

 private:
  GgufStream(std::unique_ptr<OutputFile> file, std::vector<GgufTensor> tensors, uint32_t alignment)
      : file_(std::move(file)), tensors_(std::move(tensors)), alignment_(alignment) {}
  absl::Status Pad();

  std::unique_ptr<OutputFile> file_;
  const std::vector<GgufTensor> tensors_;
  const uint32_t alignment_;
  size_t tensor_ = 0;     // the one that is being written
  uint64_t written_ = 0;  // of it
};

}  // namespace tutti::weights
