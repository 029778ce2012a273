#include "services/router/fleet_service.h"

#include "shared/rpc/status.h"
#include "shared/wire/fleet.h"

namespace tutti::router {
namespace {

using fleet::v1::FleetDirective;

// One worker's stream. Its end, for any reason, is the worker's death notice.
class JoinStream final : public grpc::ServerBidiReactor<fleet::v1::WorkerReport, FleetDirective>,
                         public WorkerLink {
 public:
  explicit JoinStream(Core* core) : core_(core) {
    core_->Run([&](Router&, int64_t, Actions*) { handle_ = core_->AddWorkerLocked(this); });
    StartRead(&report_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Leave(absl::OkStatus());
    const router::WorkerReport report = wire::ReportFromProto(report_);
    const absl::Status status = core_->Run([&](Router& r, int64_t now, Actions* a) {
      return closed_ ? absl::OkStatus() : r.OnReport(handle_, report, now, a);
    });
    if (!status.ok()) return Leave(status);
    core_->Run([&](Router&, int64_t, Actions*) {
      if (!closed_) StartRead(&report_);
    });
  }
  void OnWriteDone(bool ok) override {
    core_->Run([&](Router&, int64_t, Actions*) {
      writing_ = false;
      if (ok && pending_ && !closed_) Write();
    });
  }
  void OnCancel() override { Leave(absl::CancelledError("the worker went away")); }
  void OnDone() override {
    Leave(absl::OkStatus());
    delete this;
  }

  // WorkerLink, with the core's lock held.
  void Send(uint64_t epoch, uint32_t report_interval_ms) override {
    next_.set_epoch(epoch);
    next_.set_report_interval_ms(report_interval_ms);
    pending_ = true;
    if (!writing_ && !closed_) Write();
  }
  void Close(const absl::Status& status) override {
    if (closed_) return;
    closed_ = true;
    Finish(rpc::ToGrpc(status));
  }

 private:
  void Write() {
    pending_ = false;
    writing_ = true;
    directive_ = next_;
    StartWrite(&directive_);
  }
  void Leave(const absl::Status& status) {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      if (!left_) {
        left_ = true;
        core_->RemoveWorkerLocked(handle_);
        r.OnWorkerClosed(handle_, now, a);
      }
      Close(status);
    });
  }

  Core* const core_;
  WorkerHandle handle_ = 0;
  fleet::v1::WorkerReport report_;
  FleetDirective directive_, next_;
  bool writing_ = false, pending_ = false, closed_ = false, left_ = false;
};

}  // namespace

grpc::ServerBidiReactor<fleet::v1::WorkerReport, FleetDirective>* FleetService::Join(
    grpc::CallbackServerContext*) {
  return new JoinStream(core_);
}

grpc::ServerUnaryReactor* FleetService::GetFleet(grpc::CallbackServerContext* context,
                                                 const fleet::v1::GetFleetRequest*,
                                                 fleet::v1::GetFleetResponse* response) {
  core_->Read([&](const Router& r) {
    response->set_epoch(r.fleet().epoch());
    for (WorkerView& w : r.fleet().View()) {
      if (w.suspect) w.report.state = WorkerState::kDead;
      wire::ReportToProto(w.report, response->add_workers());
    }
    return 0;
  });
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace tutti::router
