#include "tools/cli/frozen_watch.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

constexpr auto kPause = std::chrono::milliseconds(500);
constexpr int kProbeTimeoutMs = 1000;

std::string Silent(int64_t us, const char* how) {
  return absl::StrCat("no answer for ", us / 1'000'000, " s, ", how);
}

}  // namespace

std::string FreezeJudge::OnSighting(const Sighting& seen, int64_t now_us) {
  const bool used_cpu = seen.cpu_ns != cpu_ns_;
  cpu_ns_ = seen.cpu_ns;
  if (seen.answered || seen.state == 't' || seen.state == 'D' || seen.state == '?') {
    answered_before_ |= seen.answered;
    silent_since_us_ = stopped_since_us_ = idle_since_us_ = -1;
    silent_probes_ = stopped_probes_ = idle_probes_ = 0;
    return "";
  }
  const auto lasts = [now_us](bool holds, int64_t* since_us, int* probes) -> int64_t {
    if (!holds) {
      *since_us = -1;
      *probes = 0;
      return 0;
    }
    if (*since_us < 0) *since_us = now_us;
    ++*probes;
    return now_us - *since_us;
  };
  const int64_t silent_us = lasts(true, &silent_since_us_, &silent_probes_);
  const int64_t stopped_us = lasts(seen.state == 'T', &stopped_since_us_, &stopped_probes_);
  const int64_t idle_us = lasts(!used_cpu, &idle_since_us_, &idle_probes_);
  if (stopped_us >= kStoppedUs && stopped_probes_ >= kProbesMin)
    return Silent(stopped_us, "stopped");
  if (!answered_before_) return "";
  if (idle_us >= kIdleUs && idle_probes_ >= kProbesMin) return Silent(idle_us, "no CPU time used");
  if (silent_us >= kBusyUs && silent_probes_ >= kBusyProbesMin)
    return Silent(silent_us, "though it uses CPU time");
  return "";
}

Sighting LookAt(pid_t pid) {
  Sighting seen;
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(in, line)) return seen;
  // PID (NAME) STATE ...; the name may hold anything.
  const size_t end = line.rfind(')');
  if (end != line.npos && end + 2 < line.size()) seen.state = line[end + 2];
  clockid_t clock;
  timespec used = {};
  if (::clock_getcpuclockid(pid, &clock) == 0 && ::clock_gettime(clock, &used) == 0)
    seen.cpu_ns = used.tv_sec * 1'000'000'000LL + used.tv_nsec;
  return seen;
}

FrozenWatch::FrozenWatch(Probe probe) : probe_(std::move(probe)) {
  thread_ = std::thread([this] { Loop(); });
}

FrozenWatch::~FrozenWatch() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void FrozenWatch::Watch(std::vector<Watched> processes) {
  std::lock_guard lock(mu_);
  watched_ = std::move(processes);
}

std::vector<FrozenWatch::Frozen> FrozenWatch::Take() {
  std::lock_guard lock(mu_);
  return std::exchange(found_, {});
}

void FrozenWatch::Loop() {
  for (;;) {
    std::vector<Watched> watched;
    {
      std::unique_lock lock(mu_);
      wake_.wait_for(lock, kPause, [this] { return stopping_; });
      if (stopping_) return;
      watched = watched_;
    }
    std::erase_if(judges_, [&](const auto& judge) {
      return std::none_of(watched.begin(), watched.end(),
                          [&](const Watched& w) { return w.pid == judge.first; });
    });
    for (const Watched& w : watched) {
      const bool answered = probe_(w, kProbeTimeoutMs);
      Sighting seen = LookAt(w.pid);
      seen.answered = answered;
      const std::string why = judges_[w.pid].OnSighting(seen, NowUs());
      std::lock_guard lock(mu_);
      if (stopping_) return;
      if (why.empty()) continue;
      found_.push_back({w.pid, why});
      judges_[w.pid] = {};
    }
  }
}

}  // namespace tutti::cli
