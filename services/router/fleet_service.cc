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
    const absl::StatusOr<router::WorkerReport> report = wire::ReportFromProto(report_);
    if (!report.ok()) return Leave(report.status());
    const absl::Status status = core_->Run([&](Router& r, int64_t now, Actions* a) {
      return closed_ ? absl::OkStatus() : r.OnReport(handle_, *report, now, a);
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
  void Send(const action::Directive& directive) override {
    next_.set_epoch(directive.epoch);
    next_.set_report_interval_ms(directive.report_interval_ms);
    next_.set_draining(directive.draining);
    if (directive.assign != nullptr) {
      next_.clear_assign();
      wire::AssignmentToProto(*directive.assign, next_.mutable_assign());
    }
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
    next_.clear_assign();  // once is enough
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
                                                 const fleet::v1::GetFleetRequest* request,
                                                 fleet::v1::GetFleetResponse* response) {
  std::vector<WorkerView> workers;
  std::vector<placement::ExpertPlacement> placements;
  core_->Read([&](const Router& r) {
    response->set_epoch(r.fleet().epoch());
    workers = r.fleet().View();
    placements = r.fleet().experts().Placements(request->placement_epoch());
    return 0;
  });
  for (WorkerView& w : workers) {
    if (w.suspect) w.report.state = WorkerState::kDead;
    wire::ReportToProto(w.report, request->with_experts(), response->add_workers());
  }
  for (const auto& p : placements) wire::PlacementToProto(p, response->add_placements());
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* FleetService::PinExperts(grpc::CallbackServerContext* context,
                                                   const fleet::v1::PinExpertsRequest* request,
                                                   fleet::v1::PinExpertsResponse* response) {
  std::vector<ExpertFleet::PinRequest> pins;
  for (const fleet::v1::ExpertPin& p : request->pins())
    pins.push_back({p.moe_layer(), p.expert_id(), p.worker_id()});
  const auto placement = core_->Run([&](Router& r, int64_t now, Actions* a) {
    return r.fleet().PinExperts(request->fingerprint(), pins, request->unpin(), now, a);
  });
  if (placement.ok()) {
    fleet::v1::ExpertPlacement all;
    placement::ExpertPlacement only_pins = *placement;
    only_pins.copies.clear();
    wire::PlacementToProto(only_pins, &all);
    response->mutable_pins()->Swap(all.mutable_pins());
  }
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(placement.status()));
  return reactor;
}

}  // namespace tutti::router
