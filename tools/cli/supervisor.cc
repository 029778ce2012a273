#include "tools/cli/supervisor.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/model/model_weights.h"
#include "shared/moe/expert_set.h"
#include "shared/speculation/vocabulary_map.h"
#include "shared/weights/model_files.h"
#include "tools/cli/child_process.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/frozen_watch.h"
#include "tools/cli/held_port.h"
#include "tools/cli/private_files.h"
#include "tools/cli/state_dir.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBackoffMinUs = 100'000, kBackoffMaxUs = 5'000'000;
constexpr int64_t kSteadyAfterUs = 10'000'000;  // alive that long: the backoff starts over
constexpr int64_t kLogBytesMax = 32 << 20;
constexpr size_t kSocketPathMax = 100;     // sun_path has 108 bytes
constexpr int64_t kDrainLookUs = 100'000;  // between looks whether the router drains
constexpr int64_t kLogLookUs = 1'000'000;  // between looks at the sizes of logs

struct Process {
  ProcessState state;
  ChildSpec spec;
  HeldPort metrics_port;
  bool healthy = false;  // was seen healthy in this life
  bool served = false;   // a router: both its sockets were there in this life
  bool leaving = false;  // told to end for good
  int64_t started_us = 0, restart_at_us = 0, backoff_us = kBackoffMinUs;
};

class SupervisorImpl : public Supervisor {
 public:
  SupervisorImpl(const ClusterOptions& options, std::function<void(const std::string&)> say)
      : options_(options), say_(std::move(say)) {}

  ~SupervisorImpl() override {
    EndAll();
    if (!socket_dir_.empty() && socket_dir_ != options_.state_dir + "/run") {
      std::error_code ignored;
      fs::remove_all(socket_dir_, ignored);
    }
    if (lock_ != nullptr) {
      std::error_code ignored;
      fs::remove(options_.state_dir + "/cluster.json", ignored);
    }
  }

