// Who may call the services that only processes of the cluster call: workers' services, and the
// routers' FleetService. docs/security.md has the whole picture.
//
// Such a listener is a unix socket (0600: the folder's and the socket's owner), or TCP where every
// caller shows a certificate (mTLS) or the cluster's token. The token travels as metadata
// "tutti-cluster-token" of every call and is compared in constant time, below gRPC's handlers: a
// service cannot forget to ask. Health (grpc.health.v1) answers without it.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/client_interceptor.h>

#include <memory>
#include <string>

#include "shared/base/status.h"
#include "shared/rpc/options.h"

namespace tutti::rpc {

inline constexpr char kClusterTokenKey[] = "tutti-cluster-token";

// Whether whoever connects to each of `options.listen` is known to belong to the cluster.
// Errors: INVALID_ARGUMENT  one is TCP without a token, mTLS or --insecure-cluster; the message
// says what to give. `listen_flag` names the flag of the addresses.
absl::Status CheckClusterListener(const ServiceOptions& options, const char* listen_flag);

// Plain credentials of a TCP port that refuse calls without this token (UNAUTHENTICATED).
std::shared_ptr<grpc::ServerCredentials> TokenServerCredentials(const std::string& token);
// Makes TLS credentials ask for the token, too.
void RequireToken(const std::string& token, grpc::ServerCredentials* credentials);

// Adds the token to every call of a channel.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> TokenInterceptor(
    const std::string& token);

// Calls refused for their token since the process started.
int64_t NumTokenRefusals();

}  // namespace tutti::rpc
