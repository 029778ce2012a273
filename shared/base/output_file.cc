#include "shared/base/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

namespace tutti {

absl::Status StatusFromErrno(const std::string& path) {
  const int error = errno;
  const std::string what = path + ": " + std::strerror(error);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(what);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(what);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(what);
    default:
      return absl::UnavailableError(what);
  }
}

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path,
                                                               uint64_t size_bytes) {
  struct stat st = {};
  if (::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode))
    return absl::InvalidArgumentError(path + ": exists and is not a regular file");
  std::string temporary = path + ".new-" + std::to_string(::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return StatusFromErrno(temporary);
  std::unique_ptr<OutputFile> file(new OutputFile(path, std::move(temporary), fd));
  // The size stays what was written; a file system that cannot reserve says so, and that is fine.
  if (size_bytes > 0 &&
      ::fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size_bytes)) != 0 &&
      errno == ENOSPC) {
    return StatusFromErrno(path);
  }
  return file;
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

absl::Status OutputFile::Append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{64} << 20));
    if (n < 0) {
      if (errno == EINTR) continue;
      return StatusFromErrno(temporary_);
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    size_ += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit(bool drop_pages) {
  if (::fsync(fd_) != 0) return StatusFromErrno(temporary_);
  if (drop_pages) ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return StatusFromErrno(path_);
  ::close(fd_);
  fd_ = -1;
  // The name is safe once its folder is; a folder that cannot be opened or synced is no failure of
  // the content, which is on disk.
  const std::filesystem::path parent = std::filesystem::path(path_).parent_path();
  const int folder =
      ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
  return absl::OkStatus();
}

}  // namespace tutti
