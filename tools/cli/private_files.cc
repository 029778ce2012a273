#include "tools/cli/private_files.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace tutti::cli {
namespace {

absl::Status Unavailable(const std::string& path) {
  return absl::UnavailableError(path + ": " + std::strerror(errno));
}

absl::Status Denied(const std::string& path, const std::string& why) {
  return absl::PermissionDeniedError(path + ": " + why);
}

// Creates a new file, whatever lay there before (a link is removed, not followed).
int CreateNew(const std::string& path) {
  ::unlink(path.c_str());
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

}  // namespace

absl::Status MakePrivateFolder(const std::string& path, bool follow) {
  if (follow) {
    const std::filesystem::path parent = std::filesystem::path(path).parent_path();
    std::error_code error;
    if (!parent.empty()) std::filesystem::create_directories(parent, error);
  }
  const bool made = ::mkdir(path.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return Unavailable(path);
  const int fd =
      ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
  if (fd < 0) {
    if (errno == ENOTDIR || errno == ELOOP) return Denied(path, "must be a folder, and no link");
    return Unavailable(path);
  }
  struct stat s = {};
  absl::Status status;
  if (::fstat(fd, &s) != 0) {
    status = Unavailable(path);
  } else if (s.st_uid != ::geteuid()) {
    status = Denied(path, absl::StrCat("belongs to user ", s.st_uid, ", not to this one (",
                                       ::geteuid(), "); name a folder of your own"));
  } else if ((s.st_mode & S_ISVTX) != 0) {
    status = Denied(path, "is shared with other users; name a folder below it");
  } else if ((s.st_mode & 0777) != 0700 && ::fchmod(fd, 0700) != 0) {
    status = Unavailable(path);
  }
  ::close(fd);
  return status;
}

absl::Status CheckOwnFolder(const std::string& path) {
  struct stat s = {};
  if (::geteuid() == 0 || ::stat(path.c_str(), &s) != 0 || s.st_uid == ::geteuid() || s.st_uid == 0)
    return absl::OkStatus();
  return Denied(path, absl::StrCat("belongs to user ", s.st_uid, "; what it says is not trusted"));
}

absl::StatusOr<int> OpenPrivateLog(const std::string& path) {
  const int fd = ::open(
      path.c_str(),
      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,  // a pipe must not block
      0600);
  if (fd < 0) {
    if (errno == ELOOP) return Denied(path, "is a link; remove it");
    return Unavailable(path);
  }
  struct stat s = {};
  if (::fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_uid != ::geteuid()) {
    ::close(fd);
    return Denied(path, "must be a plain file of this user; remove it");
  }
  ::fcntl(fd, F_SETFL, O_APPEND);
  ::fchmod(fd, 0600);
  return fd;
}

absl::Status ReplacePrivateFile(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const int fd = CreateNew(temporary);
  if (fd < 0) return Unavailable(temporary);
  absl::Status status;
  for (size_t at = 0; at < text.size() && status.ok();) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n > 0) at += static_cast<size_t>(n);
    if (n == 0) errno = EIO;
    if (n <= 0 && errno != EINTR) status = Unavailable(temporary);
  }
  if (::close(fd) != 0 && status.ok()) status = Unavailable(temporary);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) status = Unavailable(path);
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

void BoundLog(const std::string& path, int64_t bytes_max) {
  const int in = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (in < 0) return;
  struct stat s = {};
  if (::fstat(in, &s) == 0 && S_ISREG(s.st_mode) && s.st_size > bytes_max) {
    const int out = CreateNew(path + ".old");
    // A log that was left alone for long may be of any size: its end counts.
    off_t at = s.st_size - bytes_max;
    while (out >= 0 && at<s.st_size&& ::sendfile(out, in, &at, s.st_size - at)> 0) {
    }
    if (out >= 0) ::close(out);
    if (::ftruncate(in, 0) != 0) ::unlink(path.c_str());
  }
  ::close(in);
}

}  // namespace tutti::cli
