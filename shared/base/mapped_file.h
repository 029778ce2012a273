// A read-only memory map of a whole file.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "shared/base/status.h"

namespace tutti {

// Owns the mapping; views of it must not outlive the object. Immutable, so safe to share.
// A file that is cut short while mapped raises SIGBUS in readers; model files are not edited in
// place.
class MappedFile {
 public:
  // Errors: NOT_FOUND (no such file), PERMISSION_DENIED, INVALID_ARGUMENT (a folder, a device,
  // empty).
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Tells the kernel that a range will be read soon / will not be read again (its pages leave this
  // process's resident set; a later read maps them again). Hints: they never fail.
  void WillNeed(size_t offset, size_t length) const;
  void DontNeed(size_t offset, size_t length) const;
  // Asks for 2 MB pages: where the file system has large folios, what is read from the disk from
  // now on comes in those; what the page cache holds already stays as it is.
  void PreferHugePages() const;
  // Maps a range's pages now, all at once: reading them one by one faults for every few.
  void Populate(size_t offset, size_t length) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  void Advise(size_t offset, size_t length, int advice) const;

  std::string path_;
  const std::byte* data_;
  size_t size_;
};

}  // namespace tutti
