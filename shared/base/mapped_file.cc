#include "shared/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tutti {

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const std::string what = path + ": " + std::strerror(errno);
    if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError(what);
    if (errno == EACCES) return absl::PermissionDeniedError(what);
    return absl::UnavailableError(what);
  }
  struct stat st = {};
  absl::Status status;
  void* data = MAP_FAILED;
  if (::fstat(fd, &st) != 0) {
    status = absl::UnavailableError(path + ": " + std::strerror(errno));
  } else if (!S_ISREG(st.st_mode)) {
    status = absl::InvalidArgumentError(path + ": not a regular file");
  } else if (st.st_size == 0) {
    status = absl::InvalidArgumentError(path + ": the file is empty");
  } else {
    data = ::mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
      status = absl::UnavailableError(path + ": mmap: " + std::strerror(errno));
  }
  ::close(fd);
  TUTTI_RETURN_IF_ERROR(status);
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(data), static_cast<size_t>(st.st_size)));
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void MappedFile::Advise(size_t offset, size_t length, int advice) const {
  if (offset >= size_) return;
  length = std::min(length, size_ - offset);
  static const size_t kPage = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  // WILLNEED rounds outwards; DONTNEED inwards, so that no neighbour loses its pages.
  size_t begin = offset, end = offset + length;
  if (advice == MADV_DONTNEED) {
    begin = (begin + kPage - 1) / kPage * kPage;
    end = end / kPage * kPage;
  } else {
    begin = begin / kPage * kPage;
  }
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, advice);
}

void MappedFile::WillNeed(size_t offset, size_t length) const {
  Advise(offset, length, MADV_WILLNEED);
}
void MappedFile::DontNeed(size_t offset, size_t length) const {
  Advise(offset, length, MADV_DONTNEED);
}
void MappedFile::PreferHugePages() const { Advise(0, size_, MADV_HUGEPAGE); }
void MappedFile::Populate(size_t offset, size_t length) const {
#ifdef MADV_POPULATE_READ
  Advise(offset, length, MADV_POPULATE_READ);
#else
  Advise(offset, length, MADV_WILLNEED);
#endif
}

}  // namespace tutti
