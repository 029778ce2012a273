// Parses the header of a safetensors file that lies in memory, and a shard index.
// The bytes are hostile; see gguf.h.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/weights/model_files.h"

namespace tutti::weights {

struct SafetensorsContents {
  std::vector<TensorInfo> tensors;   // in the order of their bytes; borrow from the bytes
  std::vector<std::string> ignored;  // integer and boolean tensors
  size_t header_bytes = 0;           // before the tensors' data
};

// With TensorData::kElsewhere the bytes may end behind the header, and the tensors have no data.
// Errors: INVALID_ARGUMENT  names the tensor or the byte offset, and what would be right
//         UNIMPLEMENTED     a float type other than F32, F16, BF16, with the tensor's name
absl::StatusOr<SafetensorsContents> ParseSafetensors(std::span<const std::byte> bytes,
                                                     const std::string& name,
                                                     TensorData placement = TensorData::kInFile);

// model.safetensors.index.json: tensor name -> file name (a plain name in the same folder).
absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view text,
                                                                   const std::string& name);

}  // namespace tutti::weights
