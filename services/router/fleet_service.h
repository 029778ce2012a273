// tutti.fleet.v1.FleetService over the core.
#pragma once

#include "services/router/core.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"

namespace tutti::router {

class FleetService final : public fleet::v1::FleetService::CallbackService {
 public:
  explicit FleetService(Core* core) : core_(core) {}

  grpc::ServerBidiReactor<fleet::v1::WorkerReport, fleet::v1::FleetDirective>* Join(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetFleet(grpc::CallbackServerContext* context,
                                     const fleet::v1::GetFleetRequest* request,
                                     fleet::v1::GetFleetResponse* response) override;
  grpc::ServerUnaryReactor* PinExperts(grpc::CallbackServerContext* context,
                                       const fleet::v1::PinExpertsRequest* request,
                                       fleet::v1::PinExpertsResponse* response) override;

 private:
  Core* const core_;
};

}  // namespace tutti::router
