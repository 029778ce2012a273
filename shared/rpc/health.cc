#include "shared/rpc/health.h"

#include "shared/base/strings.h"
#include "shared/rpc/status.h"

namespace tutti::rpc {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch stream. It writes the latest status whenever that differs from the last one written; a
// status that comes and goes while a write is under way may be skipped, the last one never is.
// All members are guarded by the service's mutex.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* service, std::string name) : service_(service), name_(std::move(name)) {
    std::lock_guard lock(service_->mutex_);
    service_->watchers_.insert(this);
    UpdateLocked();
  }

  void UpdateLocked() {
    if (writing_ || finished_) return;
    const auto status = service_->StatusLocked(name_);
    if (status != written_) {
      written_ = status;
      response_.set_status(status);
      writing_ = true;
      StartWrite(&response_);
    } else if (service_->shutdown_) {
      FinishLocked(ToGrpc(absl::UnavailableError("shutting down")));
    }
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(service_->mutex_);
    writing_ = false;
    if (ok) {
      UpdateLocked();
    } else {
      FinishLocked(grpc::Status::CANCELLED);
    }
  }
  void OnCancel() override {
    std::lock_guard lock(service_->mutex_);
    FinishLocked(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    {
      std::lock_guard lock(service_->mutex_);
      service_->watchers_.erase(this);
    }
    delete this;
  }

 private:
  void FinishLocked(const grpc::Status& status) {
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  HealthService* const service_;
  const std::string name_;
  HealthCheckResponse response_;
  HealthCheckResponse::ServingStatus written_ = HealthCheckResponse::UNKNOWN;
  bool writing_ = false, finished_ = false;
};

HealthService::HealthService() { names_.insert(""); }
HealthService::~HealthService() = default;

void HealthService::Register(const std::string& service) {
  std::lock_guard lock(mutex_);
  names_.insert(service);
  for (Watcher* watcher : watchers_) watcher->UpdateLocked();
}

void HealthService::SetServing(bool serving) {
  std::lock_guard lock(mutex_);
  serving_ = serving && !shutdown_;
  for (Watcher* watcher : watchers_) watcher->UpdateLocked();
}

bool HealthService::serving() const {
  std::lock_guard lock(mutex_);
  return serving_;
}

void HealthService::Shutdown() {
  std::lock_guard lock(mutex_);
  serving_ = false;
  shutdown_ = true;
  for (Watcher* watcher : watchers_) watcher->UpdateLocked();
}

HealthCheckResponse::ServingStatus HealthService::StatusLocked(const std::string& name) const {
  if (names_.count(name) == 0) return HealthCheckResponse::SERVICE_UNKNOWN;
  return serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  auto* reactor = context->DefaultReactor();
  HealthCheckResponse::ServingStatus status;
  {
    std::lock_guard lock(mutex_);
    status = StatusLocked(request->service());
  }
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(
        ToGrpc(absl::NotFoundError("no service \"" + Printable(request->service()) + "\" here")));
  } else {
    response->set_status(status);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  return new Watcher(this, request->service());
}

grpc::ServerUnaryReactor* HealthService::List(grpc::CallbackServerContext* context,
                                              const grpc::health::v1::HealthListRequest*,
                                              grpc::health::v1::HealthListResponse* response) {
  {
    std::lock_guard lock(mutex_);
    for (const std::string& name : names_)
      (*response->mutable_statuses())[name].set_status(StatusLocked(name));
  }
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace tutti::rpc
