// Parses the header of a GGUF file (versions 2 and 3, little-endian) that lies in memory.
//
// The bytes are hostile. Cost and memory are bounded by a small multiple of the header's size:
// nothing is allocated from a count before the count was held against the bytes that are left.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/base/status.h"
#include "shared/weights/model_files.h"

namespace tutti::weights {

// One metadata value as it stands in the file.
struct GgufValue {
  std::string_view key;
  std::span<const std::byte> bytes;  // key, type and value: all of it
};

struct GgufContents {
  nlohmann::json metadata = nlohmann::json::object();        // as ModelFiles::config()
  std::map<std::string, MetadataArray, std::less<>> arrays;  // borrow from the bytes
  std::vector<GgufValue> values;                             // in file order; borrow from the bytes
  std::vector<TensorInfo> tensors;                           // borrow from the bytes
  uint32_t alignment = 32;                                   // of tensors, in bytes
  size_t header_bytes = 0;                                   // before the tensors' data
};

// `name` stands in front of error messages (the file's path). With TensorData::kElsewhere the bytes
// may end behind the header, and the tensors have no data.
// Errors: INVALID_ARGUMENT  names the byte offset or the field, and what would be right
//         UNIMPLEMENTED     a version or a tensor type that is not supported, with the tensor's
//         name
absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> bytes, const std::string& name,
                                       TensorData data = TensorData::kInFile);

// The number that stands for a tensor type in a file (enum ggml_type).
uint32_t GgmlTypeNumber(DType dtype);

}  // namespace tutti::weights
