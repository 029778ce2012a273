#include "tools/cli/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/weights/json_text.h"
#include "tools/cli/private_files.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

std::string StringAt(const json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_string() ? it->get<std::string>() : "";
}
int64_t IntAt(const json& j, const char* key) {
  const auto it = j.find(key);
  return it != j.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

// Never half written.
absl::Status Replace(const std::string& path, const json& j) {
  return ReplacePrivateFile(path, j.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace

absl::Status WriteClusterState(const std::string& dir, const ClusterState& s) {
  json processes = json::array();
  for (const ProcessState& p : s.processes) {
    processes.push_back({{"name", p.name},
                         {"kind", p.kind},
                         {"pid", p.pid},
                         {"address", p.address},
                         {"metrics", p.metrics},
                         {"log", p.log},
                         {"restarts", p.restarts}});
  }
  const json j = {{"supervisor_pid", s.supervisor_pid},
                  {"started_unix_s", s.started_unix_s},
                  {"ready", s.ready},
                  {"model", s.model},
                  {"http", s.http},
                  {"grpc", s.grpc},
                  {"router_unix", s.router_unix},
                  {"cluster", s.cluster},
                  {"processes", processes}};
  return Replace(dir + "/cluster.json", j);
}

absl::Status WriteScale(const std::string& dir, int experts) {
  return Replace(dir + "/scale.json", {{"experts", experts}});
}

absl::StatusOr<int> ReadScale(const std::string& dir) {
  const std::string path = dir + "/scale.json";
  TUTTI_ASSIGN_OR_RETURN(const json j, weights::ReadJsonFile(path, {.bytes_max = 1 << 10}));
  const int64_t experts = j.is_object() ? IntAt(j, "experts") : 0;
  if (experts < 1 || experts > 64)
    return absl::InvalidArgumentError(path + ": \"experts\" must be 1 to 64");
  return static_cast<int>(experts);
}

absl::StatusOr<ClusterState> ReadClusterState(const std::string& dir) {
  TUTTI_ASSIGN_OR_RETURN(const json j,
                         weights::ReadJsonFile(dir + "/cluster.json", {.bytes_max = 1 << 20}));
  if (!j.is_object())
    return absl::InvalidArgumentError(dir + "/cluster.json: must be a JSON object");
  ClusterState s;
  s.supervisor_pid = IntAt(j, "supervisor_pid");
  s.started_unix_s = IntAt(j, "started_unix_s");
  s.ready = j.contains("ready") && j["ready"] == true;
  s.model = StringAt(j, "model");
  s.http = StringAt(j, "http");
  s.grpc = StringAt(j, "grpc");
  s.router_unix = StringAt(j, "router_unix");
  s.cluster = StringAt(j, "cluster");
  const auto processes = j.find("processes");
  if (processes == j.end() || !processes->is_array()) return s;
  for (const json& p : *processes) {
    if (!p.is_object()) continue;
    s.processes.push_back({StringAt(p, "name"), StringAt(p, "kind"), IntAt(p, "pid"),
                           StringAt(p, "address"), StringAt(p, "metrics"), StringAt(p, "log"),
                           static_cast<int>(IntAt(p, "restarts"))});
  }
  return s;
}

absl::StatusOr<std::unique_ptr<StateLock>> StateLock::Acquire(const std::string& dir) {
  const std::string path = dir + "/lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return absl::UnavailableError(path + ": " + std::strerror(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return absl::AlreadyExistsError(path + ": held by another supervisor");
  }
  return std::unique_ptr<StateLock>(new StateLock(fd));
}

bool StateLock::IsHeld(const std::string& dir) {
  const int fd = ::open((dir + "/lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  // A shared lock: two who ask at the same time do not take each other for a supervisor.
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0;
  ::close(fd);
  return held;
}

bool StateLock::IsHeldBy(const std::string& dir, int64_t pid) {
  struct stat lock = {}, process = {}, file = {};
  const std::string proc = "/proc/" + std::to_string(pid);
  if (pid <= 1 || !IsHeld(dir) || ::lstat((dir + "/lock").c_str(), &lock) != 0 ||
      ::stat(proc.c_str(), &process) != 0 || process.st_uid != lock.st_uid) {
    return false;
  }
  // Only the supervisor keeps the file open; who asks, as above, has it for an instant.
  std::error_code error;
  std::filesystem::directory_iterator fd(proc + "/fd", error), end;
  for (; !error && fd != end; fd.increment(error)) {
    if (::stat(fd->path().c_str(), &file) == 0 && file.st_dev == lock.st_dev &&
        file.st_ino == lock.st_ino) {
      return true;
    }
  }
  return false;
}

StateLock::~StateLock() { ::close(fd_); }

absl::Status SignalSupervisor(const std::string& dir, const ClusterState& state, int signal) {
  const auto failed = [&](const std::string& why) {
    return absl::UnavailableError(
        absl::StrCat("the supervisor (pid ", state.supervisor_pid, ") cannot be told: ", why));
  };
  // The descriptor stands for this very process, also when its number is given to another.
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, state.supervisor_pid, 0));
  if (fd < 0) return failed(std::strerror(errno));
  absl::Status status;
  if (!StateLock::IsHeldBy(dir, state.supervisor_pid)) {
    status = failed(absl::StrCat("this process does not hold ", dir,
                                 "/lock; cluster.json is stale or was changed"));
  } else if (::syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0) != 0) {
    status = failed(std::strerror(errno));
  }
  ::close(fd);
  return status;
}

absl::StatusOr<ClusterState> RunningCluster(const std::string& dir) {
  if (!StateLock::IsHeld(dir)) {
    return absl::NotFoundError(
        "no cluster runs in " + dir +
        "; 'tutti up --model FILE' starts one, --state-dir names another folder");
  }
  TUTTI_RETURN_IF_ERROR(CheckOwnFolder(dir));
  return ReadClusterState(dir);
}

void AddStateDirFlag(CLI::App* app, std::string* state_dir) {
  *state_dir = ".tutti";
  app->add_option("--state-dir", *state_dir, "Folder of the local cluster: addresses and logs")
      ->envname("TUTTI_STATE_DIR")
      ->capture_default_str();
}

}  // namespace tutti::cli
