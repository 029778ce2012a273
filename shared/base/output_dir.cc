#include "shared/base/output_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "shared/base/output_file.h"

namespace tutti {
namespace {

namespace fs = std::filesystem;

// Names of a folder's entries to the disk.
absl::Status SyncFolder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return StatusFromErrno(path);
  absl::Status status;
  if (::fsync(fd) != 0 && errno != EINVAL) status = StatusFromErrno(path);
  ::close(fd);
  return status;
}

bool Rename(const std::string& from, const std::string& to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
}

}  // namespace

absl::StatusOr<OutputDir> OutputDir::Begin(const std::string& path, bool replace) {
  fs::path target = fs::path(path).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  if (target.filename().empty() || target.filename() == "." || target.filename() == "..")
    return absl::InvalidArgumentError(path + ": not the name of a new directory");
  std::error_code ignored;
  if (!replace && fs::symlink_status(target, ignored).type() != fs::file_type::not_found)
    return absl::AlreadyExistsError(target.string() + ": is there already");
  const fs::path temporary = target.parent_path() / ("." + target.filename().string() + ".new-" +
                                                     std::to_string(::getpid()));
  if (::mkdir(temporary.c_str(), 0755) != 0) return StatusFromErrno(temporary.string());
  return OutputDir(target.string(), temporary.string(), replace);
}

OutputDir::OutputDir(OutputDir&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, std::string())),
      replace_(other.replace_) {}

OutputDir::~OutputDir() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

absl::Status OutputDir::MakeFolder(std::string_view name) {
  const std::string folder = temporary_ + "/" + std::string(name);
  return ::mkdir(folder.c_str(), 0755) == 0 ? absl::OkStatus() : StatusFromErrno(folder);
}

absl::Status OutputDir::WriteFile(std::string_view name, std::span<const std::byte> bytes) {
  TUTTI_ASSIGN_OR_RETURN(auto file, OutputFile::Create(temporary_ + "/" + std::string(name)));
  TUTTI_RETURN_IF_ERROR(file->Append(bytes));
  return file->Commit(/*drop_pages=*/true);
}

absl::Status OutputDir::Commit() {
  std::error_code error;
  for (fs::recursive_directory_iterator it(temporary_, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_directory()) TUTTI_RETURN_IF_ERROR(SyncFolder(it->path().string()));
  }
  if (error) return absl::UnavailableError(temporary_ + ": " + error.message());
  TUTTI_RETURN_IF_ERROR(SyncFolder(temporary_));
  // Never onto something that came meanwhile, unless it was to be replaced.
  if (Rename(temporary_, path_, RENAME_NOREPLACE)) {
    temporary_.clear();
  } else if (errno != EEXIST) {
    return StatusFromErrno(path_);
  } else if (!replace_) {
    return absl::AlreadyExistsError(path_ + ": is there already");
  } else if (!Rename(temporary_, path_, RENAME_EXCHANGE)) {
    return StatusFromErrno(path_);
  }
  // After an exchange `temporary_` is what stood there before; the destructor removes it.
  const std::string parent = fs::path(path_).parent_path().string();
  return SyncFolder(parent.empty() ? "." : parent);
}

}  // namespace tutti
