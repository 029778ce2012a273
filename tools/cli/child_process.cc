#include "tools/cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "tools/cli/private_files.h"

namespace tutti::cli {

absl::StatusOr<pid_t> Spawn(const ChildSpec& spec) {
  if (::access(spec.argv[0].c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(spec.argv[0], ": ", std::strerror(errno),
                                            " (the services lie beside the tutti binary)"));
  }
  const auto opened = OpenPrivateLog(spec.log_path);
  if (absl::IsPermissionDenied(opened.status())) return opened.status();
  // A full disk costs the log, not the process.
  const int log = opened.ok() ? *opened : ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (log < 0) return opened.status();
  // Everything that allocates is done before the fork; this process may have threads.
  std::vector<char*> argv;
  for (const std::string& a : spec.argv) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // the services keep nothing that could be lost
    if (::getppid() != parent) ::_exit(127);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(log, 1);
    ::dup2(log, 2);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    ::signal(SIGXFSZ, SIG_IGN);  // a log at the limit of a file's size must not end its writer
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(log);
  if (pid > 0) ::setpgid(pid, pid);  // whoever comes first; the child may not have run yet
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
  return pid;
}

std::string DescribeExit(int status) {
  if (WIFSIGNALED(status)) {
    return absl::StrCat("killed by signal ", WTERMSIG(status), " (", ::strsignal(WTERMSIG(status)),
                        ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(status));
}

std::string LogTail(const std::string& path, int max_lines) {
  std::ifstream in(path);
  std::deque<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(Printable(line, 1000));
    if (static_cast<int>(lines.size()) > max_lines) lines.pop_front();
  }
  std::string out;
  for (const auto& line : lines) absl::StrAppend(&out, "  | ", line, "\n");
  return out;
}

bool SocketAnswers(const std::string& unix_address) {
  constexpr std::string_view kScheme = "unix:";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (!unix_address.starts_with(kScheme)) return false;
  const std::string path = unix_address.substr(kScheme.size());
  if (path.size() >= sizeof(address.sun_path)) return false;
  path.copy(address.sun_path, path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool answers = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  ::close(fd);
  return answers;
}

}  // namespace tutti::cli
