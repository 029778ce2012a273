// Writing a directory that appears whole or not at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace tutti {

// Files are written into a hidden neighbour of the directory, which takes its name in one step at
// the end. Removes what it wrote when it was not committed.
class OutputDir {
 public:
  // Errors: ALREADY_EXISTS  `path` is there and `replace` is false; of all calls: as OutputFile
  static absl::StatusOr<OutputDir> Begin(const std::string& path, bool replace);
  OutputDir(OutputDir&& other) noexcept;
  OutputDir& operator=(OutputDir&&) = delete;
  ~OutputDir();

  // Where to write until Commit.
  const std::string& temporary() const { return temporary_; }
  absl::Status MakeFolder(std::string_view name);
  // Larger files: an OutputFile in temporary().
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
