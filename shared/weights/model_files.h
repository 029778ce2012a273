// One view over the formats that models come in: a GGUF file, or a Hugging Face folder (config.json
// with one or several safetensors files). Names, shapes, types and bytes of tensors; metadata.
//
// Files are hostile: every offset, count and product is checked before use; nothing in a file runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/base/mapped_file.h"
#include "shared/base/status.h"
#include "shared/tensor/dtype.h"

namespace tutti::weights {

struct TensorInfo {
  std::string name;  // as in the file
  DType dtype = DType::kF32;
  std::vector<int64_t>
      shape;  // outermost first (a GGUF's ne[] reversed); last dimension contiguous
  std::span<const std::byte> data;  // borrowed from the ModelFiles
  int file_index = 0;               // which file of ModelFiles::files
  size_t file_offset = 0;

  int64_t NumElements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

enum class Format { kGguf, kSafetensors };

// Immutable after Open; safe to share. Tensor data stays valid as long as the object.
class ModelFiles {
 public:
  // `path`: a .gguf file, a folder with config.json and *.safetensors, or a .safetensors file.
  // Errors: NOT_FOUND; INVALID_ARGUMENT names the file, the offset or field, and what would be
  // right.
  static absl::StatusOr<std::shared_ptr<const ModelFiles>> Open(const std::string& path);

  Format format() const { return format_; }
  const std::string& path() const { return path_; }

  // GGUF: all metadata as one flat object with the dotted keys as they stand ("llama.block_count"),
  // arrays as JSON arrays. Hugging Face: config.json. Large token arrays are in here too.
  const nlohmann::json& config() const { return config_; }
  // Hugging Face only: generation_config.json and tokenizer_config.json, or null values.
  const nlohmann::json& generation_config() const { return generation_config_; }
  const nlohmann::json& tokenizer_config() const { return tokenizer_config_; }

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const TensorInfo* Find(std::string_view name) const;                 // nullptr when absent

  const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }
  // Lets go of a tensor's file pages after it was packed (keeps peak memory near one copy).
  void DropPages(const TensorInfo& tensor) const {
    files_[tensor.file_index]->DontNeed(tensor.file_offset, tensor.data.size());
  }

  // A hash over config and all tensor names, types, shapes and bytes' checksums. Reads the whole
  // model once (about 0.01 s per 100 MB and thread); cached.
  uint64_t ContentHash() const;

 private:
  ModelFiles() = default;
  friend absl::StatusOr<std::shared_ptr<const ModelFiles>> OpenGguf(
      std::shared_ptr<const MappedFile>);
  friend absl::StatusOr<std::shared_ptr<const ModelFiles>> OpenSafetensors(const std::string&);

  Format format_ = Format::kGguf;
  std::string path_;
  nlohmann::json config_, generation_config_, tokenizer_config_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
};

}  // namespace tutti::weights
