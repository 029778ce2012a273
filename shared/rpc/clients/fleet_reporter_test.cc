#include "shared/rpc/clients/fleet_reporter.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "shared/rpc/server.h"
#include "shared/rpc/worker.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::rpc {
namespace {

using fleet::v1::FleetDirective;
using fleet::v1::FleetService;
using fleet::v1::WorkerReport;
using namespace std::chrono_literals;

// Keeps all reports; answers the first one of a stream with a directive.
class RouterService final : public FleetService::Service {
 public:
  grpc::Status Join(grpc::ServerContext*,
                    grpc::ServerReaderWriter<FleetDirective, WorkerReport>* stream) override {
    ++joins;
    WorkerReport report;
    bool first = true;
    while (stream->Read(&report)) {
      if (std::exchange(first, false)) {
        FleetDirective directive;
        directive.set_epoch(1);
        directive.set_report_interval_ms(interval_ms);
        stream->Write(directive);
      }
      if (draining) {
        FleetDirective directive;
        directive.set_draining(true);
        stream->Write(directive);
      }
      std::lock_guard lock(mutex);
      reports.push_back(report);
      changed.notify_all();
    }
    ++leaves;
    return grpc::Status::OK;
  }
  template <typename F>
  bool WaitFor(F condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 60s, [&] { return condition(reports); });
  }
  bool WaitForState(fleet::v1::WorkerState state) {
    return WaitFor([&](auto& r) { return !r.empty() && r.back().state() == state; });
  }

  uint32_t interval_ms = 0;
  std::atomic<bool> draining{false};  // tells so after each report
  std::atomic<int> joins{0}, leaves{0};
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<WorkerReport> reports;
};

