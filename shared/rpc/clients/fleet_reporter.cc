#include "shared/rpc/clients/fleet_reporter.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/log.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::rpc {
namespace {

using Clock = std::chrono::steady_clock;
using fleet::v1::FleetDirective;
using fleet::v1::FleetService;
using fleet::v1::WorkerReport;
using std::chrono::milliseconds;

constexpr milliseconds kFirstBackoff{50}, kMaxBackoff{1000}, kNudgeGap{20};

class ReporterImpl;

// One stream to one router; a new object for every attempt.
class Link final : public grpc::ClientBidiReactor<WorkerReport, FleetDirective> {
 public:
  Link(ReporterImpl* owner, FleetService::Stub* stub);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void Cancel() { context_.TryCancel(); }
  // The owner's mutex is held.
  void ReportLocked(const WorkerReport& report);
  bool idle() const { return !writing_ && !read_ended_; }

  // Guarded by the owner's mutex.
  bool writing_ = false, read_ended_ = false, joined_ = false, done_ = false;
  bool draining_ = false;  // the router said so: another one may take over its address
  milliseconds interval_;
  grpc::Status status_;

 private:
  ReporterImpl* const owner_;
  grpc::ClientContext context_;
  WorkerReport report_;
  FleetDirective directive_;
};

struct Router {
  std::string address;
  std::unique_ptr<FleetService::Stub> stub;
  std::unique_ptr<Link> link;
  Clock::time_point next_attempt, next_report;
  milliseconds backoff = kFirstBackoff;
  bool report_now = false;
  bool complained = false;
  bool draining = false;  // `link` is to a router that drains; nothing comes after it
};

class ReporterImpl final : public FleetReporter {
 public:
  ReporterImpl(const FleetReporterOptions& options, std::vector<Router> routers,
               WorkerReport identity, std::function<fleet::v1::WorkerLoad()> load)
      : interval_(options.report_interval_ms),
        routers_(std::move(routers)),
        identity_(std::move(identity)),
        load_(std::move(load)),
        extend_(options.extend),
        on_assign_(options.on_assign) {
    if (!routers_.empty()) thread_ = std::thread([this] { Run(); });
  }

  ~ReporterImpl() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      for (Router& router : routers_) {
        if (router.link != nullptr) router.link->Cancel();
      }
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  void SetState(fleet::v1::WorkerState state) override {
    std::lock_guard lock(mutex_);
    state_ = state;
    ReportSoonLocked(true);
  }
  void SetIdentity(WorkerReport identity) override {
    std::lock_guard lock(mutex_);
    identity_ = std::move(identity);
    ReportSoonLocked(true);
  }
  void Nudge() override {
    std::lock_guard lock(mutex_);
    ReportSoonLocked(false);
  }
  int num_joined() const override {
    std::lock_guard lock(mutex_);
    return static_cast<int>(std::count_if(routers_.begin(), routers_.end(), [](const Router& r) {
      return !r.draining && r.link != nullptr && r.link->joined_ && !r.link->done_;
    }));
  }

 private:
  friend class Link;

  void ReportSoonLocked(bool at_once) {
    for (Router& router : routers_) {
      if (at_once) {
        router.report_now = true;
      } else {
        router.next_report = std::min(router.next_report, Clock::now() + kNudgeGap);
      }
    }
    wake_.notify_all();
  }

