// grpc.reflection.v1 beside gRPC's own v1alpha.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grpc/reflection/v1/reflection.pb.h"

namespace tutti::rpc {

// Adds the service to every server that is built in this process from now on. Call it once, before
// the first builder.
void InitReflectionV1();

// The answer to one request, over the messages that are linked into this process. `services`: names
// of those that the server has.
grpc::reflection::v1::ServerReflectionResponse Reflect(
    const grpc::reflection::v1::ServerReflectionRequest& request,
    const std::vector<std::string>& services);

}  // namespace tutti::rpc
