// The manifest of a packed model directory (docs/decisions/0095): what lies where, and checksums.
//
//   DIR/packed.json   this manifest
//   DIR/source/       the source's files, weight files cut off behind their headers
//   DIR/weights.bin   ranges, one after the other: each a part of a layer that can be loaded alone
//
// The text is one JSON object whose first line holds the checksum of all lines after it. The bytes
// are hostile all the same (a checksum is no signature): every number is checked before use.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/tensor/dtype.h"

namespace tutti::weights {

inline constexpr char kPackedManifest[] = "packed.json";
inline constexpr char kPackedSourceFolder[] = "source";
inline constexpr uint64_t kPackedVersion = 1;
inline constexpr char kPackedLayout[] = "CA-1";    // kernels/packed_layout.h
inline constexpr uint64_t kRangeAlignment = 4096;  // offset and size of a range
inline constexpr uint64_t kTensorAlignment = 64;   // of a tensor in its range

// A piece of one tensor of the source.
struct PackedTensor {
  enum class Kind {
    kMatrix,  // rows in the layout of the matmul kernels
    kVector,  // the source's own bytes
  };
  std::string name;  // the source's
  Kind kind = Kind::kMatrix;
  DType dtype = DType::kF32;
  int64_t row = 0;             // matrix: its first row in the source's tensor
  std::vector<int64_t> shape;  // [rows, cols] or [n]
  uint64_t offset = 0;         // from the beginning of the range
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};

// A contiguous part of a data file: "layers.3.attention". Its checksum covers every byte, padding
// too, and its tensors stand in ascending order.
struct PackedRange {
  std::string name;
  size_t file = 0;  // index into data_files
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
  std::vector<PackedTensor> tensors;
};

struct PackedManifest {
  std::string name;  // of the model, for people
  enum class Source { kGguf, kSafetensors } source = Source::kGguf;
  std::string source_name;                       // file or folder, without its path
  uint64_t content_hash = 0;                     // ModelFiles::ContentHash of the source
  std::map<std::string, uint64_t> fingerprints;  // of the model, by KV type: "F16", "F32"
  struct File {
    std::string name;
    uint64_t bytes = 0;
    uint64_t xxh3 = 0;  // source_files only: data files have their ranges'
  };
  std::vector<File> source_files;  // in kPackedSourceFolder
  std::vector<File> data_files;
  std::vector<PackedRange> ranges;  // they cover the data files exactly, in order
};

// `name` stands in front of messages.
// Errors: INVALID_ARGUMENT  names the field and what would be right
//         DATA_LOSS         the text is not the one that was written (checksum)
//         UNIMPLEMENTED     another format version or layout
absl::StatusOr<PackedManifest> ParsePackedManifest(std::string_view text, const std::string& name);

// The text of a manifest. Determinism: exact.
std::string WritePackedManifest(const PackedManifest& manifest);
// The first line for a text that follows it (WritePackedManifest uses it; tests forge with it).
std::string SealLine(std::string_view rest);

}  // namespace tutti::weights
