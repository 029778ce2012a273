// One view over the formats that models come in: a GGUF file, a Hugging Face folder (config.json
// with one or several safetensors files), or a packed directory made of either (packed_files.h).
// Names, shapes, types and bytes of tensors; metadata.
//
// Files are hostile: every offset, count and product is checked before use; nothing in a file runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/base/mapped_file.h"
#include "shared/base/status.h"
#include "shared/tensor/dtype.h"
#include "shared/weights/packed_files.h"

namespace tutti::weights {

struct TensorInfo {
  std::string name;  // as in the file
  DType dtype = DType::kF32;
  std::vector<int64_t>
      shape;  // outermost first (a GGUF's ne[] reversed); last dimension contiguous
  // Borrowed from the ModelFiles. Of a packed directory: empty, except with vectors.
  std::span<const std::byte> data;
  int file_index = 0;  // which file of ModelFiles::files
  size_t file_offset = 0;

  int64_t NumElements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  // Bytes in the source's file.
  size_t StoredBytes() const {
    return StorageBytes(dtype, static_cast<uint64_t>(NumElements())).value_or(0);
  }
};

enum class Format { kGguf, kSafetensors };

// Where tensors' bytes are: behind the header, or not here (the source files of a packed
// directory).
enum class TensorData { kInFile, kElsewhere };

struct GgufContents;  // gguf.h
struct SplitInfo;     // gguf_split.h

// An array in a GGUF's metadata, read where it lies in the file (nothing is copied). Its encoding
// was checked when the file was opened. Borrowed from the ModelFiles.
class MetadataArray {
 public:
  enum class Kind { kBool, kInt, kFloat, kString, kArray };
  Kind kind() const { return kind_; }
  size_t size() const { return size_; }

  // All elements in order. Integers are widened to 64 bits (a uint64 past int64 max wraps). Strings
  // are any bytes, not always UTF-8. Empty when kind() is another one.
  std::vector<int64_t> Ints() const;              // kInt and kBool
  std::vector<float> Floats() const;              // kFloat
  std::vector<std::string_view> Strings() const;  // views into the file

 private:
  friend class GgufParser;
  friend class ModelFiles;
  Kind kind_ = Kind::kInt;
  uint32_t element_type_ = 0;  // GGUF's own number
  size_t size_ = 0;
  std::span<const std::byte> bytes_;  // the elements as in the file
};

// Immutable after Open; safe to share. Tensor data stays valid as long as the object.
class ModelFiles {
 public:
  // `path`: a .gguf file, any part of a split one (all parts are opened; gguf_split.h), a folder
  // with config.json and *.safetensors (or with one GGUF model), a .safetensors file, or a packed
  // directory. The formats are told apart by content, not by name.
  // Errors: NOT_FOUND; INVALID_ARGUMENT names the file, the offset or field, and what would be
  // right; DATA_LOSS  a checksum of a packed directory differs
  static absl::StatusOr<std::shared_ptr<const ModelFiles>> Open(const std::string& path);

  Format format() const { return format_; }  // of a packed directory: its source's
  const std::string& path() const { return path_; }
  // The folder with tokenizer.json and the like: where the files lie, or lay when they were packed.
  std::string folder() const;
  // The model's name for people: general.name, or the file's or folder's; of a packed directory
  // what it was for its source.
  std::string Name() const;
  // Not null: a packed directory, whose matrices are there.
  const std::shared_ptr<const PackedFiles>& packed() const { return packed_; }

  // GGUF: metadata as one flat object with the dotted keys as they stand ("llama.block_count").
  // A split model has the first part's values, without those about the split, so that it is the
  // model that was cut. Arrays of at most kInlineArrayMax elements are JSON arrays in it; longer
  // ones (token tables: as JSON they would take ten times their size) and those with strings that
  // are not UTF-8 are left out: FindArray gives every array, short or long. Hugging Face:
  // config.json; null for a .safetensors file alone.
  const nlohmann::json& config() const { return config_; }
  static constexpr size_t kInlineArrayMax = 1024;
  const MetadataArray* FindArray(std::string_view key) const;  // GGUF only; nullptr when absent
  const std::map<std::string, MetadataArray, std::less<>>& arrays() const { return arrays_; }
  // Hugging Face only: generation_config.json and tokenizer_config.json, or null values.
  const nlohmann::json& generation_config() const { return generation_config_; }
  const nlohmann::json& tokenizer_config() const { return tokenizer_config_; }

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const TensorInfo* Find(std::string_view name) const;                 // nullptr when absent

  const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }
  // Of files()[i]: what stands before the tensors' bytes. Its file is the source's, not packed
  // data.
  std::span<const std::byte> header(size_t i) const {
    return files_[i]->bytes().first(header_bytes_[i]);
  }
  // Lets go of a tensor's file pages after it was packed (keeps peak memory near one copy).
  void DropPages(const TensorInfo& tensor) const {
    files_[tensor.file_index]->DontNeed(tensor.file_offset, tensor.data.size());
  }

  // Safetensors only: tensors of integer or boolean type (position ids, masks), which are no
  // weights.
  const std::vector<std::string>& ignored_tensors() const { return ignored_; }

  // A hash over metadata and all tensors' names, types, shapes and bytes; the same wherever the
  // file lies. Reads the whole model once (about 0.02 s per 100 MB) and lets its pages go again;
  // cached, thread-safe. Of a packed directory: the source's, from the manifest.
  uint64_t ContentHash() const;

 private:
  ModelFiles() = default;
  static absl::StatusOr<std::shared_ptr<ModelFiles>> OpenGguf(
      std::shared_ptr<const MappedFile> file, TensorData data = TensorData::kInFile);
  static absl::StatusOr<std::shared_ptr<ModelFiles>> OpenSafetensors(
      const std::string& path, bool folder, TensorData data = TensorData::kInFile);
  static absl::StatusOr<std::shared_ptr<const ModelFiles>> OpenPacked(const std::string& path);
  absl::Status OpenOtherParts(const GgufContents& first, const SplitInfo& split, TensorData data);
  absl::Status BuildIndex();

  Format format_ = Format::kGguf;
  std::string path_;
  nlohmann::json config_, generation_config_, tokenizer_config_;
  std::map<std::string, MetadataArray, std::less<>> arrays_;
  std::vector<std::string> ignored_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<size_t> header_bytes_;
  std::shared_ptr<const PackedFiles> packed_;
  mutable std::once_flag hash_once_;
  mutable uint64_t hash_ = 0;
};

}  // namespace tutti::weights