  absl::Status Init() {
    TUTTI_RETURN_IF_ERROR(options_.Validate());
    std::error_code error;
    TUTTI_RETURN_IF_ERROR(Annotate(MakePrivateFolder(options_.state_dir, true), "--state-dir"));
    TUTTI_RETURN_IF_ERROR(Annotate(MakePrivateFolder(options_.state_dir + "/logs"), "--state-dir"));
    options_.state_dir = fs::canonical(options_.state_dir, error).string();
    auto lock = StateLock::Acquire(options_.state_dir);
    if (lock.status().code() == absl::StatusCode::kAlreadyExists) {
      const auto running = ReadClusterState(options_.state_dir);
      return absl::AlreadyExistsError(
          absl::StrCat("a cluster runs in ", options_.state_dir,
                       running.ok() ? absl::StrCat(" already (pid ", running->supervisor_pid,
                                                   ", http ", running->http, ")")
                                    : " already",
                       "; 'tutti down --state-dir ", options_.state_dir,
                       "' stops it, another --state-dir starts a second one"));
    }
    TUTTI_RETURN_IF_ERROR(lock.status());
    lock_ = std::move(*lock);

    // Headers only: a wrong path should not be found out from a child's log.
    if (const auto files = weights::ModelFiles::Open(options_.model); !files.ok()) {
      return Annotate(files.status(), "--model");
    }
    options_.model = fs::canonical(options_.model, error).string();
    if (options_.HasDraftModel()) {
      if (!options_.IsSelfDraft()) {
        if (const auto files = weights::ModelFiles::Open(options_.draft); !files.ok())
          return Annotate(files.status(), "--draft: none, ngram, self or a model");
        options_.draft = fs::canonical(options_.draft, error).string();
      }
      const auto pair = speculation::PairWithTarget(options_.model, options_.DraftModel());
      if (!pair.ok()) return Annotate(pair.status(), "--draft");
    }
    TUTTI_RETURN_IF_ERROR(ReadLocalExperts());
    TUTTI_RETURN_IF_ERROR(TakePort("--http", options_.http_port, &http_port_));
    TUTTI_RETURN_IF_ERROR(TakePort("--grpc", options_.grpc_port, &grpc_port_));
    TUTTI_RETURN_IF_ERROR(MakeSocketDir());

    sigset_t set;
    ::sigemptyset(&set);
    for (int s : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1}) ::sigaddset(&set, s);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGXFSZ, SIG_IGN);
    return Plan();
  }

  absl::Status StartAll() override {
    // Others' logs of a past run step aside, so that what is quoted below is of this one.
    for (Process& p : processes_) std::rename(p.state.log.c_str(), (p.state.log + ".old").c_str());
    state_.supervisor_pid = ::getpid();
    state_.started_unix_s = UnixSeconds();
    for (Process& p : processes_) {
      if (p.state.kind != "gateway") TUTTI_RETURN_IF_ERROR(Start(&p));
    }
    // The gateway comes a few milliseconds later: its first connection must find the router, or it
    // waits for gRPC's next attempt.
    const int64_t deadline = NowUs() + static_cast<int64_t>(options_.ready_timeout_s * 1e6);
    while (!CheckReady()) {
      TUTTI_RETURN_IF_ERROR(FailOnDeath());
      if (NowUs() > deadline) return NotReadyInTime();
      for (Process& p : processes_) {
        if (p.state.pid != 0 || !SocketAnswers(state_.router_unix)) continue;
        TUTTI_RETURN_IF_ERROR(Start(&p));
        SaveState();
      }
      if (WaitSignal(10'000) > 0) return absl::CancelledError("interrupted");
    }
    state_.ready = true;
    SaveState();
    return absl::OkStatus();
  }

  ClusterAddresses addresses() const override { return {state_.http, state_.grpc}; }

  absl::Status RunUntilSignal() override {
    FrozenWatch watch([](const FrozenWatch::Watched& w, int timeout_ms) {
      return w.http ? HttpAnswers(w.address, timeout_ms) : GrpcAnswers(w.address, timeout_ms);
    });
    WatchAll(&watch);
    int64_t bound_logs_us = 0;
    while (WaitSignal(NextWakeUs()) == 0) {
      bool changed = std::exchange(scale_asked_, false);
      for (const FrozenWatch::Frozen& f : watch.Take()) Kill(f);
      if (changed) Scale();
      changed |= ReplaceDrainingRouter();
      for (int status; pid_t pid = ::waitpid(-1, &status, WNOHANG);) {
        if (pid < 0) break;
        changed |= OnDeath(pid, status);
      }
      for (Process& p : processes_) {
        if (p.state.pid != 0 || NowUs() < p.restart_at_us) continue;
        ++p.state.restarts;
        if (const auto s = Start(&p); !s.ok()) {
          say_(absl::StrCat(p.state.name, ": cannot be started again: ", std::string(s.message())));
          p.restart_at_us = NowUs() + kBackoffMaxUs;
        } else {
          say_(absl::StrCat(p.state.name, " started again, pid ", p.state.pid));
        }
        changed = true;
      }
      if (changed) WatchAll(&watch);
      if (changed || unsaved_) SaveState();
      if (NowUs() < bound_logs_us) continue;
      bound_logs_us = NowUs() + kLogLookUs;
      for (const Process& p : processes_) BoundLog(p.state.log, kLogBytesMax);
      BoundLog(options_.state_dir + "/logs/supervisor.log", kLogBytesMax);
    }
    say_("stopping");
    EndAll();
    return absl::OkStatus();
  }

 private:
  absl::Status ReadLocalExperts() {
    std::string& local = options_.local_experts;
    if (options_.experts == 0) local.clear();  // all are
    if (local.empty()) return absl::OkStatus();
    const auto files = model::OpenExperts(options_.model, options_.ffn_slices);
    if (!files.ok()) return Annotate(files.status(), "--experts");
    const model::ExpertDescription& e = files->experts;
    if (local == ClusterOptions::kShare)
      local = absl::StrCat(std::max(1, e.experts_per_layer / (options_.experts + 1)));
    const auto set = moe::ExpertSet::Parse(local, e.num_layers, e.experts_per_layer);
    return Annotate(set.status(), "--local-experts");
  }

  absl::Status TakePort(const char* flag, int number, HeldPort* port) {
    auto held = HeldPort::Take(options_.host, number);
    if (absl::IsInvalidArgument(held.status())) return held.status();
    if (!held.ok()) {
      return absl::UnavailableError(absl::StrCat(flag, ": ", std::string(held.status().message()),
                                                 "; choose another port, or 0 for any free one"));
    }
    *port = std::move(*held);
    return absl::OkStatus();
  }

  absl::Status MakeSocketDir() {
    socket_dir_ = options_.state_dir + "/run";
    if (socket_dir_.size() + std::strlen("/router-cluster.sock") > kSocketPathMax) {
      std::string pattern = "/tmp/tutti-run-XXXXXX";
      if (::mkdtemp(pattern.data()) == nullptr)
        return absl::UnavailableError(pattern + ": " + std::strerror(errno));
      socket_dir_ = pattern;
      return absl::OkStatus();
    }
    std::error_code error;
    fs::remove_all(socket_dir_, error);
    if (::mkdir(socket_dir_.c_str(), 0700) != 0) {
      return absl::UnavailableError(socket_dir_ + ": " + std::strerror(errno));
    }
    return absl::OkStatus();
  }

  // The command line of every process.
  absl::Status Plan() {
    const ClusterAddresses addresses = {HostPort(options_.host, http_port_.number()),
                                        HostPort(options_.host, grpc_port_.number())};
    state_.model = options_.model;
    state_.http = addresses.http;
    state_.grpc = addresses.grpc;
    state_.router_unix = SocketAddress(socket_dir_, "router");
    state_.cluster = ClusterSocket(socket_dir_);
    for (const PlannedProcess& p : PlanCluster(options_, addresses, socket_dir_))
      TUTTI_RETURN_IF_ERROR(Add(p));
    return absl::OkStatus();
  }

  absl::Status Add(const PlannedProcess& planned) {
    Process p;
    p.state.name = planned.name;
    p.state.kind = planned.kind;
    p.state.address = planned.address;
    p.state.log = options_.state_dir + "/logs/" + planned.name + ".log";
    p.spec.log_path = p.state.log;
    p.spec.argv = {options_.binary_dir + "/tutti-" + planned.kind};
    p.spec.argv.insert(p.spec.argv.end(), planned.args.begin(), planned.args.end());
    if (planned.kind == "gateway") {
      p.state.metrics = p.state.address;
    } else {
      TUTTI_ASSIGN_OR_RETURN(p.metrics_port, HeldPort::Take("127.0.0.1", 0));
      p.state.metrics = absl::StrCat("127.0.0.1:", p.metrics_port.number());
      p.spec.argv.insert(p.spec.argv.end(), {"--metrics", p.state.metrics});
    }
    p.spec.argv.push_back("--log-json");
    processes_.push_back(std::move(p));
    return absl::OkStatus();
  }

  // A router that was told to end closes its sockets and finishes what runs: the next one takes the
  // addresses meanwhile. True: it did.
  bool ReplaceDrainingRouter() {
    const auto gone = [](const std::string& address) {
      return ::access(address.c_str() + std::strlen("unix:"), F_OK) != 0 && errno == ENOENT;
    };
    const auto at = std::find_if(processes_.begin(), processes_.end(), [](const Process& p) {
      return p.state.kind == "router" && p.state.pid != 0 && !p.leaving;
    });
    if (at == processes_.end()) return false;
    const bool no_clients = gone(state_.router_unix), no_workers = gone(state_.cluster);
    at->served |= !no_clients && !no_workers;
    if (!at->served || !no_clients || !no_workers) return false;
    // The old router keeps its metrics port until it ends.
    auto metrics = HeldPort::Take("127.0.0.1", 0);
    if (!metrics.ok()) return false;
    Process next;
    next.state = at->state;
    next.spec = at->spec;
    next.state.pid = 0;
    ++next.state.restarts;
    next.state.metrics = absl::StrCat("127.0.0.1:", metrics->number());
    for (std::string& arg : next.spec.argv) {
      if (arg == at->state.metrics) arg = next.state.metrics;
    }
    next.metrics_port = std::move(*metrics);
    at->leaving = true;
    at->state.name += "-draining";
    say_(absl::StrCat(next.state.name, " (pid ", at->state.pid,
                      ") drains; the next one takes over"));
    if (const auto s = Start(&next); !s.ok()) {
      say_(absl::StrCat(next.state.name, ": cannot be started: ", std::string(s.message())));
      next.restart_at_us = NowUs() + kBackoffMaxUs;
    }
    processes_.insert(at, std::move(next));
    return true;
  }

  // Starts or drains expert shards until there are as many as STATE_DIR/scale.json wants.
  void Scale() {
    const auto wanted = ReadScale(options_.state_dir);
    if (!wanted.ok()) return say_(absl::StrCat("scale: ", std::string(wanted.status().message())));
    if (options_.experts == 0)
      return say_("scale: the targets run their experts themselves (up without --experts)");
    std::vector<Process*> there;
    std::set<std::string> names;
    for (Process& p : processes_) {
      names.insert(p.state.name);
      if (p.state.kind == "expert" && !p.leaving) there.push_back(&p);
    }
    for (size_t i = there.size(); i > static_cast<size_t>(*wanted); --i) {
      Process& p = *there[i - 1];
      say_(p.state.name + " leaves");
      p.leaving = true;
      if (p.state.pid != 0) ::kill(p.state.pid, SIGTERM);
    }
    std::erase_if(processes_, [](const Process& p) { return p.leaving && p.state.pid == 0; });
    int index = 0;
    for (size_t n = there.size(); n < static_cast<size_t>(*wanted); ++n) {
      while (names.contains(absl::StrCat("expert-", index))) ++index;
      names.insert(absl::StrCat("expert-", index));
      if (const auto s = Add(PlanExpert(options_, socket_dir_, index)); !s.ok())
        return say_(absl::StrCat("scale: ", std::string(s.message())));
      Process& p = processes_.back();
      std::rename(p.state.log.c_str(), (p.state.log + ".old").c_str());
      if (const auto s = Start(&p); !s.ok()) {
        say_(absl::StrCat(p.state.name, ": ", std::string(s.message())));
      } else {
        say_(absl::StrCat(p.state.name, " started, pid ", p.state.pid));
      }
    }
  }

  absl::Status Start(Process* p) {
    p->healthy = p->served = false;
    p->started_us = NowUs();
    TUTTI_ASSIGN_OR_RETURN(const pid_t pid, Spawn(p->spec));
    p->state.pid = pid;
    return absl::OkStatus();
  }

  // Everything healthy, joined, and able to serve a model.
  bool CheckReady() {
    for (Process& p : processes_) {
      if (p.healthy) continue;
      if (p.state.pid == 0) return false;
      if (p.state.kind == "gateway") {
        // Over TLS an answer is enough; what it needs of the router is asked below.
        p.healthy = options_.tls_cert.empty() ? HttpHealthy(p.state.address, 200)
                                              : HttpAnswers(p.state.address, 200);
      } else {
        // No call before the socket is there: a refused connection would be tried again only later.
        p.healthy = SocketAnswers(p.state.address) && GrpcHealthy(p.state.address, 200);
      }
      if (!p.healthy) return false;
    }
    const auto view = GetFleet({state_.cluster, {}}, 200);
    if (!view.ok()) return false;
    const auto ready =
        std::count_if(view->workers().begin(), view->workers().end(),
                      [](const auto& w) { return w.state() == fleet::v1::WORKER_STATE_READY; });
    const int num_drafts = options_.HasDraftModel() ? options_.drafts : 0;
    if (ready < options_.targets + num_drafts + options_.experts + 1) return false;
    const auto models = CountServableModels({.address = state_.router_unix}, 200);
    return models.ok() && *models > 0;
  }

  absl::Status FailOnDeath() {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return absl::OkStatus();
    for (Process& p : processes_) {
      if (p.state.pid != pid) continue;
      p.state.pid = 0;
      return absl::UnavailableError(absl::StrCat(p.state.name, " ended while it started (",
                                                 DescribeExit(status), "); the end of its log ",
                                                 p.state.log, ":\n", LogTail(p.state.log, 12)));
    }
    return absl::OkStatus();
  }

  absl::Status NotReadyInTime() {
    std::string waiting = "the workers to join the router";
    for (const Process& p : processes_) {
      if (!p.healthy) {
        waiting =
            absl::StrCat(p.state.name, " (log: ", p.state.log, ")\n", LogTail(p.state.log, 12));
        break;
      }
    }
    return absl::UnavailableError(
        absl::StrCat("not ready after ", options_.ready_timeout_s, " s: waiting for ", waiting));
  }

  // Waits for a signal at most `timeout_us`; its number when it asks for the end, else 0.
  int WaitSignal(int64_t timeout_us) {
    sigset_t set;
    ::sigemptyset(&set);
    for (int s : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1}) ::sigaddset(&set, s);
    const timespec timeout = {timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000};
    const int signal = ::sigtimedwait(&set, nullptr, &timeout);
    scale_asked_ |= signal == SIGUSR1;
    return signal == SIGTERM || signal == SIGINT || signal == SIGHUP ? signal : 0;
  }

  int64_t NextWakeUs() const {
    int64_t next = kDrainLookUs;
    for (const Process& p : processes_) {
      if (p.state.pid == 0) next = std::min(next, p.restart_at_us - NowUs());
    }
    return std::max<int64_t>(next, 0);
  }

  bool OnDeath(pid_t pid, int status) {
    for (Process& p : processes_) {
      if (p.state.pid != pid) continue;
      const int64_t now = NowUs();
      if (p.leaving) {
        say_(p.state.name + " left");
        std::erase_if(processes_, [pid](const Process& q) { return q.state.pid == pid; });
        return true;
      }
      if (now - p.started_us > kSteadyAfterUs) p.backoff_us = kBackoffMinUs;
      p.state.pid = 0;
      p.restart_at_us = now + p.backoff_us;
      say_(absl::StrCat(p.state.name, " died (", DescribeExit(status), "), next start in ",
                        p.backoff_us / 1000, " ms; log: ", p.state.log));
      p.backoff_us = std::min(2 * p.backoff_us, kBackoffMaxUs);
      return true;
    }
    return false;
  }

  // Without room for the file the cluster goes on, and the file is written when there is some.
  void SaveState() {
    state_.processes.clear();
    for (const Process& p : processes_) state_.processes.push_back(p.state);
    const absl::Status saved = WriteClusterState(options_.state_dir, state_);
    if (saved.ok() == unsaved_) {
      say_(saved.ok() ? "cluster.json is written again"
                      : absl::StrCat(std::string(saved.message()),
                                     "; 'tutti status' shows old pids until there is room"));
    }
    unsaved_ = !saved.ok();
  }

  void WatchAll(FrozenWatch* watch) {
    std::vector<FrozenWatch::Watched> all;
    for (const Process& p : processes_) {
      if (p.state.pid == 0 || p.leaving) continue;
      all.push_back({static_cast<pid_t>(p.state.pid), p.state.address, p.state.kind == "gateway"});
    }
    watch->Watch(std::move(all));
  }

  // Its death is noticed as any other, and it is started again.
  void Kill(const FrozenWatch::Frozen& frozen) {
    for (const Process& p : processes_) {
      if (p.state.pid != frozen.pid) continue;
      say_(absl::StrCat(p.state.name, " is frozen (", frozen.why, "): killed"));
      ::kill(frozen.pid, SIGKILL);
    }
  }

  // Gateway first, so that no new request comes; then the router, whose streams the workers see
  // end.
  void EndAll() {
    bool kill_now = false;
    const int64_t deadline = NowUs() + static_cast<int64_t>(options_.grace_s * 1e6);
    for (const char* kinds : {"gateway", "router", ""}) {
      const auto chosen = [&](const Process& p) {
        return p.state.pid != 0 && (*kinds == 0 || p.state.kind == kinds);
      };
      for (Process& p : processes_) {
        if (chosen(p)) ::kill(p.state.pid, kill_now ? SIGKILL : SIGTERM);
      }
      bool killed = kill_now;
      while (std::any_of(processes_.begin(), processes_.end(), chosen)) {
        int status = 0;
        while (const pid_t pid = ::waitpid(-1, &status, WNOHANG)) {
          if (pid < 0) break;
          for (Process& p : processes_) {
            if (p.state.pid == pid) p.state.pid = 0;
          }
        }
        kill_now |= NowUs() > deadline;
        if (kill_now && !killed) {
          killed = true;
          for (Process& p : processes_) {
            if (chosen(p)) ::kill(p.state.pid, SIGKILL);
          }
        }
        if (std::any_of(processes_.begin(), processes_.end(), chosen))
          kill_now |= WaitSignal(20'000) > 0;
      }
    }
  }

  ClusterOptions options_;
  std::function<void(const std::string&)> say_;
  std::unique_ptr<StateLock> lock_;
  HeldPort http_port_, grpc_port_;
  std::string socket_dir_;
  std::vector<Process> processes_;
  ClusterState state_;
  bool scale_asked_ = false;
  bool unsaved_ = false;  // cluster.json is older than what runs
};

}  // namespace

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(
    const ClusterOptions& options, std::function<void(const std::string&)> say) {
  auto s = std::make_unique<SupervisorImpl>(options, std::move(say));
  TUTTI_RETURN_IF_ERROR(s->Init());
  return s;
}

}  // namespace tutti::cli
