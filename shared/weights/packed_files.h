// An opened packed model directory: its manifest, and its data files mapped read-only, so that all
// processes of a host share their pages. Immutable, safe to share between threads.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/mapped_file.h"
#include "shared/base/status.h"
#include "shared/weights/packed_manifest.h"

namespace tutti::weights {

class PackedFiles {
 public:
  // Is there a manifest in this folder?
  static bool Is(const std::string& folder);

  // Checks the manifest, the sizes of all files, and the checksums of the source's (small) files.
  // The ranges are not read: VerifyRange does that.
  // Errors: as ParsePackedManifest; NOT_FOUND, DATA_LOSS  name the file
  static absl::StatusOr<std::shared_ptr<const PackedFiles>> Open(const std::string& folder);

  const PackedManifest& manifest() const { return manifest_; }
  std::string source_folder() const { return folder_ + "/" + kPackedSourceFolder; }
  const std::vector<std::shared_ptr<const MappedFile>>& data_files() const { return files_; }

  struct Piece {
    const PackedTensor* tensor = nullptr;  // null: there is none
    std::span<const std::byte> data;       // borrowed from `file`
    size_t file = 0;                       // index into data_files
    size_t file_offset = 0;
  };
  // The piece of the source's tensor `name` that begins at `row`.
  Piece Find(std::string_view name, int64_t row) const;

  // The piece that has row `row` of the source's tensor `name`.
  Piece FindWithRow(std::string_view name, int64_t row) const;

  // Reads a range (its pages become resident) and compares its checksum. Cost: about 10 GB/s.
  // Errors: DATA_LOSS  names the file, the range and the damaged tensor
  absl::Status VerifyRange(size_t range) const;
  // The same for its vectors alone: the matrices are for others to read.
  absl::Status VerifyVectors(size_t range) const;

 private:
  PackedFiles() = default;
  Piece PieceAt(std::pair<size_t, size_t> range_and_tensor) const;
  absl::Status Damaged(const PackedRange& range, const std::string& what) const;
  std::span<const std::byte> Bytes(const PackedRange& range) const {
    return files_[range.file]->bytes().subspan(range.offset, range.bytes);
  }

  std::string folder_;
  PackedManifest manifest_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::pair<std::string_view, int64_t>, std::pair<size_t, size_t>> index_;
};

}  // namespace tutti::weights
