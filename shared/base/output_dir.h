// Writing a directory that appears whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace tutti {

// A file that is being written. Errors of all calls: UNAVAILABLE, RESOURCE_EXHAUSTED (the disk is
// full), PERMISSION_DENIED; they name the file.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status Write(std::span<const std::byte> bytes);
  // To the disk, and closes. The pages leave the page cache: who reads the file next reads what the
  // disk has, and may have it in huge pages (written ones are small).
  absl::Status Finish();
  uint64_t bytes_written() const { return written_; }

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
  uint64_t written_ = 0;
};

// Files are written into a hidden neighbour of the directory, which takes its name in one step at
// the end. Removes what it wrote when it was not committed.
class OutputDir {
 public:
  // Errors: ALREADY_EXISTS  `path` is there and `replace` is false; the rest as OutputFile
  static absl::StatusOr<OutputDir> Begin(const std::string& path, bool replace);
  OutputDir(OutputDir&& other) noexcept;
  OutputDir& operator=(OutputDir&&) = delete;
  ~OutputDir();

  // Where to write until Commit.
  const std::string& temporary() const { return temporary_; }
  absl::Status MakeFolder(std::string_view name);
  absl::Status WriteFile(std::string_view name, std::span<const std::byte> bytes);
  // A directory that it replaces is exchanged in one step and removed after; processes that mapped
  // its files keep them.
  absl::Status Commit();

 private:
  OutputDir(std::string path, std::string temporary, bool replace)
      : path_(std::move(path)), temporary_(std::move(temporary)), replace_(replace) {}
  std::string path_, temporary_;
  bool replace_;
};

}  // namespace tutti
