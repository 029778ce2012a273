// grpc.health.v1.Health with the callback API.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"

namespace tutti::rpc {

// Answers NOT_SERVING for every registered name until SetServing. (gRPC's own default service says
// SERVING from the first moment, so that a starting process would look ready for an instant.)
// Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService();
  ~HealthService() override;

  // Makes `service` known; "" (the whole process) always is.
  void Register(const std::string& service);
  // Sets all names at once and tells every watcher.
  void SetServing(bool serving);
  bool serving() const;
  // Ends the watchers' streams, after telling them NOT_SERVING; later ones are ended at once.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::health::v1::HealthListRequest* request,
                                 grpc::health::v1::HealthListResponse* response) override;

 private:
  class Watcher;
  grpc::health::v1::HealthCheckResponse::ServingStatus StatusLocked(const std::string& name) const;

  mutable std::mutex mutex_;
  std::set<std::string> names_;
  bool serving_ = false, shutdown_ = false;
  std::set<Watcher*> watchers_;
};

}  // namespace tutti::rpc