template <typename F>
bool Eventually(F condition) {
  const auto until = std::chrono::steady_clock::now() + 60s;
  while (!condition() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(5ms);
  return condition();
}

class FleetReporterTest : public ::testing::Test {
 protected:
  FleetReporterTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tutti-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    identity_.set_worker_id("w1");
    identity_.set_kind(fleet::v1::WORKER_KIND_TARGET);
  }
  ~FleetReporterTest() override { std::filesystem::remove_all(folder_); }
  std::string Address(const std::string& name) { return "unix:" + folder_ + "/" + name; }
  std::unique_ptr<Server> StartRouter(const std::string& name, RouterService* service) {
    ServiceOptions options;
    options.listen = {Address(name)};
    options.drain_grace_s = 0;
    auto server = Server::Start(options, {service});
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  std::unique_ptr<FleetReporter> StartReporter(FleetReporterOptions options) {
    auto reporter = FleetReporter::Start(options, identity_, [this] {
      fleet::v1::WorkerLoad load;
      load.set_running(++asked_);
      return load;
    });
    EXPECT_TRUE(reporter.ok());
    return *std::move(reporter);
  }

  std::string folder_;
  WorkerReport identity_;
  std::atomic<int> asked_{0};
};

TEST_F(FleetReporterTest, EveryRouterHearsOfStateChangesAtOnce) {
  RouterService a, b;
  auto server_a = StartRouter("a", &a), server_b = StartRouter("b", &b);
  auto reporter =
      StartReporter({.routers = {Address("a"), Address("b")}, .report_interval_ms = 60000});
  for (auto* router : {&a, &b}) {
    ASSERT_TRUE(router->WaitForState(fleet::v1::WORKER_STATE_STARTING));
    EXPECT_EQ(router->reports[0].worker_id(), "w1");
    EXPECT_GT(router->reports[0].load().running(), 0);
  }
  auto identity = identity_;
  identity.set_fingerprint(99);
  reporter->SetIdentity(identity);
  reporter->SetState(fleet::v1::WORKER_STATE_READY);
  for (auto* router : {&a, &b}) {
    ASSERT_TRUE(router->WaitForState(fleet::v1::WORKER_STATE_READY));
    std::lock_guard lock(router->mutex);
    EXPECT_EQ(router->reports.back().fingerprint(), 99u);
  }
}

TEST_F(FleetReporterTest, AChangeWhileAReportIsBeingMadeIsReportedNext) {
  RouterService router;
  auto server = StartRouter("a", &router);
  std::promise<void> asked, changed;
  std::atomic<int> calls{0};
  auto reporter = FleetReporter::Start({.routers = {Address("a")}, .report_interval_ms = 60000},
                                       identity_, [&] {
                                         if (++calls == 1) {
                                           asked.set_value();
                                           changed.get_future().wait();
                                         }
                                         return fleet::v1::WorkerLoad();
                                       });
  ASSERT_TRUE(reporter.ok());
  asked.get_future().wait();
  (*reporter)->SetState(fleet::v1::WORKER_STATE_READY);
  changed.set_value();
  EXPECT_TRUE(router.WaitForState(fleet::v1::WORKER_STATE_READY));
  std::lock_guard lock(router.mutex);
  EXPECT_EQ(router.reports[0].state(), fleet::v1::WORKER_STATE_STARTING);
}

// The reporter's own interval is two seconds, the router asks for a twentieth of one: 40 reports
// would take longer than the test waits, or no time at all if the reporter did not pause.
TEST_F(FleetReporterTest, ReportsComeAsOftenAsTheRouterAsks) {
  constexpr int kReports = 40;
  RouterService router;
  router.interval_ms = 50;
  auto server = StartRouter("a", &router);
  const auto start = std::chrono::steady_clock::now();
  auto reporter = StartReporter({.routers = {Address("a")}, .report_interval_ms = 2000});
  EXPECT_TRUE(router.WaitFor([](auto& r) { return r.size() >= kReports; }));
  // The first pause is the reporter's own; the router's answer is heard in the meantime.
  EXPECT_GE(std::chrono::steady_clock::now() - start, 2s + (kReports - 2) * 50ms);
}

TEST_F(FleetReporterTest, ADrainingRouterHearsReportsBesideTheNextOne) {
  RouterService old, next;
  old.interval_ms = next.interval_ms = 50;
  auto server = StartRouter("a", &old);
  auto reporter = StartReporter({.routers = {Address("a")}});
  ASSERT_TRUE(Eventually([&] { return reporter->num_joined() == 1; }));
  old.draining = true;
  // The old router's socket is closed, its streams go on, as Server::Drain does with a grace.
  std::filesystem::remove(folder_ + "/a");
  auto next_server = StartRouter("a", &next);
  // The connection to the old router still stands: only a new one leads to the next.
  ASSERT_TRUE(Eventually([&] { return old.joins + next.joins > 1; }));
  size_t before = 0;
  {
    std::lock_guard lock(old.mutex);
    before = old.reports.size();
  }
  EXPECT_TRUE(old.WaitFor([&](auto& r) { return r.size() > before + 2; }));
  EXPECT_EQ(old.leaves, 0);
}

TEST_F(FleetReporterTest, ARouterThatComesBackIsJoinedAgain) {
  RouterService router, second;
  auto server = StartRouter("a", &router);
  auto reporter = StartReporter({.routers = {Address("a")}});
  reporter->SetState(fleet::v1::WORKER_STATE_READY);
  ASSERT_TRUE(router.WaitForState(fleet::v1::WORKER_STATE_READY));
  server.reset();
  ASSERT_TRUE(Eventually([&] { return reporter->num_joined() == 0; }));
  server = StartRouter("a", &second);
  EXPECT_TRUE(second.WaitForState(fleet::v1::WORKER_STATE_READY));
}

TEST_F(FleetReporterTest, TheEndOfTheReporterIsTheEndOfItsStream) {
  RouterService router;
  auto server = StartRouter("a", &router);
  auto reporter = StartReporter({.routers = {Address("a"), Address("nobody-there")}});
  ASSERT_TRUE(router.WaitFor([](auto& r) { return !r.empty(); }));
  reporter.reset();
  EXPECT_TRUE(Eventually([&] { return router.leaves == 1; }));
}

TEST_F(FleetReporterTest, ARouterThatIsNotThereCostsLittle) {
  const auto start = std::chrono::steady_clock::now();
  auto reporter = StartReporter({.routers = {Address("nobody-there")}});
  ASSERT_TRUE(Eventually([&] { return asked_ >= 6; })) << "the reporter should try again";
  // Each attempt waits twice as long as the one before: 50, 100, 200, 400, 800 ms.
  EXPECT_GE(std::chrono::steady_clock::now() - start, 1550ms);
}

TEST_F(FleetReporterTest, NoRoutersIsNoWork) {
  auto reporter = StartReporter({});
  reporter->SetState(fleet::v1::WORKER_STATE_READY);
  reporter->Nudge();
  EXPECT_EQ(asked_, 0);
}

TEST_F(FleetReporterTest, AWorkerGoesFromStartingToReadyToDraining) {
  RouterService router;
  auto server = StartRouter("a", &router);
  WorkerOptions options;
  options.service.listen = {Address("worker")};
  options.service.drain_grace_s = 0;
  options.routers = {Address("a")};
  options.worker_id = "w2";
  RouterService service;  // any service will do
  telemetry::Metrics metrics;
  std::promise<void> go;
  WorkerSpec spec;
  spec.name = "test";
  spec.kind = fleet::v1::WORKER_KIND_TOKENIZER;
  spec.services = {&service};
  spec.load = [&]() -> absl::StatusOr<WorkerSpec::Served> {
    go.get_future().wait();
    return WorkerSpec::Served{"m", 1, 2};
  };
  spec.report_load = [] { return fleet::v1::WorkerLoad(); };
  auto worker = Worker::Start(options, &metrics, spec);
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_TRUE(router.WaitForState(fleet::v1::WORKER_STATE_STARTING));
  go.set_value();
  ASSERT_TRUE((*worker)->WaitReady().ok());
  ASSERT_TRUE(router.WaitForState(fleet::v1::WORKER_STATE_READY));
  {
    std::lock_guard lock(router.mutex);
    EXPECT_EQ(router.reports.back().worker_id(), "w2");
    EXPECT_EQ(router.reports.back().address(), Address("worker"));
    EXPECT_EQ(router.reports.back().model(), "m");
    EXPECT_EQ(router.reports.back().tokenizer_fingerprint(), 2u);
    EXPECT_EQ(router.reports.back().pid(), getpid());
  }
  (*worker)->server().Drain();
  EXPECT_TRUE(router.WaitForState(fleet::v1::WORKER_STATE_DRAINING));
}

}  // namespace
}  // namespace tutti::rpc
