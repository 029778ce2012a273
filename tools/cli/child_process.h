// Starting and ending child processes.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::cli {

struct ChildSpec {
  std::vector<std::string> argv;  // argv[0] is the binary's path
  std::string log_path;           // stdout and stderr are appended here, mode 0600
};

// Starts a child in a process group of its own (a terminal's Ctrl-C reaches the parent alone), with
// an empty signal mask, and dead as soon as the calling thread is (whatever killed it). Without
// room for its log the child writes to /dev/null. Errors: NOT_FOUND  no such binary;
// PERMISSION_DENIED  the log is a link or somebody else's; UNAVAILABLE  no more processes
absl::StatusOr<pid_t> Spawn(const ChildSpec& spec);

// "exit code 3", "killed by signal 9 (Killed)"
std::string DescribeExit(int wait_status);

// The last lines of a log file, at most `max_lines`.
std::string LogTail(const std::string& path, int max_lines);

// Whether something accepts connections at "unix:PATH".
bool SocketAnswers(const std::string& unix_address);

}  // namespace tutti::cli
