// A file that appears whole or not at all: written under another name beside its place, forced to
// disk, then renamed. Whoever opens `path` sees what was there before, or all of the new content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "shared/base/status.h"

namespace tutti {

// What errno says of `path`: NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED (the disk is full),
// else UNAVAILABLE.
absl::Status StatusFromErrno(const std::string& path);

// Thread safety: none. An object that goes before Commit takes its temporary file with it.
class OutputFile {
 public:
  // Reserves `size_bytes` on disk where the file system can, so that a full disk is known at once;
  // 0: unknown. The temporary is `path` with ".new-" and the process id behind it.
  // Errors: NOT_FOUND           the folder does not exist
  //         PERMISSION_DENIED   the folder may not be written to
  //         INVALID_ARGUMENT    `path` exists and is no regular file
  //         RESOURCE_EXHAUSTED  the disk has no room for size_bytes
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path,
                                                            uint64_t size_bytes = 0);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Errors: RESOURCE_EXHAUSTED  the disk is full; UNAVAILABLE  any other failure to write
  absl::Status Append(std::span<const std::byte> bytes);
  uint64_t size() const { return size_; }

  // Forces the content to disk and gives the file its name. Nothing may follow. `drop_pages`: it
  // leaves the page cache, so that who reads it next reads what the disk has, and may have it in
  // huge pages (written ones are small).
  // Errors: as Append
  absl::Status Commit(bool drop_pages = false);

 private:
  OutputFile(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

  const std::string path_, temporary_;
  int fd_;
  uint64_t size_ = 0;
};

}  // namespace tutti