  WorkerReport MakeReport(std::unique_lock<std::mutex>* lock) {
    WorkerReport report = identity_;
    report.set_state(state_);
    lock->unlock();  // the callback may take its time, or call us
    *report.mutable_load() = load_();
    if (extend_) extend_(&report);
    lock->lock();
    return report;
  }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      bool all_done = true;
      auto next = Clock::now() + std::chrono::seconds(10);
      for (Router& router : routers_) {
        Tend(&router, &lock);
        if (router.link != nullptr) all_done = false;
        if (stopping_) continue;  // only ends are awaited, and they notify, as ends of writes do
        if (router.link == nullptr) {
          if (router.draining) continue;
          next = std::min(next, router.next_attempt);
        } else if (router.link->idle()) {
          next = std::min(next, router.next_report);
        }
      }
      if (stopping_ && all_done) return;
      HandOver();
      if (std::any_of(routers_.begin(), routers_.end(), [&](const Router& r) { return Due(r); })) {
        continue;
      }
      wake_.wait_until(lock, next);
    }
  }

  // The stream of a router that drains moves into an entry of its own, where it lasts as long as
  // the router wants, and the router's address is joined again.
  void HandOver() {
    std::erase_if(routers_, [](const Router& r) { return r.draining && r.link == nullptr; });
    for (size_t i = 0, n = routers_.size(); i < n && !stopping_; ++i) {
      Router& router = routers_[i];
      if (router.draining || router.link == nullptr || !router.link->draining_) continue;
      Router old;
      old.address = router.address;
      old.draining = true;
      old.link = std::move(router.link);
      old.next_report = router.next_report;
      router.backoff = kFirstBackoff;
      router.next_attempt = Clock::now() + router.backoff;
      routers_.push_back(std::move(old));
    }
  }

  // The first router that is joined is the one to obey.
  bool LeadsLocked(const Link* link) const {
    for (const Router& r : routers_) {
      if (r.draining || r.link == nullptr || r.link->draining_) continue;
      if (r.link->joined_ && !r.link->done_) return r.link.get() == link;
    }
    return false;
  }

  // Something can be done for this router right now.
  bool Due(const Router& router) const {
    if (router.link == nullptr)
      return !stopping_ && !router.draining && Clock::now() >= router.next_attempt;
    if (router.link->done_) return true;
    return !stopping_ && router.link->idle() &&
           (router.report_now || Clock::now() >= router.next_report);
  }

  void Tend(Router* router, std::unique_lock<std::mutex>* lock) {
    if (router->link != nullptr && router->link->done_) Lost(router);
    if (!Due(*router)) return;
    // Before the report is made: what changes while it is being made asks for another one.
    router->report_now = false;
    router->next_report =
        Clock::now() + (router->link == nullptr ? interval_ : router->link->interval_);
    const WorkerReport report = MakeReport(lock);
    if (stopping_) return;
    if (router->link == nullptr) {
      router->link = std::make_unique<Link>(this, router->stub.get());
      router->link->interval_ = interval_;
      router->link->ReportLocked(report);
      router->link->StartCall();
    } else if (router->link->idle()) {
      router->link->ReportLocked(report);
    }  // else it has ended meanwhile, and the next one begins with a report
  }

  void Lost(Router* router) {
    if (router->link->joined_) router->backoff = kFirstBackoff;
    if (!stopping_ && (router->link->joined_ || !router->complained)) {
      telemetry::Log(
          telemetry::Level::kWarning, "fleet/lost",
          {{"router", router->address}, {"error", FromGrpc(router->link->status_).ToString()}});
      router->complained = true;
    }
    router->link.reset();
    router->next_attempt = Clock::now() + router->backoff;
    router->backoff = std::min(router->backoff * 2, kMaxBackoff);
  }

  const milliseconds interval_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Router> routers_;
  WorkerReport identity_;
  fleet::v1::WorkerState state_ = fleet::v1::WORKER_STATE_STARTING;
  const std::function<fleet::v1::WorkerLoad()> load_;
  const std::function<void(WorkerReport*)> extend_;
  const std::function<void(const fleet::v1::ExpertAssignment&)> on_assign_;
  bool stopping_ = false;
  std::thread thread_;
};

Link::Link(ReporterImpl* owner, FleetService::Stub* stub) : owner_(owner) {
  stub->async()->Join(&context_, this);
  AddHold();  // for the reports, which start outside of reactions; released when reading ends
  StartRead(&directive_);
}

void Link::ReportLocked(const WorkerReport& report) {
  report_ = report;
  writing_ = true;
  StartWrite(&report_);
}

void Link::OnReadDone(bool ok) {
  bool obey = false;
  {
    std::lock_guard lock(owner_->mutex_);
    if (ok) {
      if (!joined_) {
        joined_ = true;
        telemetry::Log(telemetry::Level::kInfo, "fleet/joined", {});
      }
      if (const uint32_t ms = directive_.report_interval_ms(); ms > 0) {
        interval_ = milliseconds(std::clamp<uint32_t>(ms, 50, 10000));
      }
      if (directive_.draining() && !std::exchange(draining_, true)) owner_->wake_.notify_all();
      obey = directive_.has_assign() && owner_->on_assign_ && owner_->LeadsLocked(this);
    } else {
      read_ended_ = true;
    }
  }
  if (obey) owner_->on_assign_(directive_.assign());
  if (ok) {
    StartRead(&directive_);
  } else {
    RemoveHold();
  }
}

void Link::OnWriteDone(bool) {
  std::lock_guard lock(owner_->mutex_);
  writing_ = false;
  owner_->wake_.notify_all();
}

void Link::OnDone(const grpc::Status& status) {
  std::lock_guard lock(owner_->mutex_);
  status_ = status;
  done_ = true;
  owner_->wake_.notify_all();  // the reporter's thread deletes this, once it has the mutex
}

}  // namespace

absl::StatusOr<std::unique_ptr<FleetReporter>> FleetReporter::Start(
    const FleetReporterOptions& options, WorkerReport identity,
    std::function<fleet::v1::WorkerLoad()> load) {
  std::vector<Router> routers;
  for (const std::string& address : options.routers) {
    ChannelOptions channel_options;
    channel_options.tls = options.tls;
    TUTTI_ASSIGN_OR_RETURN(auto channel, OpenChannel(address, channel_options));
    Router router;
    router.address = address;
    router.stub = FleetService::NewStub(channel);
    routers.push_back(std::move(router));
  }
  return std::unique_ptr<FleetReporter>(std::make_unique<ReporterImpl>(
      options, std::move(routers), std::move(identity), std::move(load)));
}

std::string MakeWorkerId(const std::string& kind) {
  char host[256] = "host";
  gethostname(host, sizeof(host) - 1);
  char tail[8];
  snprintf(tail, sizeof(tail), "%04x", std::random_device()() & 0xFFFFu);
  return kind + "-" + host + "-" + std::to_string(getpid()) + "-" + tail;
}

int64_t ResidentBytes() {
  long long total = 0, resident = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  const int n = fscanf(file, "%lld %lld", &total, &resident);
  fclose(file);
  return n == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace tutti::rpc
