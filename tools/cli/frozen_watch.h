// Finds processes of a cluster that live but no longer answer.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace tutti::cli {

// What a look at a process found.
struct Sighting {
  bool answered = false;  // to a health probe, whatever the answer was
  char state = '?';       // of /proc/PID/stat: 'T' stopped, 't' under a debugger, 'D' in the kernel
  int64_t cpu_ns = 0;     // CPU time of all its threads so far
};

// Decides from sightings whether one process is frozen. A busy machine must never make it say yes,
// so that silence alone does not count for long:
//   - stopped (SIGSTOP) and silent for 5 s;
//   - silent for 10 s while it used no CPU time at all: a process that waits for its turn gets
//   some;
//   - silent for 60 s and 20 probes, with CPU time used: it loops or its threads wait for each
//   other.
// The last two need an answer before: loading a model may take minutes. A process under a debugger,
// or in an uninterruptible wait for a disk, is left alone. No I/O; the clock is passed in.
class FreezeJudge {
 public:
  static constexpr int64_t kStoppedUs = 5'000'000, kIdleUs = 10'000'000, kBusyUs = 60'000'000;
  static constexpr int kProbesMin = 3, kBusyProbesMin = 20;

  // Empty: not frozen; else the reason, for people. Times must not go back.
  std::string OnSighting(const Sighting& seen, int64_t now_us);

 private:
  bool answered_before_ = false;
  int64_t silent_since_us_ = -1, stopped_since_us_ = -1, idle_since_us_ = -1;
  int64_t cpu_ns_ = -1;
  int silent_probes_ = 0, stopped_probes_ = 0, idle_probes_ = 0;
};

// State and CPU time of a process; state '?' when there is none.
Sighting LookAt(pid_t pid);

// Probes processes every half second from a thread of its own, so that a frozen process holds up
// nobody but the watch. Thread-safe.
class FrozenWatch {
 public:
  struct Watched {
    pid_t pid = 0;
    std::string address;  // unix:PATH or HOST:PORT of gRPC, HOST:PORT of the gateway
    bool http = false;
  };
  struct Frozen {
    pid_t pid;
    std::string why;
  };
  // Whether the process answers within the time given. Called from the watch's thread.
  using Probe = std::function<bool(const Watched&, int timeout_ms)>;

  explicit FrozenWatch(Probe probe);
  ~FrozenWatch();  // waits for the probe that is under way, a second at most

  // Replaces the set; a pid that was watched before keeps its history.
  void Watch(std::vector<Watched> processes);
  // Those found frozen since the last call; each is reported once.
  std::vector<Frozen> Take();

 private:
  void Loop();

  const Probe probe_;
  std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::vector<Watched> watched_;
  std::vector<Frozen> found_;
  std::map<pid_t, FreezeJudge> judges_;  // of the thread alone
  std::thread thread_;
};

}  // namespace tutti::cli
